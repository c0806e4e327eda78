"""The CPU engine alone, as what a P/D deployment of CPU engines is compared with."""

from __future__ import annotations

import asyncio
import shlex
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from pd_testkit.bench.endpoint import Endpoint, Unexpected

START_S = 60.0
"""Real seconds until it must serve."""
_END_S = 10.0


class CpuEngine(msgspec.Struct):
    """What ``pd-testkit engine`` says at ``/server_info``, as far as tokens depend on it. No other
    engine says all of this.

    Attributes:
        model_path: as ``--model`` takes it.
        seed: of the weights.
    """

    model_path: str
    seed: int
    dtype: str
    transport: str
    disaggregation_bootstrap_port: int


class _Ready(msgspec.Struct):
    event: str
    url: str


async def cpu_engine(endpoint: Endpoint) -> CpuEngine | None:
    """What the engine at that URL is; None: not one of ours.

    Raises:
        Unexpected: nothing answers.
    """
    _, body = await endpoint.get("/server_info")
    try:
        return msgspec.json.decode(body, type=CpuEngine)
    except msgspec.DecodeError:
        return None


@asynccontextmanager
async def alone(engine: CpuEngine) -> AsyncIterator[str]:
    """The URL of an engine of that model which does prefill and decode, for as long as this lasts.

    Raises:
        Unexpected: it does not come up.
    """
    command = [sys.executable, "-m", "pd_testkit", "engine", "--role", "both", "--port", "0"]
    command += ["--model", engine.model_path, "--seed", str(engine.seed), "--dtype", engine.dtype]
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
        try:
            url = await _url(process)
            if url is None:
                log.seek(0)
                told = log.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
                again = shlex.join(command)
                raise Unexpected("the oracle", "an engine that serves", told or "nothing", again)
            yield url
        finally:
            await _end(process)


async def _url(process: asyncio.subprocess.Process) -> str | None:
    """Where it serves; None: it does not."""
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), START_S)
        return msgspec.json.decode(line, type=_Ready).url
    except (asyncio.TimeoutError, msgspec.DecodeError):
        return None


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _END_S)
    except asyncio.TimeoutError:
        process.kill()
        await process.wait()
