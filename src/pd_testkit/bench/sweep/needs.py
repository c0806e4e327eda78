"""What this machine lacks for a case, so that it is not applicable here."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pd_testkit import hardware
from pd_testkit.bench.sweep.matrix import Settings

_MODULES = {"nixl": "nixl", "mooncake": "mooncake"}
"""What a transport of the CPU engine is an extra for."""
_ROUTERS = ("vllm-router", "sglang-router")


def _command(name: str) -> bool:
    """Whether there is one: beside this Python, or on the path."""
    return (Path(sys.executable).parent / name).exists() or shutil.which(name) is not None


def _module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@dataclass(frozen=True)
class Machine:
    """What it has."""

    gpus: int
    command: Callable[[str], bool] = _command
    module: Callable[[str], bool] = _module

    def lacks(self, settings: Settings) -> str:
        """What these settings need and it has not, in words; empty: nothing."""
        engine, runner = settings.get("engine", "cpu"), settings.get("runner", "local")
        if engine == "vllm":
            command = "docker" if runner == "docker" else "vllm"
            if runner != "ray" and not self.command(command):
                return f"there is no command {command}"
            needed = _ranks(settings)
            if runner != "ray" and self.gpus < needed:  # the cluster's nodes have their own
                return f"{needed} GPUs are needed, and {self.gpus} are here"
        if runner == "ray" and not self.module("ray"):
            return "ray is not installed"
        transport = _MODULES.get(str(settings.get("transport", "")))
        if transport and engine == "cpu" and not self.module(transport):
            return f"{transport} is not installed"
        router = str(settings.get("router", ""))
        if router in _ROUTERS and runner != "docker" and not self.command(router):
            return f"there is no command {router}"
        return ""


def here() -> Machine:
    """This machine."""
    return Machine(hardware.detect().gpus)


def _ranks(settings: Settings) -> int:
    """GPUs of all engines together."""
    return sum(
        int(settings.get(role, 1))
        * int(settings.get(f"{role}_tp", 1))
        * int(settings.get(f"{role}_dp", 1))
        for role in ("prefill", "decode")
    )
