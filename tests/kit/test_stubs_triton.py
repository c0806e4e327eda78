"""The stub of triton: kernels are defined, never run, and torch does not mistake it for real."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest

from pd_testkit.stubs import PlaceholderCalled, triton
from pd_testkit.stubs.strict import StrictModule


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """The stub's modules, built where no torch is installed."""
    find_spec = SimpleNamespace(find_spec=lambda name: None)
    monkeypatch.setattr(triton.importlib, "util", find_spec)
    built = triton.build(None)
    monkeypatch.undo()
    return built


def test_a_kernel_is_defined_and_says_that_it_cannot_be_launched(modules) -> None:
    jit, tl = modules["triton"].jit, modules["triton.language"]

    @jit
    def copy_kernel(source, size: tl.constexpr, block: tl.int64 = 4):
        """Copies."""

    assert (copy_kernel.__name__, copy_kernel.__doc__) == ("copy_kernel", "Copies.")
    assert copy_kernel.fn(1, 2) is None
    for launch in (lambda: copy_kernel[(1,)](1, 2), lambda: copy_kernel(1, 2)):
        with pytest.raises(PlaceholderCalled, match="copy_kernel needs a GPU"):
            launch()


def test_decorators_with_options_keep_the_kernel(modules) -> None:
    stub = modules["triton"]

    @stub.autotune(configs=[stub.Config({"BLOCK": 64}, num_warps=8)], key=["n"])
    @stub.heuristics({"EVEN": lambda args: True})
    @stub.jit(do_not_specialize=["n"])
    def kernel(n):
        pass

    assert kernel.fn.__name__ == "kernel"
    assert stub.Config({}).num_warps == 4


@pytest.mark.parametrize(("n", "power"), [(1, 1), (2, 2), (3, 4), (64, 64), (65, 128)])
def test_host_side_arithmetic_works(modules, n, power) -> None:
    assert modules["triton"].next_power_of_2(n) == power
    assert modules["triton"].cdiv(n, 2) == (n + 1) // 2


def test_device_functions_are_placeholders_and_the_rest_is_missing(modules) -> None:
    tl = modules["triton.language"]
    assert isinstance(tl, StrictModule)
    assert repr(tl.bfloat16) == "triton.language.bfloat16"
    with pytest.raises(PlaceholderCalled):
        tl.load(0)
    with pytest.raises(AttributeError, match="extend"):
        _ = tl.no_such_op


def test_torch_compiles_under_it_as_if_it_were_not_there() -> None:
    pytest.importorskip("torch", reason="not applicable: torch is not installed")
    program = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "import pd_testkit.stubs as stubs\n"
        "with stubs.installed('triton') as active:\n"
        "    import triton, torch\n"
        "    if not active.real:\n"
        "        compiled = torch.compile(lambda x: x + 1, backend='aot_eager')\n"
        "        assert compiled(torch.ones(2)).sum() == 4\n"
        "        from torch.utils._triton import has_triton_package\n"
        "        assert not has_triton_package()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
