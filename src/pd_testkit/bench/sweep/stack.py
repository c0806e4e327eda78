"""A deployment that several measurements share, for as long as they take.

Nothing that a sweep starts outlives it: all of it ends when its standard input does, of which the
other end is the sweep's, also where that is killed.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shlex
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from pd_testkit.bench.sweep.matrix import Case, Settings
from pd_testkit.bench.sweep.sweep import END_S, FREE_PORTS, end

_TAIL = 300
_HOLD = """
import json, os, sys
told = {name: os.environ[name] for name in os.environ if name.startswith(("PD_", "OPENAI_"))}
print(json.dumps(told), flush=True)
sys.stdin.read()
"""
"""What ``pd-testkit up`` runs against the stack: tells where it is, and ends when this process does
by whatever it ends. With that the stack ends."""

TIED = """
import os, subprocess, sys, threading
process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
threading.Thread(target=lambda: (os.read(0, 1), process.terminate()), daemon=True).start()
sys.exit(process.wait())
"""
"""Runs a command in the same way: it is told to end when this process does. Not by `sys.stdin`,
whose lock a thread would still have when Python ends."""


class NotUp(Exception):
    """The stack did not come up."""


@asynccontextmanager
async def brought_up(
    kit: Sequence[str], settings: Settings, log: Path
) -> AsyncIterator[Mapping[str, str]]:
    """The variables of a command that is run against the stack.

    Args:
        kit: the command ``pd-testkit``.
        log: of ``pd-testkit up``; its processes' are beside it.

    Raises:
        NotUp: it did not come up; says why.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *command(kit, settings, log),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        try:
            variables = await _ready(process)
            if variables is None:
                await process.wait()
                tail = " ".join(log.read_text("utf-8", "replace").split())[-_TAIL:]
                raise NotUp(f"exit status {process.returncode}: {tail}")
            yield variables
        finally:
            await let_go(process)


def command(kit: Sequence[str], settings: Settings, log: Path) -> list[str]:
    """What brings it up, on free ports and with a name of its own."""
    name = hashlib.sha256(str(log.absolute()).encode()).hexdigest()[:12]
    own = ["--name", f"sweep-{name}-{os.getpid()}", "--log-dir", str(log.parent)]
    hold = shlex.join([sys.executable, "-c", _HOLD])
    arguments = Case("", settings).arguments
    return [*kit, "up", "--json", *own, *FREE_PORTS, *arguments, "--then", hold]


async def _ready(process: asyncio.subprocess.Process) -> dict[str, str] | None:
    """What `_HOLD` tells; None: the process has ended."""
    assert process.stdout is not None
    async for line in process.stdout:
        try:
            told = msgspec.json.decode(line, type=dict[str, str])
        except msgspec.DecodeError:
            continue
        if "PD_ENDPOINT" in told:
            return told
    return None


async def let_go(process: asyncio.subprocess.Process) -> None:
    """End what lasts as long as its input does."""
    assert process.stdin is not None
    process.stdin.close()
    if process.returncode is not None:
        return
    try:
        await asyncio.wait_for(asyncio.shield(process.wait()), END_S)
    except asyncio.TimeoutError:
        await end(process)
