"""A stack of real processes for as long as tests need it, and engines beside it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KIT = (sys.executable, "-m", "pd_testkit")
PATIENCE_S = 90.0
"""Reached only on failure: several processes import torch, on few cores."""
FREE_PORTS = [
    word
    for name in ("router", "prefill", "decode", "prefill-side", "decode-side")
    for word in (f"--{name}-port", "0")
]


@dataclass(frozen=True)
class Running:
    """Where a stack serves."""

    url: str
    prefill: tuple[str, ...]
    decode: tuple[str, ...]
    model: str

    @property
    def environment(self) -> dict[str, str]:
        """As commands of ``--then`` have it."""
        return {
            "PD_ENDPOINT": self.url,
            "PD_PREFILL_ENDPOINTS": ",".join(self.prefill),
            "PD_DECODE_ENDPOINTS": ",".join(self.decode),
            "PD_MODEL": self.model,
        }


class Starting:
    """A process that says when it is ready, in one line of JSON."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    def ready(self) -> dict[str, Any]:
        """What it says, once it does."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self._log.read_text("utf-8", "replace")
        told: dict[str, Any] = json.loads(line)
        return told


def running(ready: dict[str, Any]) -> Running:
    """The stack that ``pd-testkit up --json`` tells of."""
    return Running(ready["url"], tuple(ready["prefill"]), tuple(ready["decode"]), ready["model"])


def stack(folder: Path, *arguments: str) -> AbstractContextManager[Starting]:
    """``pd-testkit up`` with these arguments."""
    command = [*KIT, "up", "--json", "--name", folder.name, "--log-dir", str(folder / "logs")]
    return _starting([*command, *FREE_PORTS, *arguments], folder / "up.log")


def engine(folder: Path, name: str, *arguments: str) -> AbstractContextManager[Starting]:
    """``pd-testkit engine`` with these arguments."""
    return _starting([*KIT, "engine", "--port", "0", *arguments], folder / f"{name}.log")


@contextmanager
def _starting(command: list[str], log: Path) -> Iterator[Starting]:
    """The process, until the end of this; told to end, it exits with 0."""
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        ) as process,
    ):
        try:
            yield Starting(process, log)
            process.terminate()
            assert process.wait(PATIENCE_S) == 0, log.read_text("utf-8", "replace")
        finally:
            process.terminate()


@contextmanager
def started(
    command: Sequence[str], environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that leads a group of its own, until the end of this; killed by then or not."""
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
