"""``triton`` by name only: kernels are defined and never run.

`triton.jit` and its like give back a function that raises when it is launched; everything else of
``triton`` and ``triton.language`` is absent until `extend` adds it. Where torch is installed, its
parts that look for triton once do so before the stub is in place, as they would take it for real.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from pd_testkit.stubs.strict import PlaceholderCalled, StrictModule, placeholder

if TYPE_CHECKING:
    from pd_testkit.stubs.install import StubContext

_TYPES = (
    *("int1", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "float8e4nv", "float8e4b8", "float8e5"),
)
_OPS = (
    *("abs", "arange", "atomic_add", "broadcast_to", "cast", "cat", "clamp", "cumsum", "dot"),
    *("exp", "exp2", "expand_dims", "fdiv", "floor", "full", "load", "log", "log2", "max"),
    *("max_contiguous", "maximum", "min", "minimum", "multiple_of", "num_programs", "program_id"),
    *("range", "reduce", "reshape", "rsqrt", "sigmoid", "sqrt", "static_assert", "static_print"),
    *("static_range", "store", "sum", "trans", "where", "zeros"),
)


class dtype:  # noqa: N801
    """A named scalar type of ``triton.language``."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"triton.language.{self.name}"


class constexpr:  # noqa: N801
    """A compile-time constant; as an annotation, or around a value."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Kernel:
    """What ``triton.jit`` makes of a function: has a name, cannot be launched."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn
        self.__name__ = fn.__name__
        self.__module__ = fn.__module__
        self.__doc__ = fn.__doc__

    def _raise(self) -> NoReturn:
        raise PlaceholderCalled(
            f"the triton kernel {self.__module__}.{self.__name__} needs a GPU; "
            "pd-testkit's stub of 'triton' only lets it be defined"
        )

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._raise()

    def __getitem__(self, grid: Any) -> NoReturn:
        self._raise()


def jit(fn: Callable[..., Any] | None = None, **options: Any) -> Any:
    """``@triton.jit`` and ``@triton.jit(do_not_specialize=...)``."""
    return Kernel if fn is None else Kernel(fn)


def _keep(*args: Any, **kwargs: Any) -> Callable[[Any], Any]:
    """``@triton.autotune(...)`` and ``@triton.heuristics(...)`` of a kernel that never runs."""
    return lambda kernel: kernel


class Config:
    """One configuration of an autotuner."""

    def __init__(
        self, kwargs: dict[str, Any], num_warps: int = 4, num_stages: int = 3, **rest: Any
    ) -> None:
        self.kwargs = kwargs
        self.num_warps = num_warps
        self.num_stages = num_stages


def cdiv(x: int, y: int) -> int:
    """x / y, rounded up."""
    return -(-x // y)


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is not below n."""
    return 1 << max(n - 1, 0).bit_length()


_LOOKERS = ("torch._dynamo", "torch._inductor.runtime.triton_compat", "torch.utils._triton")
"""Parts of torch that find out whether there is a triton; not each torch has each."""


def _let_torch_look() -> None:
    """Lets torch find out, and remember, that there is no triton."""
    if importlib.util.find_spec("torch") is None:
        return
    for name in _LOOKERS:
        with contextlib.suppress(ModuleNotFoundError):
            module = importlib.import_module(name)
            getattr(module, "has_triton_package", bool)()


def build(context: StubContext) -> dict[str, ModuleType]:
    """The modules ``triton`` and ``triton.language``."""
    _let_torch_look()
    language = StrictModule("triton.language", constexpr=constexpr, dtype=dtype)
    vars(language).update({name: dtype(name) for name in _TYPES})
    vars(language).update({name: placeholder("triton.language", name) for name in _OPS})
    triton = StrictModule(
        "triton",
        __version__="0.0.0",
        jit=jit,
        autotune=_keep,
        heuristics=_keep,
        Config=Config,
        cdiv=cdiv,
        next_power_of_2=next_power_of_2,
    )
    return {"triton": triton, "triton.language": language}
