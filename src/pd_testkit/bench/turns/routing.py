"""A router's mode, and another one: by the routes that the kit's proxy has, as the seed's has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from pd_testkit.bench.endpoint import Endpoint, Unexpected

_PATIENCE_S = 10.0
"""For the router to take its old mode back."""


class NoModes(ValueError):
    """A router cannot be told which way requests go."""


class _Mode(msgspec.Struct):
    mode: str
    modes: list[str] = []


class Routing:
    """A router's mode."""

    def __init__(self, router: Endpoint) -> None:
        self._router = router

    @asynccontextmanager
    async def borrowed(self, wanted: Collection[str]) -> AsyncIterator[None]:
        """For as long as others set the mode; it gets back the one that it has, whatever happens.

        Raises:
            NoModes: it has none, or not these.
            Unexpected: nothing answers.
        """
        former = await self.mode(wanted)
        try:
            yield
        finally:
            try:
                await _surely(self.switch(former))
            except asyncio.TimeoutError:
                asked = f"POST /mode/{former}"
                again = f"curl -sS -X POST {self._router.url}/mode/{former}"
                raise Unexpected(asked, "an answer", "none", again) from None

    async def switch(self, mode: str) -> None:
        """All requests to come go that way, as those of conversations that never were before.

        Raises:
            NoModes: it does not take the mode.
            Unexpected: nothing answers.
        """
        status, _ = await self._router.call("POST", f"/mode/{mode}")
        if status != 200:
            raise NoModes(f"{self._router.url} does not take the mode {mode}: status {status}")
        await self._router.call("POST", "/conversations/clear")

    async def mode(self, wanted: Collection[str] = ()) -> str:
        """The one that it is in.

        Raises:
            NoModes: it has none, or not the wanted ones.
            Unexpected: nothing answers.
        """
        url = self._router.url
        status, body = await self._router.get("/mode")
        try:
            told = msgspec.json.decode(body, type=_Mode) if status == 200 else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            told = None
        if told is None:
            raise NoModes(
                f"{url} has no modes to switch between (GET /mode: status {status}), which "
                "pd-testkit proxy has; with other routers give a deployment for each mode: "
                "--endpoint-of pd=URL --endpoint-of aggregated=URL"
            )
        if told.modes and (unknown := set(wanted) - set(told.modes)):
            raise NoModes(f"{url} has no mode {unknown.pop()}; choose of {', '.join(told.modes)}")
        return told.mode


async def _surely(work: Coroutine[Any, Any, None]) -> None:
    """Does it to its end, also where its caller is cancelled meanwhile, however often.

    Raises:
        asyncio.TimeoutError: it takes too long.
    """
    task = asyncio.ensure_future(asyncio.wait_for(work, _PATIENCE_S))
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    task.result()
    if cancelled:
        raise asyncio.CancelledError
