"""All that `pd-testkit doctor` shows: hardware, packages, commands and limits."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pd_testkit.hardware import Hardware, detect, kfd, nvidia, packages, rdma
from pd_testkit.hardware.gpu import Gpu
from pd_testkit.hardware.nvidia import Ask

PATIENCE_S = 20.0
"""For a command to answer; a driver that hangs must not hang the run."""
DOCKER = ("docker", "version", "--format", "{{.Server.Version}}")
VARIABLES = ("PD_ATOM_SOURCE", "PD_L3_MODEL", "PD_L3_REPORTS", "PD_L3_SLOW_DEVICE")
"""Of the environment, that L3's tests read; see docs/gpu.md."""
COMMANDS = ("vllm", "vllm-router", "sglang-router", "docker", "tc", "nvidia-smi", "rocm-smi")


@dataclass(frozen=True)
class Machine:
    """
    Attributes:
        hardware: as `detect` tells.
        gpus: those of which a driver tells, visible to this process or not; may be fewer than
            ``hardware.gpus`` without its commands.
        peers: pairs of GPUs of one platform, by index, the first of which reads the second's
            memory.
        packages: versions by name; empty where not installed.
        torch: what it is built for; empty without torch.
        commands: which of `COMMANDS` are there.
        docker: the daemon's version; empty where it does not answer.
        memlock: bytes that a process may lock, RDMA's registered memory among them; -1: any.
        net_admin: this process may change how network devices send.
        variables: of `VARIABLES`; empty where not set.
    """

    hardware: Hardware = field(default_factory=Hardware)
    gpus: tuple[Gpu, ...] = ()
    peers: tuple[tuple[int, int], ...] = ()
    rdma: tuple[rdma.Device, ...] = ()
    packages: tuple[tuple[str, str], ...] = ()
    torch: str = ""
    commands: tuple[str, ...] = ()
    docker: str = ""
    memlock: int = -1
    net_admin: bool = False
    variables: tuple[tuple[str, str], ...] = ()

    def version(self, package: str) -> str:
        return dict(self.packages).get(package, "")

    def variable(self, name: str) -> str:
        return dict(self.variables).get(name, "")


def answer(argv: Sequence[str]) -> str | None:
    """See `nvidia.Ask`."""
    if (program := found(argv[0])) is None:
        return None
    try:
        ended = subprocess.run(  # noqa: S603 commands that are named here
            [program, *argv[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ended.stdout if ended.returncode == 0 else None


def found(command: str) -> str | None:
    """Its path: beside this Python, or on the search path."""
    beside = Path(sys.executable).parent / command
    return str(beside) if beside.exists() else shutil.which(command)


def gpus(root: Path = Path("/"), ask: Ask = answer) -> tuple[Gpu, ...]:
    """With their memory."""
    return nvidia.gpus(ask) + kfd.gpus(root)


def survey(root: Path = Path("/"), ask: Ask = answer) -> Machine:
    """This machine, now; runs ``nvidia-smi`` and ``docker`` where they are there."""
    return Machine(
        hardware=detect(root),
        gpus=gpus(root, ask),
        peers=nvidia.peers(ask) + kfd.peers(root),
        rdma=rdma.devices(root),
        packages=tuple((name, packages.version(name)) for name in packages.SHOWN),
        torch=packages.torch_build(),
        commands=tuple(name for name in COMMANDS if found(name) is not None),
        docker=(ask(DOCKER) or "").strip(),
        memlock=resource.getrlimit(resource.RLIMIT_MEMLOCK)[0],
        net_admin=_net_admin(root),
        variables=tuple((name, os.environ.get(name, "")) for name in VARIABLES),
    )


def _net_admin(root: Path) -> bool:
    """By the effective capabilities: Linux, capabilities(7), CAP_NET_ADMIN is bit 12."""
    try:
        status = (root / "proc/self/status").read_text()
    except OSError:  # another system than Linux
        return False
    told = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return told is not None and bool(int(told[1], 16) & 1 << 12)


def brief(hardware: Hardware, known: tuple[Gpu, ...]) -> list[str]:
    """A header's lines: hardware, and versions of what moves KV. No command is run for it."""
    there = ((name, packages.version(name)) for name in packages.SHOWN)
    versions = ", ".join(f"{name} {version}" for name, version in there if version)
    return [f"pd-testkit L3: {hardware}; {versions or 'no packages'}", *(f"  {g}" for g in known)]
