"""What is read of a machine, from trees and answers written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from itertools import permutations
from pathlib import Path

import pytest

from pd_testkit.hardware import Hardware, detect, kfd, nvidia, packages, rdma
from pd_testkit.hardware.gpu import Gpu
from pd_testkit.hardware.machine import DOCKER, survey
from pd_testkit.hardware.needs import Needs, parse

GIB = 2**30


def tree(root: Path, content: dict[str, str]) -> Path:
    for name, text in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def silent(argv: Sequence[str]) -> None:
    """No command is there."""


# -- NVIDIA ----------------------------------------------------------------------------------------


def test_nvidia_gpus_have_their_names_and_memory() -> None:
    said = "0, NVIDIA H100 80GB HBM3, 81559\n1, NVIDIA GB10, [N/A]\n\nwarning\n"
    assert nvidia.gpus({nvidia.QUERY: said}.get) == (
        Gpu("cuda", 0, "NVIDIA H100 80GB HBM3", 81559 * 2**20),
        Gpu("cuda", 1, "NVIDIA GB10", None),
    )
    assert nvidia.gpus(silent) == ()


def test_nvidia_peers_are_those_that_can_be_read() -> None:
    said = """ \tGPU0\tGPU1\tGPU2\t
 GPU0\tX\tOK\tCNS\t
 GPU1\tOK\tX\tNS\t
 GPU2\tCNS\tOK\tX\t

Legend:

  X    = Self
  OK   = Status Ok
  CNS  = Chipset not supported
"""
    assert nvidia.peers({nvidia.PEERS: said}.get) == ((0, 1), (1, 0), (2, 1))


# -- AMD -------------------------------------------------------------------------------------------


def amd(root: Path) -> Path:
    """A CPU, and two GPUs of 192 GiB of which the first has a one-way link to the second."""
    node = kfd.NODES
    return tree(
        root,
        {
            "dev/kfd": "",
            f"{node}/0/gpu_id": "0\n",
            f"{node}/0/io_links/0/properties": "type 2\nnode_from 0\nnode_to 1\n",
            f"{node}/1/gpu_id": "51110\n",
            f"{node}/1/name": "aqua_vanjaram\n",
            f"{node}/1/mem_banks/0/properties": f"heap_type 1\nsize_in_bytes {192 * GIB}\n",
            f"{node}/1/mem_banks/1/properties": "heap_type 4\nsize_in_bytes 65536\n",  # LDS
            f"{node}/1/io_links/0/properties": "type 2\nnode_from 1\nnode_to 0\n",  # PCIe
            f"{node}/1/io_links/1/properties": "type 11\nnode_from 1\nnode_to 10\n",
            f"{node}/10/gpu_id": "4711\n",
            f"{node}/10/mem_banks/0/properties": f"heap_type 2\nsize_in_bytes {192 * GIB}\n",
        },
    )


def test_amd_gpus_have_their_own_memory_only(tmp_path: Path) -> None:
    assert kfd.gpus(amd(tmp_path)) == (
        Gpu("rocm", 0, "aqua_vanjaram", 192 * GIB),
        Gpu("rocm", 1, "AMD GPU", 192 * GIB),
    )


def test_amd_peers_are_gpus_joined_by_xgmi(tmp_path: Path) -> None:
    assert kfd.peers(amd(tmp_path)) == ((0, 1),)


def test_amd_gpus_that_a_container_was_not_given_have_no_peers(tmp_path: Path) -> None:
    (amd(tmp_path) / "dev/kfd").unlink()
    assert (kfd.gpus(tmp_path), kfd.peers(tmp_path)) == ((), ())


# -- RDMA ------------------------------------------------------------------------------------------

MLX5_0 = "sys/class/infiniband/mlx5_0/ports"


def test_ports_have_state_link_layer_and_rate(tmp_path: Path) -> None:
    tree(
        tmp_path,
        {
            f"{MLX5_0}/1/state": "4: ACTIVE\n",
            f"{MLX5_0}/1/link_layer": "Ethernet\n",
            f"{MLX5_0}/1/rate": "400 Gb/sec (4X NDR)\n",
            f"{MLX5_0}/2/state": "1: DOWN\n",
        },
    )
    (device,) = rdma.devices(tmp_path)
    assert device.ports == (
        rdma.Port(1, "ACTIVE", "Ethernet", "400 Gb/sec (4X NDR)"),
        rdma.Port(2, "DOWN", "", ""),
    )
    assert device.usable


def test_a_device_whose_ports_are_down_is_no_rdma(tmp_path: Path) -> None:
    seen = detect(tree(tmp_path, {f"{MLX5_0}/1/state": "1: DOWN\n"}))
    assert seen == Hardware(down=("mlx5_0",))
    assert seen.lacks(rdma=True, gpus=0) == "an RDMA device (no port of mlx5_0 is up)"


# -- packages --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "build"),
    [
        ("cuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n", "cuda 12.8"),
        ("cuda: Optional[str] = None\nhip: Optional[str] = '6.4.43482'\n", "rocm 6.4.43482"),
        ("cuda: Optional[str] = None\nhip: Optional[str] = None\n", "cpu"),
    ],
)
def test_torch_tells_what_it_is_built_for(text: str, build: str) -> None:
    assert packages.build_of(f"__version__ = '2.13.0'\n{text}") == build


def test_a_package_may_be_missing_or_too_old() -> None:
    there = metadata.version("pytest")
    assert packages.lacks("pytest", "8.0") == ""
    assert packages.lacks("pytest", "1000.1") == f"pytest {there} is older than 1000.1"
    assert packages.lacks("no-such-package-at-all") == "no-such-package-at-all is not installed"


def test_a_package_has_several_names(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"mooncake-transfer-engine-non-cuda": "0.3.13", "amd-aiter": "0.1.5"}

    def version(name: str) -> str:
        if name not in there:
            raise metadata.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(metadata, "version", version)
    assert packages.version("aiter") == "0.1.5"
    assert packages.version("mooncake") == "0.3.13"
    assert packages.version("nixl") == ""


# -- all of it -------------------------------------------------------------------------------------


def test_an_empty_machine_is_surveyed(tmp_path: Path) -> None:
    machine = survey(tmp_path, silent)
    assert (machine.hardware, machine.gpus, machine.peers, machine.rdma) == (Hardware(), (), (), ())
    assert machine.docker == ""


@pytest.mark.parametrize(
    ("capabilities", "may"), [("0000000000001000", True), ("00000000a80425fb", False)]
)
def test_the_right_to_slow_a_device_is_a_capability(
    tmp_path: Path, capabilities: str, may: bool
) -> None:
    tree(tmp_path, {"proc/self/status": f"Name:\tx\nCapEff:\t{capabilities}\nSeccomp:\t2\n"})
    assert survey(tmp_path, silent).net_admin is may


def test_variables_of_the_tests_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PD_ATOM_SOURCE", "/src/ATOM")
    monkeypatch.delenv("PD_L3_MODEL", raising=False)
    machine = survey(tmp_path, silent)
    assert (machine.variable("PD_ATOM_SOURCE"), machine.variable("PD_L3_MODEL")) == (
        "/src/ATOM",
        "",
    )


def test_docker_is_there_when_its_daemon_answers(tmp_path: Path) -> None:
    assert survey(tmp_path, {DOCKER: "28.3.0\n"}.get).docker == "28.3.0"


# -- needs -----------------------------------------------------------------------------------------


def test_requirements_are_read() -> None:
    assert parse("rdma, gpus=2,gpu_memory=40.5,package=nixl>=1.0,package=mori") == Needs(
        rdma=True, gpus=2, gpu_memory=40.5, packages=(("nixl", "1.0"), ("mori", ""))
    )


def test_drivers_are_asked_for_memory_only() -> None:
    def asked() -> tuple[Gpu, ...]:
        raise AssertionError("a driver was asked")

    two = Hardware(gpus=2)
    assert Needs(gpus=2).lacking(two, asked) == ""
    assert "3 GPUs (2 found)" in Needs(gpus=3, gpu_memory=1).lacking(two, asked)


def test_each_of_the_gpus_needs_the_memory() -> None:
    gpus = (Gpu("cuda", 0, "big", 80 * GIB), Gpu("cuda", 1, "small", 24 * GIB))
    two = Hardware(gpus=2)
    assert Needs(gpu_memory=80).lacking(two, lambda: gpus) == ""
    assert Needs(gpus=2, gpu_memory=40).lacking(two, lambda: gpus) == (
        "this machine lacks 2 GPUs of 40 GiB (80, 24)"
    )
    assert Needs(gpu_memory=1).lacking(two, tuple) == (
        "this machine lacks 1 GPU of 1 GiB (none told)"
    )


def test_all_that_is_missing_is_said() -> None:
    needs = Needs(rdma=True, packages=(("no-such-package-at-all", ""),))
    assert needs.lacking(Hardware(), tuple) == (
        "this machine lacks an RDMA device (none in /sys/class/infiniband), and "
        "no-such-package-at-all is not installed"
    )


def test_packages_are_told_in_one_order_however_they_were_marked() -> None:
    one, other = ("no-such-package-a", ""), ("no-such-package-b", "")
    said = {
        Needs(packages=order).lacking(Hardware(), tuple) for order in permutations((one, other))
    }
    assert said == {"no-such-package-a is not installed, and no-such-package-b is not installed"}
