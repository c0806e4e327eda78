"""``aiter``: what an engine needs around the kernels works, the kernels are placeholders.

The modules and names are those of the recorded surface, so what aiter lacks is lacking here.
Working: the parallel groups (`aiter_parallel`), ``shm_broadcast.MessageQueue``
(`aiter_messages`), dtypes (which import torch when they are asked for), enums, the logger, and
what modules call while they are imported. Every other function and class is a placeholder that can
be imported, inspected and passed on, and raises `PlaceholderCalled` when it is called. Constants of
compute modules are left out.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Collection
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from pd_testkit.stubs import aiter_messages, aiter_parallel
from pd_testkit.stubs.pybind import pybind_enum
from pd_testkit.stubs.strict import StrictModule, placeholder, placeholder_class
from pd_testkit.stubs.surface import Entry, Surface, aliases, recorded

if TYPE_CHECKING:
    from pd_testkit.stubs.install import StubContext

_F = TypeVar("_F", bound=Callable[..., Any])

GFX = "gfx942"
"""The GPU that the stub says it runs on: an MI300X."""
COMPUTE_UNITS = 304

_DTYPES = {
    **{"i4x2": "uint8", "fp4x2": "float4_e2m1fn_x2", "fp8": "float8_e4m3fnuz"},
    **{"fp8_e8m0": "float8_e8m0fnu", "fp16": "float16", "bf16": "bfloat16", "fp32": "float32"},
    **{"i8": "int8", "u8": "uint8", "i16": "int16", "i32": "int32", "u32": "uint32"},
    **{"i64": "int64", "u64": "uint64"},
}
"""The dtypes by their names in torch; one that an older torch lacks is ``uint8``, as in aiter."""


_LEFT_OUT = {
    "aiter.dist.parallel_state": [
        *("GroupCoordinator.cpu_group", "GroupCoordinator.device_group"),
        *("GroupCoordinator.ca_comm", "GroupCoordinator.pynccl_comm", "GroupCoordinator.qr_comm"),
        *("GroupCoordinator.use_custom_allreduce", "GroupCoordinator.use_pynccl"),
    ],
    "aiter.dist.shm_broadcast": [
        *("MessageQueue.acquire_read", "MessageQueue.acquire_write", "MessageQueue.recv"),
        "MessageQueue.create_from_process_group",
    ],
}
"""Of the classes that work: their process groups and device communicators, and how the real
message queue works inside."""


def left_out() -> dict[str, Collection[str]]:
    """What the recorded surface has and the stub has not, by module: constants, and `_LEFT_OUT`."""
    surface = recorded("aiter")[1]
    return {
        module: [
            *(name for name, entry in names.items() if entry["kind"] in ("value", "module")),
            *_LEFT_OUT.get(module, ()),
        ]
        for module, names in surface.items()
    }


def build(context: StubContext) -> dict[str, ModuleType]:
    """The modules of the recorded surface, by their older names too."""
    surface = recorded("aiter")[1]
    working = _working(context, surface)
    modules: dict[str, StrictModule] = {}
    for name, entries in surface.items():
        module = modules[name] = StrictModule(name, **working.get(name, {}))
        module.__late__ = {
            attribute: partial(_placeholder, name, attribute, entry)
            for attribute, entry in entries.items()
            if attribute not in vars(module) and entry["kind"] in ("function", "class", "enum")
        }
    dtypes = modules["aiter.utility.dtypes"]
    dtypes.__late__.update({name: partial(_dtype, name) for name in _DTYPES})
    dtypes.__late__["d_dtypes"] = lambda: {name: _dtype(name) for name in _DTYPES}
    vars(modules["aiter"])["dtypes"] = dtypes
    modules["aiter.tuned_gemm"].__late__["tgemm"] = lambda: _instance_of(
        modules["aiter.tuned_gemm"].TunedGemm
    )
    return {**modules, **{old: modules[new] for old, new in aliases("aiter").items()}}


def _placeholder(module: str, name: str, entry: Entry) -> Any:
    if entry["kind"] == "enum":
        return pybind_enum(module, name, entry["members"])
    if entry["kind"] == "class":
        fields = [n for n, m in entry["members"].items() if m["kind"] == "value"]
        return placeholder_class(module, name, _methods(entry), fields)
    return placeholder(module, name, entry["signature"])


def _methods(entry: Entry) -> dict[str, str | None]:
    return {n: m["signature"] for n, m in entry["members"].items() if m["kind"] == "function"}


def _instance_of(cls: type) -> Any:
    """An object that aiter makes while it is imported; its methods are placeholders."""
    return object.__new__(cls)


def _dtype(name: str) -> Any:
    torch = importlib.import_module("torch")
    return getattr(torch, _DTYPES[name], torch.uint8)


def _working(context: StubContext, surface: Surface) -> dict[str, dict[str, Any]]:
    """What is more than a placeholder, by module."""
    state = context.parallel
    environment = _environment(state)
    parallel = "aiter.dist.parallel_state"
    methods = _methods(surface[parallel]["GroupCoordinator"])
    coordinator = aiter_parallel.coordinator(
        placeholder_class(parallel, "GroupCoordinator", methods)
    )
    functions = aiter_parallel.functions(state, coordinator)
    return {
        "aiter": {"logger": logging.getLogger("aiter"), **environment},
        parallel: {"GroupCoordinator": coordinator, **functions},
        "aiter.dist.shm_broadcast": {
            "MessageQueue": type(
                "MessageQueue", (aiter_messages.MessageQueue,), {"_closing": context.closing}
            ),
            "Handle": aiter_messages.Handle,
        },
        "aiter.dist.utils": {"get_distributed_init_method": get_distributed_init_method},
        "aiter.jit.utils.chip_info": {
            "get_gfx": get_gfx,
            "get_gfx_runtime": get_gfx_runtime,
            "get_cu_num": get_cu_num,
        },
        "aiter.jit.utils.torch_guard": {"torch_compile_guard": torch_compile_guard},
        "aiter.ops.communication": {
            **environment,
            "set_custom_all_reduce": functions["set_custom_all_reduce"],
        },
    }


def _environment(state: aiter_parallel.ParallelState) -> dict[str, Any]:
    def init_dist_env(
        tensor_model_parallel_size: int,
        rankID: int,  # noqa: N803
        backend: str = "cpu:gloo,cuda:nccl",
        distributed_init_method: str | None = "env://",
        local_rank: int = -1,
        data_parallel_size: int = 1,
        data_parallel_rank: int = 0,
        decode_context_parallel_size: int = 1,
        prefill_context_model_parallel_size: int = 1,
    ) -> None:
        """Sets the ranks that the arguments give; starts no process group."""
        state.start(rankID, data_parallel_size, data_parallel_rank)
        state.divide(
            tp=tensor_model_parallel_size,
            pp=1,
            dcp=decode_context_parallel_size,
            dp=data_parallel_size,
            pcp=prefill_context_model_parallel_size,
        )

    def destroy_dist_env() -> None:
        state.reset()

    return {"init_dist_env": init_dist_env, "destroy_dist_env": destroy_dist_env}


def get_gfx() -> str:
    return GFX


def get_gfx_runtime() -> str:
    return GFX


def get_cu_num() -> int:
    return COMPUTE_UNITS


def get_distributed_init_method(ip: str, port: int) -> str:
    return f"tcp://[{ip}]:{port}" if ":" in ip else f"tcp://{ip}:{port}"


def torch_compile_guard(
    mutates_args: Any = (), device: str = "cpu", calling_func_: Any = None, gen_fake: Any = None
) -> Callable[[_F], _F]:
    """Leaves the function as it is: there is no compiler to guard it from."""

    def keep(function: _F) -> _F:
        return function

    return keep
