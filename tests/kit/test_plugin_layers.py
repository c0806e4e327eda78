"""Layers and hardware: what is left out, what is skipped, what must be there."""

from __future__ import annotations

from pathlib import Path

import pytest

from pd_testkit.hardware import Hardware, detect, machine
from tests.kit.plugin_runs import Repository

LAYERED = """
import pytest

@pytest.mark.pd_l2
def test_sockets(): pass

@pytest.mark.pd_l3
@pytest.mark.rdma
@pytest.mark.gpus(2)
def test_gpus(): pass

def test_of_no_layer(): pass
"""

BARE = "from pd_testkit import hardware\nhardware.detect = lambda: hardware.Hardware()\n"
RICH = (
    "from pd_testkit import hardware\n"
    "hardware.detect = lambda: hardware.Hardware(rdma=('mlx5_0',), gpus=2)\n"
)


@pytest.fixture(autouse=True)
def keep_detect(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs' conftests replace it; put it back."""
    monkeypatch.setattr("pd_testkit.hardware.detect", detect)


def run(repository: Repository, conftest: str, *args: str) -> pytest.RunResult:
    repository.pytester.makeconftest(conftest)
    return repository.run(*args, target=None)


def test_a_clauses_test_has_the_layer_of_its_clause(repository: Repository) -> None:
    repository.suite('@clause("AGG-001")\ndef test_one(self): ...')
    repository.run("-m", "pd_l1").assert_outcomes(passed=1)
    repository.run("-m", "pd_l2").assert_outcomes(deselected=1)


def test_other_layers_are_left_out(repository: Repository) -> None:
    repository.pytester.makepyfile(test_layers=LAYERED)
    repository.suite('@clause("AGG-001")\ndef test_one(self): ...')
    repository.run("--pd-layer", "l1").assert_outcomes(passed=2, deselected=2)
    repository.run("--pd-layer", "l1, l2").assert_outcomes(passed=3, deselected=1)


def test_missing_hardware_is_a_counted_skip(repository: Repository) -> None:
    repository.pytester.makepyfile(LAYERED)
    result = run(repository, BARE, "-rs")
    result.assert_outcomes(passed=2, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "SKIPPED * not applicable: this machine lacks an RDMA device "
            "(none in /sys/class/infiniband) and 2 GPUs (0 found)"
        ]
    )


def test_what_is_there_is_used(repository: Repository) -> None:
    repository.pytester.makepyfile(LAYERED)
    run(repository, RICH, "--pd-require", "rdma,gpus=2").assert_outcomes(passed=3)


def test_required_hardware_that_is_missing_fails_the_run(repository: Repository) -> None:
    repository.pytester.makepyfile(LAYERED)
    result = run(repository, RICH, "--pd-require", "rdma,gpus=8")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: --pd-require rdma,gpus=8: this machine lacks 8 GPUs (2 found)"]
    )


MARKED = """
import pytest

@pytest.mark.gpu_memory(40)
def test_large(): pass

@pytest.mark.requires_package("pytest", "8.0")
def test_there(): pass

@pytest.mark.requires_package("pytest", at_least="1000")
def test_newer(): pass

@pytest.mark.requires_package("no-such-package-at-all")
def test_missing(): pass
"""

DRIVER = """
from pd_testkit.hardware import machine
from pd_testkit.hardware.gpu import Gpu
machine.gpus = lambda: (Gpu("cuda", 0, "one", {gib} << 30), Gpu("cuda", 1, "other", None))
"""


@pytest.fixture
def _keep_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `keep_detect`."""
    monkeypatch.setattr(machine, "gpus", machine.gpus)


@pytest.mark.usefixtures("_keep_gpus")
@pytest.mark.parametrize(("gib", "passed"), [(80, 2), (24, 1)])
def test_memory_and_packages_are_needs_too(repository: Repository, gib: int, passed: int) -> None:
    repository.pytester.makepyfile(MARKED)
    result = run(repository, RICH + DRIVER.format(gib=gib), "-rs")
    result.assert_outcomes(passed=passed, skipped=4 - passed)
    result.stdout.fnmatch_lines_random(
        [
            "SKIPPED * not applicable: pytest * is older than 1000",
            "SKIPPED * not applicable: no-such-package-at-all is not installed",
        ]
    )
    lacks = "not applicable: this machine lacks 1 GPU of 40 GiB (24, 0)"
    assert (lacks in result.stdout.str()) is (gib < 40)


def test_a_required_package_that_is_missing_fails_the_run(repository: Repository) -> None:
    repository.pytester.makepyfile(MARKED)
    result = run(repository, BARE, "--pd-require", "package=pytest>=1000")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --pd-require package=*: pytest * is older than 1000"])


def test_a_marker_without_its_number_stops_the_run(repository: Repository) -> None:
    repository.pytester.makepyfile("import pytest\n@pytest.mark.gpus\ndef test_one(): pass")
    result = run(repository, RICH)
    assert result.ret != pytest.ExitCode.OK
    assert "a marker of what it needs" in result.stdout.str() + result.stderr.str()


L3 = """
import pytest
pytestmark = pytest.mark.pd_l3

def test_passes(): pass
def test_fails(): assert not "equal"
@pytest.mark.rdma
def test_rdma(): pass
@pytest.mark.rdma
def test_more_rdma(): pass
@pytest.mark.gpus(8)
def test_gpus(): pass
"""


def test_what_ran_on_what_is_counted(repository: Repository) -> None:
    repository.pytester.makepyfile(L3)
    result = run(repository, BARE)
    result.assert_outcomes(passed=1, failed=1, skipped=3)
    result.stdout.fnmatch_lines(
        [
            "pd-testkit L3: no RDMA, no GPU; *",
            "L3 on no RDMA, no GPU: 1 passed, 1 failed, 3 skipped",
            "  2 skipped: this machine lacks an RDMA device *",
            "  1 skipped: this machine lacks 8 GPUs (0 found)",
        ]
    )


def test_a_run_without_l3_says_nothing_of_it(repository: Repository) -> None:
    repository.pytester.makepyfile("def test_one(): pass")
    assert "L3" not in run(repository, RICH).stdout.str()


def files(root: Path, content: dict[str, str]) -> Path:
    for name, text in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_an_empty_machine_has_nothing(tmp_path: Path) -> None:
    assert detect(tmp_path) == Hardware()
    assert str(detect(tmp_path)) == "no RDMA, no GPU"


def test_devices_are_counted(tmp_path: Path) -> None:
    nodes = "sys/class/kfd/kfd/topology/nodes"
    root = files(
        tmp_path,
        {
            "dev/nvidia0": "",
            "dev/nvidia11": "",
            "dev/nvidiactl": "",
            "dev/nvidia-uvm": "",
            "dev/kfd": "",
            f"{nodes}/0/gpu_id": "0\n",  # a CPU is a node too
            f"{nodes}/1/gpu_id": "4711\n",
            "sys/class/infiniband/mlx5_1/node_type": "1: CA",
            "sys/class/infiniband/mlx5_0/node_type": "1: CA",
        },
    )
    assert detect(root, {}) == Hardware(rdma=("mlx5_0", "mlx5_1"), gpus=3)
    assert str(detect(root, {})) == "RDMA mlx5_0, mlx5_1, 3 GPUs"


def test_amd_gpus_that_the_container_was_not_given_do_not_count(tmp_path: Path) -> None:
    root = files(tmp_path, {"sys/class/kfd/kfd/topology/nodes/1/gpu_id": "4711\n"})
    assert detect(root).gpus == 0
