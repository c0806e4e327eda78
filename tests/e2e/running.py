"""A stack of real processes for as long as tests need it, and engines beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def stack(folder: Path, *arguments: str) -> Iterator[Running]:
    """``pd-testkit up`` with these arguments; its end is clean."""
    command = [*KIT, "up", "--json", "--name", folder.name, "--log-dir", str(folder / "logs")]
    with _process([*command, *FREE_PORTS, *arguments], folder / "up.log") as ready:
        yield Running(ready["url"], tuple(ready["prefill"]), tuple(ready["decode"]), ready["model"])


@contextmanager
def engine(folder: Path, name: str, *arguments: str) -> Iterator[str]:
    """The URL of a ``pd-testkit engine`` with these arguments."""
    command = [*KIT, "engine", "--port", "0", *arguments]
    with _process(command, folder / f"{name}.log") as ready:
        yield ready["url"]


@contextmanager
def _process(command: list[str], log: Path) -> Iterator[dict[str, Any]]:
    """What a process says when it is ready, in one line of JSON. Ended, it exits with 0."""
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        ) as process,
    ):
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, log.read_text("utf-8", "replace")
            yield json.loads(line)
            process.terminate()
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.terminate()
