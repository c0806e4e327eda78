"""GPUs that the environment hides are another's: none of them is counted or given to a process."""

from __future__ import annotations

from pathlib import Path

import pytest

from pd_testkit.hardware import Hardware, detect, kfd
from pd_testkit.hardware.visible import only, visible
from tests.gpu.serving import on_gpu

CUDA, HIP, ROCR = "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ("4", ("4",)),
        ("5, 4", ("5", "4")),
        ("", ()),
        ("-1", ()),
        ("NoDevFiles", ()),
        ("1,8,2", ("1",)),  # of 8 there is no 8, and what follows is not seen
        ("1,-1,2", ("1",)),
        ("3,3", ()),
        ("GPU-0a1b,GPU-2c3d", ("GPU-0a1b", "GPU-2c3d")),
        ("MIG-0a1b", ("MIG-0a1b",)),
    ],
)
def test_a_list_says_what_is_seen(given: str, seen: tuple[str, ...]) -> None:
    assert visible("cuda", 8, {CUDA: given}) == seen
    assert visible("rocm", 8, {HIP: given}) == seen


def test_without_a_list_all_are_seen() -> None:
    assert visible("cuda", 2, {}) == ("0", "1")
    assert visible("cuda", 2, {HIP: "1", ROCR: "1"}) == ("0", "1"), "those are AMD's variables"


def test_where_there_is_none_none_is_seen() -> None:
    assert visible("cuda", 0, {CUDA: "GPU-0a1b"}) == ()


@pytest.mark.parametrize(
    ("environ", "seen"),
    [
        ({CUDA: "4"}, ("4",)),
        ({CUDA: "4", HIP: "5"}, ("5",)),
        ({ROCR: "4,5"}, ("0", "1")),  # a child has this variable too, and HIP's counts what is left
        ({ROCR: "4,5", HIP: "1"}, ("1",)),
        ({ROCR: "4,5", HIP: "4"}, ()),
        ({ROCR: ""}, ()),
    ],
)
def test_amd_has_one_variable_ahead_of_the_other(
    environ: dict[str, str], seen: tuple[str, ...]
) -> None:
    assert visible("rocm", 8, environ) == seen


def test_hidden_gpus_do_not_count(tmp_path: Path) -> None:
    nodes = tmp_path / "sys/class/kfd/kfd/topology/nodes"
    for file in ("dev/nvidia0", "dev/nvidia1", "dev/nvidia2", "dev/kfd"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    (nodes / "1").mkdir(parents=True)
    (nodes / "1" / "gpu_id").write_text("4711\n")
    assert detect(tmp_path, {}) == Hardware(gpus=4)
    seen = detect(tmp_path, {CUDA: "2", HIP: "0"})
    assert seen == Hardware(gpus=2, hidden=2)
    assert seen.lacks(rdma=False, gpus=3) == "3 GPUs (2 found, 2 hidden by the environment)"


@pytest.mark.parametrize(
    ("platform", "environ", "name"),
    [
        ("cuda", {}, "1"),
        ("cuda", {CUDA: "4,5"}, "5"),
        ("cuda", {CUDA: "GPU-0a1b,GPU-2c3d"}, "GPU-2c3d"),
        ("rocm", {CUDA: "4,5"}, "5"),
        ("rocm", {HIP: "6,7"}, "7"),
        ("rocm", {ROCR: "6,7"}, "1"),
    ],
)
def test_a_child_gets_one_of_those_that_its_parent_sees(
    platform: str, environ: dict[str, str], name: str
) -> None:
    """By both variables, which vLLM wants to be equal where both are set."""
    assert only(platform, 1, environ) == {CUDA: name, HIP: name}


def test_a_child_gets_no_gpu_that_its_parent_does_not_see() -> None:
    with pytest.raises(IndexError):
        only("cuda", 1, {CUDA: "4"})


def test_a_server_of_a_test_gets_one_of_those_that_the_test_sees(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kfd, "gpus", lambda: ())
    monkeypatch.setenv(CUDA, "4,5")
    assert on_gpu(1) == {CUDA: "5", HIP: "5"}
