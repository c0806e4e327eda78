"""What each layer of tests needs of a machine, and how to get it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pd_testkit.hardware import packages
from pd_testkit.hardware.machine import Machine

Lacks = Callable[[Machine], str]


@dataclass(frozen=True)
class Need:
    """
    Attributes:
        lacks: says what of it a machine has not; empty: it has all.
        get: a command that gets it, or where to look.
    """

    lacks: Lacks
    get: str


@dataclass(frozen=True)
class Layer:
    name: str
    what: str
    needs: tuple[Need, ...] = ()

    def missing(self, machine: Machine) -> tuple[tuple[str, str], ...]:
        """What this machine lacks for it, each with how to get it."""
        said = ((need.lacks(machine), need.get) for need in self.needs)
        return tuple((lacks, get) for lacks, get in said if lacks)


def _package(name: str, extra: str) -> Need:
    def lacks(machine: Machine) -> str:
        there = dict(machine.packages).get(name) or packages.version(name)
        return "" if there else f"{name} is not installed"

    return Need(lacks, f"pip install 'pd-testkit[{extra}]'")


def _installed(name: str, get: str) -> Need:
    """What no extra of the kit brings."""
    return Need(lambda machine: "" if machine.version(name) else f"{name} is not installed", get)


def _variable(name: str, get: str) -> Need:
    return Need(lambda machine: "" if machine.variable(name) else f"{name} is not set", get)


def _gpus(count: int) -> Need:
    get = "a runner with GPUs; in docker: --gpus all, or --device /dev/kfd --device /dev/dri"
    return Need(lambda machine: machine.hardware.lacks(rdma=False, gpus=count), get)


def _command(name: str, get: str) -> Need:
    return Need(
        lambda machine: "" if name in machine.commands else f"there is no command {name}", get
    )


def _torch_for_gpus(machine: Machine) -> str:
    if not machine.torch:
        return "torch is not installed"
    return "torch is built for the CPU" if machine.torch == "cpu" else ""


def _memlock(machine: Machine) -> str:
    if machine.memlock < 0 or not machine.hardware.rdma:
        return ""
    return f"ulimit -l is {machine.memlock >> 10} KiB, and RDMA locks what it registers"


_TORCH = Need(_torch_for_gpus, "pip install torch, of the index that pytorch.org names for the GPU")
_RDMA = Need(
    lambda machine: machine.hardware.lacks(rdma=True, gpus=0),
    "a runner with RDMA; in docker: --device /dev/infiniband --cap-add IPC_LOCK",
)
_MEMLOCK = Need(_memlock, "ulimit -l unlimited; in docker: --ulimit memlock=-1")
_MORI = _installed("mori", "pip install git+https://github.com/ROCm/mori")
_NIXL = _package("nixl", "nixl")
_VLLM = _command("vllm", "pip install vllm, or pd-testkit up --runner docker")
_VLLM_PACKAGE = _installed("vllm", "pip install vllm, in an environment of its own")
_MOONCAKE = _installed(
    "mooncake",
    "pip install mooncake-transfer-engine; without CUDA mooncake-transfer-engine-non-cuda",
)
_ATOM = _variable(
    "PD_ATOM_SOURCE",
    "git clone https://github.com/ROCm/ATOM and export PD_ATOM_SOURCE=$PWD/ATOM",
)
_SLOW_DEVICE = _variable(
    "PD_L3_SLOW_DEVICE",
    "export PD_L3_SLOW_DEVICE=lo, or another network device that may be slowed down",
)
_NET_ADMIN = Need(
    lambda machine: "" if machine.net_admin else "this process has no CAP_NET_ADMIN",
    "run as root; in docker: --cap-add NET_ADMIN",
)
_DOCKER = Need(
    lambda machine: "" if machine.docker else "no docker daemon answers",
    "systemctl start docker, and be of the group docker",
)
_MORI_ON_GPU = (_gpus(1), _TORCH, _RDMA, _MEMLOCK, _MORI)
_STACK = tuple(_package(name, "stack") for name in ("torch", "rich", "pydantic"))

LAYERS = (
    Layer("L1", "units on a CPU"),
    Layer("L2", "sockets, HTTP, threads and processes on a CPU"),
    Layer("stack", "pd-testkit up of the kit's own engine", _STACK),
    Layer("bench", "pd-testkit bench, with plots", (*_STACK, _package("matplotlib", "plots"))),
    Layer("docker", "pd-testkit up --runner docker", (*_STACK, _DOCKER)),
    Layer("L3 registration", "device memory registered with NIXL", (_gpus(1), _TORCH, _NIXL)),
    Layer("L3 fabric", "the fabric and its sanitizer on device memory", (_gpus(1), _TORCH)),
    Layer("L3 mori", "packed metadata over real mori", _MORI_ON_GPU),
    Layer("L3 ATOM", "ATOM's connector and wrapper over real mori", (*_MORI_ON_GPU, _ATOM)),
    Layer("L3 one GPU", "two processes on one GPU, bytes equal", (_gpus(1), _TORCH, _NIXL)),
    Layer("L3 two GPUs", "producer to consumer, bytes equal", (_gpus(2), _TORCH, _NIXL)),
    Layer("L3 engine", "P, D and proxy of the kit's engine on a GPU", (_gpus(1), _TORCH, *_STACK)),
    Layer("L3 vLLM stack", "P, D and proxy of vLLM", (_gpus(2), _TORCH, _VLLM, _NIXL, *_STACK)),
    Layer("L3 vLLM NIXL", "its connector, KV on a GPU", (_gpus(1), _TORCH, _VLLM_PACKAGE, _NIXL)),
    Layer("L3 vLLM Mooncake", "likewise", (_gpus(1), _TORCH, _VLLM_PACKAGE, _MOONCAKE)),
    Layer("L3 vLLM MoRIIO", "likewise, over real mori", (*_MORI_ON_GPU, _VLLM_PACKAGE)),
    Layer(
        "L3 slow NIC",
        "faults by tc: netem, or else tbf",
        (_command("tc", "apt-get install iproute2"), _NET_ADMIN, _SLOW_DEVICE),
    ),
)
