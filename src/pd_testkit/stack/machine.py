"""What a plan asks of the machine that it is for."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from pd_testkit.hardware.visible import ANY, visible


class Machine(Protocol):
    """Facts; nothing is changed by asking.

    Attributes:
        python: the interpreter that has the kit.
    """

    python: str

    def gpus(self) -> tuple[str, ...]:
        """Those that a child may see, as its variable names them, see `hardware.visible`."""

    def busy(self, host: str, port: int) -> bool:
        """Something listens there."""

    def free_ports(self, host: str, count: int) -> int:
        """The first of so many consecutive ports that nothing listens on, and none of which was
        given before."""

    def has_address(self, host: str) -> bool:
        """A process can listen there."""

    def has_program(self, name: str) -> bool:
        """It is on the path."""

    def has_module(self, name: str) -> bool:
        """The interpreter can import it."""

    def has_folder(self, path: str) -> bool:
        """It is there."""

    def model_config(self, folder: str) -> Mapping[str, Any] | None:
        """A model's ``config.json``; None if there is none that can be read."""


class ThisMachine:
    """The one that the stack is started on."""

    python = sys.executable

    def __init__(self) -> None:
        self._given: set[int] = set()

    def gpus(self) -> tuple[str, ...]:
        for platform, (program, *arguments) in _GPU_LISTS.items():
            if path := shutil.which(program):
                listed = subprocess.run(  # noqa: S603
                    [path, *arguments], capture_output=True, text=True, timeout=30, check=False
                )
                lines = listed.stdout.splitlines() if listed.returncode == 0 else []
                count = sum(line.startswith("GPU") for line in lines)
                return visible(platform, count, os.environ)
        return ()

    def busy(self, host: str, port: int) -> bool:
        return not self._can_listen(host, port)

    def free_ports(self, host: str, count: int) -> int:
        _any_port(host)  # raises OSError where nothing can listen
        quiet = _quiet_ports()
        while True:
            first = random.SystemRandom().choice(quiet)
            wanted = range(first, first + count)
            if wanted.stop > 65536 or self._given.intersection(wanted):
                continue
            if all(self._can_listen(host, port) for port in wanted):
                self._given.update(wanted)
                return first

    def has_address(self, host: str) -> bool:
        return self._can_listen(host, 0)

    def has_program(self, name: str) -> bool:
        return shutil.which(name) is not None

    def has_module(self, name: str) -> bool:
        return importlib.util.find_spec(name) is not None

    def has_folder(self, path: str) -> bool:
        return Path(path).is_dir()

    def model_config(self, folder: str) -> Mapping[str, Any] | None:
        with contextlib.suppress(OSError, ValueError):
            config = json.loads((Path(folder) / "config.json").read_text())
            return config if isinstance(config, dict) else None
        return None

    def _can_listen(self, host: str, port: int) -> bool:
        try:
            _any_port(host, port)
        except OSError:
            return False
        return True


_FIRST_PORT = 10240
_GPU_LISTS = {"cuda": ("nvidia-smi", "--list-gpus"), "rocm": ("amd-smi", "list")}
"""Both begin a GPU's entry by ``GPU``."""


def _quiet_ports() -> range:
    """Those that the kernel gives to nobody who asks it for any, see ip(7): a transport's own
    sockets, and everybody's connections, would take others before the engine that they were meant
    for."""
    range_file = Path("/proc/sys/net/ipv4/ip_local_port_range")
    with contextlib.suppress(OSError, ValueError, IndexError):
        first = int(range_file.read_text().split()[0])
        if first > 2 * _FIRST_PORT:
            return range(_FIRST_PORT, first)
    return range(_FIRST_PORT, 65536)


def _any_port(host: str, port: int = 0) -> int:
    """A port that can be listened on.

    Raises:
        OSError: not on this one, or not at this address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        return int(probe.getsockname()[1])


class AnyMachine:
    """Has all that is asked for: what would run is the same on each machine that has it, too."""

    def __init__(self, python: str = sys.executable) -> None:
        self.python = python
        self._next = 20000

    def gpus(self) -> tuple[str, ...]:
        return visible("cuda", ANY, {})

    def busy(self, host: str, port: int) -> bool:
        return False

    def free_ports(self, host: str, count: int) -> int:
        self._next += count
        return self._next - count

    def has_address(self, host: str) -> bool:
        return True

    def has_program(self, name: str) -> bool:
        return True

    def has_module(self, name: str) -> bool:
        return True

    def has_folder(self, path: str) -> bool:
        return True

    def model_config(self, folder: str) -> Mapping[str, Any] | None:
        return None
