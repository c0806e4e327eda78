"""``mori``, ``mori.io`` and ``mori.cpp``: the transfer engine, working on the fabric.

A connector written for mori registers memory (addresses of numpy or ctypes memory, or CPU torch
tensors), exchanges packed descriptors, opens sessions, reads and writes, waits on statuses and
gets inbound notifications; errors are those of RDMA. Engines reach each other within one process,
and between the processes that a parent serves its fabric to.
The allocators for AMD's scale-up fabric need its hardware and are placeholders; the rest of mori
(ops, shmem, ccl and others) is left out.
"""

from __future__ import annotations

from collections.abc import Collection
from types import ModuleType
from typing import TYPE_CHECKING

from pd_testkit.stubs import mori_types as types
from pd_testkit.stubs.mori_engine import (
    TORCH_DEVICE_TYPE_MAP,
    CppSession,
    IOEngineSession,
    engine_classes,
)
from pd_testkit.stubs.mori_status import TransferStatus
from pd_testkit.stubs.strict import StrictModule, placeholder

if TYPE_CHECKING:
    from pd_testkit.stubs.install import StubContext

_BOTH = (
    types.BackendType,
    types.EngineDesc,
    types.FabricBackendConfig,
    types.IOEngineConfig,
    types.MemoryDesc,
    types.MemoryLocationType,
    types.PollCqMode,
    types.RdmaBackendConfig,
    types.StatusCode,
    types.XgmiBackendConfig,
)
"""What ``mori.io`` exports of ``mori.cpp``."""
_NEED_A_SUPER_NODE = (
    "fabric_torch_allocator",
    "use_fabric_torch_allocator",
    "make_fabric_mem_pool",
    "fabric_mem_pool",
)


def left_out() -> dict[str, Collection[str]]:
    """What the recorded surface has and the stub has not, by module."""
    return {"mori": ["precompile"]}


def build(context: StubContext) -> dict[str, ModuleType]:
    """The three modules, with engines on the context's fabric."""
    cpp_engine, io_engine = engine_classes(context)
    both = {
        **{cls.__name__: cls for cls in _BOTH},
        "set_log_level": set_log_level,
        "fabric_alloc": placeholder("mori.cpp", "fabric_alloc", "(size, device)"),
        "fabric_free": placeholder("mori.cpp", "fabric_free", "(ptr)"),
    }
    exported = (types.BackendType, types.MemoryLocationType, types.StatusCode)
    members = {member.name: member for enum in exported for member in enum}
    cpp = StrictModule(
        "mori.cpp",
        BackendConfig=types.BackendConfig,
        IOEngine=cpp_engine,
        IOEngineSession=CppSession,
        TransferStatus=TransferStatus,
        **both,
        **members,
    )
    io = StrictModule(
        "mori.io",
        IOEngine=io_engine,
        IOEngineSession=IOEngineSession,
        TORCH_DEVICE_TYPE_MAP=TORCH_DEVICE_TYPE_MAP,
        **both,
        **{name: placeholder("mori.io", name, "()") for name in _NEED_A_SUPER_NODE},
    )
    return {"mori": StrictModule("mori", __version__="1.2.2"), "mori.cpp": cpp, "mori.io": io}


def set_log_level(level: str) -> None:
    """Accepted; the fabric does not log."""
