"""Asks processes whether they are ready, until they are."""

from __future__ import annotations

import asyncio
import os
from types import TracebackType

import aiohttp

from pd_testkit.stack.plan import Probe, Readiness

PROBE_S = 5.0
"""For one answer."""
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.02, 0.5


class Prober:
    """Asks over HTTP. Use it as an asynchronous context."""

    async def __aenter__(self) -> Prober:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PROBE_S))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def missing(self, ready: Readiness) -> str | None:
        """What the first of the probes that fails does not see; None when the process is ready."""
        for probe in ready.probes:
            if missing := await self._missing(probe, ready):
                return missing
        return None

    async def wait(self, ready: Readiness) -> None:
        """Until all probes have seen what they look for, each of them once.

        Raises:
            TimeoutError: not within the deadline; what was missing to the last.
        """
        end = asyncio.get_running_loop().time() + ready.deadline_s
        for probe in ready.probes:
            pause = _FIRST_PAUSE_S
            while missing := await self._missing(probe, ready):
                if asyncio.get_running_loop().time() + pause > end:
                    raise TimeoutError(f"not ready within {ready.deadline_s:g} s: {missing}")
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LAST_PAUSE_S)

    async def _missing(self, probe: Probe, ready: Readiness) -> str | None:
        try:
            async with self._session.get(probe.url, headers=ready.headers) as answer:
                return probe.missing(answer.status, await answer.read())
        except asyncio.TimeoutError:
            return f"{probe.url} does not answer within {PROBE_S:g} s"
        except (aiohttp.ClientError, OSError) as problem:
            return f"{probe.url} does not answer: {_reason(problem)}"


def _reason(problem: Exception) -> str:
    if isinstance(problem, OSError) and problem.errno:
        return os.strerror(problem.errno)
    return str(problem) or type(problem).__name__
