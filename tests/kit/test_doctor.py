"""What ``pd-testkit doctor`` says of a machine."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from pd_testkit import doctor as command
from pd_testkit.cli import main
from pd_testkit.doctor import document, table
from pd_testkit.hardware import Hardware, rdma
from pd_testkit.hardware.gpu import Gpu
from pd_testkit.hardware.layers import LAYERS
from pd_testkit.hardware.machine import Machine

BARE = Machine(memlock=8 << 20)
RICH = Machine(
    hardware=Hardware(rdma=("mlx5_0",), gpus=2),
    gpus=(Gpu("cuda", 0, "NVIDIA H100", 80 << 30), Gpu("cuda", 1, "NVIDIA H100", None)),
    peers=((0, 1), (1, 0)),
    rdma=(rdma.Device("mlx5_0", (rdma.Port(1, "ACTIVE", "Ethernet", "400 Gb/sec"),)),),
    packages=(("torch", "2.13.0+cu126"), ("nixl", "1.5.1"), ("mori", "1.0"), ("vllm", "")),
    torch="cuda 12.6",
    commands=("vllm", "tc", "docker"),
    docker="28.3.0",
)


def missing(machine: Machine, name: str) -> list[str]:
    (layer,) = (layer for layer in LAYERS if layer.name == name)
    return [lacks for lacks, _ in layer.missing(machine)]


def test_the_table_shows_what_is_there() -> None:
    told = "\n".join(table(RICH))
    for line in (
        "GPUs        cuda:0 NVIDIA H100, 80.0 GiB",
        "            cuda:1 NVIDIA H100, memory unknown",
        "peers       0 reads 1, 1 reads 0",
        "RDMA        mlx5_0/1 ACTIVE Ethernet 400 Gb/sec",
        "packages    torch 2.13.0+cu126, nixl 1.5.1, mori 1.0",
        "missing     vllm",
        "memlock     unlimited",
        "net admin   no",
        "variables   none of PD_ATOM_SOURCE, PD_L3_MODEL, PD_L3_REPORTS, PD_L3_SLOW_DEVICE",
    ):
        assert line in told.splitlines()


def test_gpus_of_which_no_driver_tells_are_not_hidden() -> None:
    assert "GPUs        2 in /dev, of which no driver's command tells" in table(
        Machine(hardware=Hardware(gpus=2))
    )


def test_the_cpu_layers_need_nothing_of_the_machine() -> None:
    assert missing(BARE, "L1") == missing(BARE, "L2") == []


def test_a_layer_lacks_what_it_needs_and_no_more() -> None:
    assert missing(BARE, "L3 mori") == [
        "1 GPU (0 found)",
        "torch is not installed",
        "an RDMA device (none in /sys/class/infiniband)",
        "mori is not installed",
    ]
    assert [missing(RICH, name) for name in ("L3 mori", "L3 two GPUs", "docker")] == [[], [], []]


def test_locked_memory_counts_where_there_is_rdma() -> None:
    machine = Machine(hardware=RICH.hardware, torch="cpu", memlock=8 << 20)
    said = missing(machine, "L3 mori")
    assert "ulimit -l is 8192 KiB, and RDMA locks what it registers" in said
    assert "torch is built for the CPU" in said


def test_each_thing_that_is_missing_has_a_way_to_get_it() -> None:
    told = table(BARE, width=1000)
    ways = told[told.index("How to get it:") + 1 :]
    gets = dict(zip(ways[1::2], ways[::2], strict=True))
    for layer in LAYERS:
        for lacks, get in layer.missing(BARE):
            assert get
            assert lacks in gets[f"      {get}"].strip().split("; ")


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("machine", [BARE, RICH])
def test_no_line_is_wider_than_the_terminal(machine: Machine, width: int) -> None:
    assert max(map(len, table(machine, width))) <= width


def test_a_slow_nic_needs_the_right_to_make_one() -> None:
    assert missing(BARE, "L3 slow NIC") == [
        "there is no command tc",
        "this process has no CAP_NET_ADMIN",
        "PD_L3_SLOW_DEVICE is not set",
    ]
    set_up = Machine(commands=("tc",), net_admin=True, variables=(("PD_L3_SLOW_DEVICE", "lo"),))
    assert missing(set_up, "L3 slow NIC") == []


def test_json_says_the_same() -> None:
    told = json.loads(json.dumps(document(RICH)))
    assert told["gpus"][0] == {
        "platform": "cuda",
        "index": 0,
        "name": "NVIDIA H100",
        "memory": 80 << 30,
    }
    assert told["rdma"][0]["ports"][0]["link_layer"] == "Ethernet"
    assert told["rdma"][0]["usable"] is True
    assert [layer["name"] for layer in told["layers"]] == [layer.name for layer in LAYERS]


@pytest.mark.parametrize(("machine", "code"), [(BARE, 1), (RICH, 0)])
def test_required_hardware_decides_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, machine: Machine, code: int
) -> None:
    monkeypatch.setattr(command, "survey", lambda: machine)
    run = CliRunner().invoke
    assert run(main, ["doctor"]).exit_code == 0
    assert run(main, ["doctor", "--require", "rdma,gpus=2"]).exit_code == code
    seen = run(main, ["doctor", "--json", "--require", "rdma,gpus=2"])
    assert seen.exit_code == code
    lacks = "an RDMA device (none in /sys/class/infiniband) and 2 GPUs (0 found)"
    assert json.loads(seen.output)["lacking"] == (f"this machine lacks {lacks}" if code else "")


def test_a_requirement_that_is_none_is_refused() -> None:
    seen = CliRunner().invoke(main, ["doctor", "--require", "tpu"])
    assert seen.exit_code == 2
    assert "'tpu' is not rdma, gpus=N" in seen.output
