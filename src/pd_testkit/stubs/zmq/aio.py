"""``zmq.asyncio``: the same sockets, whose calls return futures.

A timeout comes when the clock is advanced past it, or when all other threads are blocked in the
sockets: the loop's own thread is never blocked in them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

from pd_testkit.stubs.zmq.constants import Flag, PollEvent, SocketOption
from pd_testkit.stubs.zmq.context import Context as SyncContext
from pd_testkit.stubs.zmq.context import Poller as SyncPoller
from pd_testkit.stubs.zmq.error import Again
from pd_testkit.stubs.zmq.socket import Socket as SyncSocket
from pd_testkit.stubs.zmq.waiting import Waiting


def _attempt(waiting: Waiting, attempt: Callable[[], Any], timeout_ms: int) -> asyncio.Future[Any]:
    """A future of ``attempt()``, tried now and at each change until it does not raise `Again`."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def look(last: bool = False) -> None:
        if future.done():
            return
        try:
            result = attempt()
        except Again as again:
            if last:
                future.set_exception(again)
        except Exception as error:  # handed to whoever awaits
            future.set_exception(error)
        else:
            future.set_result(result)

    look(last=timeout_ms == 0)
    if future.done():
        return future
    with waiting.clock.lock:
        timer = (
            waiting.clock.schedule(timeout_ms / 1000, lambda: _post(loop, lambda: look(last=True)))
            if timeout_ms > 0
            else None
        )
        stop = waiting.watch(lambda: _post(loop, look))

    def done(_: object) -> None:
        with waiting.clock.lock:
            stop()
            if timer is not None:
                timer.cancel()

    future.add_done_callback(done)
    look()
    return future


def _post(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)


class Socket(SyncSocket):
    """Sends and receives at once where it can; otherwise when the future is done."""

    def _later(self, flags: int, option: SocketOption, call: Callable[[int], Any]) -> Any:
        limit = 0 if flags & Flag.DONTWAIT else self._pattern.options[option]
        return _attempt(self._network.waiting, lambda: call(flags | Flag.DONTWAIT), limit)

    def send(self, data: Any, flags: int = 0, *args: Any, **kwargs: Any) -> Any:
        return self._later(
            flags,
            SocketOption.SNDTIMEO,
            lambda now: SyncSocket.send(self, data, now, *args, **kwargs),
        )

    def recv(self, flags: int = 0, copy: bool = True, track: bool = False) -> Any:
        return self._later(
            flags,
            SocketOption.RCVTIMEO,
            lambda now: SyncSocket.recv(self, now, copy, track),
        )

    def send_multipart(
        self,
        msg_parts: Any,
        flags: int = 0,
        copy: bool = True,
        track: bool = False,
        **kwargs: Any,
    ) -> Any:
        parts = list(msg_parts)

        def call(now: int) -> Any:
            for part in parts[:-1]:
                SyncSocket.send(self, part, now | Flag.SNDMORE, copy, track)
            return SyncSocket.send(self, parts[-1], now, copy, track)

        return self._later(flags, SocketOption.SNDTIMEO, call)

    def recv_multipart(self, flags: int = 0, copy: bool = True, track: bool = False) -> Any:
        def call(now: int) -> list[Any]:
            parts = [SyncSocket.recv(self, now, copy, track)]
            while self._unread:
                parts.append(SyncSocket.recv(self, now, copy, track))
            return parts

        return self._later(flags, SocketOption.RCVTIMEO, call)

    def poll(self, timeout: int | None = None, flags: int = PollEvent.POLLIN) -> Any:
        poller = Poller()
        poller.register(self, flags)

        async def events() -> int:
            ready: list[tuple[Any, int]] = await poller.poll(timeout)
            return ready[0][1] if ready else 0

        return asyncio.ensure_future(events())

    def _then(self, received: Any, use: Callable[[Any], Any]) -> Any:
        async def later() -> Any:
            return use(await received)

        return asyncio.ensure_future(later())


class Context(SyncContext):
    _socket_class: ClassVar[type[SyncSocket]] = Socket


class Poller(SyncPoller):
    def poll(self, timeout: float | None = None) -> Any:
        limit = -1 if timeout is None or timeout < 0 else int(timeout)
        if not self.sockets:
            return asyncio.ensure_future(_nothing())

        def look() -> Any:
            found = SyncPoller.poll(self, 0)
            if not found:
                raise Again
            return found

        waiting = self.sockets[0][0]._network.waiting
        return asyncio.ensure_future(_or_nothing(_attempt(waiting, look, limit)))


async def _nothing() -> list[Any]:
    return []


async def _or_nothing(found: asyncio.Future[Any]) -> Any:
    try:
        return await found
    except Again:
        return []
