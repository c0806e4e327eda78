"""Sends requests: when they are due (an open loop), or as soon as a user is free (a closed one)."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any, Protocol

from pd_testkit.bench.client import Observed, Planned

CarryOut = Callable[[Planned], Awaitable[Observed]]
Seen = Callable[[Observed], None]
"""Gets what became of each request, in the order in which they end."""

_AFTER_A_REFUSAL_S = 0.1


class Clock(Protocol):
    """Seconds since the run began."""

    def now(self) -> float: ...

    async def until(self, when: float) -> None:
        """Returns at once where that is past."""


class Monotonic:
    """The machine's clock.

    Args:
        begin: what it shows now.
    """

    def __init__(self, begin: float = 0.0) -> None:
        self.set(begin)

    def set(self, now: float) -> None:
        """Nobody may be waiting for a time."""
        self._origin = time.perf_counter() - now

    def now(self) -> float:
        return time.perf_counter() - self._origin

    async def until(self, when: float) -> None:
        while (left := when - self.now()) > 0:
            await asyncio.sleep(left)


async def open_loop(
    plans: Iterable[Planned], carry_out: CarryOut, seen: Seen, clock: Clock
) -> None:
    """Sends each when it is due, however many are not answered yet, and waits for all answers.

    Cancelled, it ends all that are under way.

    Args:
        plans: in the order in which they are due.
    """

    async def one(plan: Planned) -> None:
        seen(await carry_out(plan))

    async with _Crowd() as crowd:
        for plan in plans:
            await clock.until(plan.due or 0.0)
            crowd.begin(one(plan))
            crowd.check()


async def closed_loop(
    plans: Iterator[Planned],
    concurrency: int,
    carry_out: CarryOut,
    seen: Seen,
    clock: Clock,
    end: float = math.inf,
) -> None:
    """`concurrency` users, each with the next request as soon as the last one is answered.

    Cancelled, it ends all that are under way.

    Args:
        end: when the last request may be sent; what is under way then is waited for.
    """

    async def user() -> None:
        while clock.now() < end and (plan := next(plans, None)) is not None:
            observed = await carry_out(plan)
            seen(observed)
            if observed.request.error == "unreachable":
                await clock.until(clock.now() + _AFTER_A_REFUSAL_S)

    async with _Crowd() as crowd:
        for _ in range(concurrency):
            crowd.begin(user())


class _Crowd:
    """Tasks that end together: left, it waits for them; where one fails, the others are cancelled.
    (Python 3.10 has no TaskGroup.)"""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self._failed: list[BaseException] = []

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            self._failed.append(problem)

    def check(self) -> None:
        """
        Raises:
            BaseException: what a task raised.
        """
        if self._failed:
            raise self._failed[0]

    async def __aenter__(self) -> _Crowd:
        return self

    async def __aexit__(self, kind: Any, problem: Any, trace: Any) -> None:
        try:
            while self._running and kind is None:
                await asyncio.wait(self._running, return_when=asyncio.FIRST_EXCEPTION)
                self.check()
        finally:
            left = tuple(self._running)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        if kind is None:
            self.check()
