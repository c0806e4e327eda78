"""A man in the middle of a side channel of any protocol over TCP, and peers that connect to it."""

from __future__ import annotations

import queue
import selectors
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from pd_testkit.suites.tampering import Frames, Tamper, Way, untouched

_CHUNK = 1 << 16
_PATIENCE_S = 10.0
"""Seconds for one call on a socket."""
_HANG_UP_S = 0.5
"""Seconds for a listener to hang up on who has sent it junk; it need not."""


class Relay:
    """Passes bytes on, as `Between`: what came at once is a message.

    Bytes that were changed end their connection: what would follow is of another answer.

    Args:
        upstream: host and port where P really listens.
    """

    def __init__(self, upstream: tuple[str, int], tamper: Tamper = untouched) -> None:
        self.tamper = tamper
        self._upstream = upstream
        self._passed: dict[Way, list[tuple[socket.socket, bytes]]] = {way: [] for way in Way}
        """Each with the connection to D that it is of."""
        self._peers: dict[socket.socket, tuple[Way, socket.socket]] = {}
        """What comes from a connection goes that way, to the other one."""
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        self._ours, self._theirs = socket.socketpair()
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._ended = False
        for made in (self._listener, self._theirs):
            self._selector.register(made, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name=f"relay:{self.address[1]}")
        self._thread.start()

    def messages(self, way: Way) -> list[Frames]:
        return [[said] for _, said in list(self._passed[way])]

    def repeat_answers(self) -> None:
        self._order(self._repeat)

    def close(self) -> None:
        if self._thread.is_alive():
            self._order(self._end)
            self._thread.join()
            for made in (*self._peers, self._listener, self._ours, self._theirs):
                made.close()
            self._selector.close()

    def _order(self, what: Callable[[], None]) -> None:
        done = threading.Event()
        self._orders.put(what)
        self._orders.put(done.set)
        self._ours.send(b"\0\0")
        done.wait()

    def _run(self) -> None:
        while not (self._ended and self._orders.empty()):
            for key, _ in self._selector.select():
                made = key.fileobj
                assert isinstance(made, socket.socket)
                if made is self._theirs:
                    for _ in made.recv(_CHUNK):
                        self._orders.get()()
                elif made is self._listener:
                    self._accept()
                elif made in self._peers:  # not hung up in this round
                    self._pass(made)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            upstream = socket.create_connection(self._upstream, _PATIENCE_S)
        except OSError:  # P is not there, and so nobody is
            client.close()
            return
        client.settimeout(_PATIENCE_S)
        self._peers[client] = Way.ASKED, upstream
        self._peers[upstream] = Way.ANSWERED, client
        for made in (client, upstream):
            self._selector.register(made, selectors.EVENT_READ)

    def _pass(self, source: socket.socket) -> None:
        way, to = self._peers[source]
        said = _heard(source)
        if not said:
            self._hang_up(source)
            return
        index = len(self._passed[way])
        self._passed[way].append((to if way is Way.ANSWERED else source, said))
        passed = self.tamper(way, index, [said])
        _say(to, *(frame for frames in passed for frame in frames))
        if passed and list(passed) != [[said]]:
            self._hang_up(source)

    def _repeat(self) -> None:
        self.tamper = untouched  # here, so that nothing overtakes what was kept back
        for client, said in self._passed[Way.ANSWERED]:
            if client in self._peers:
                _say(client, said)

    def _end(self) -> None:
        self._ended = True

    def _hang_up(self, one: socket.socket) -> None:
        for made in (one, self._peers[one][1]):
            del self._peers[made]
            self._selector.unregister(made)
            made.close()


class PlainPeers:
    """Connections of TCP, as `Strangers`.

    Args:
        address: host and port of the listener.
    """

    def __init__(self, address: tuple[str, int], count: int = 1) -> None:
        self._address = address
        self._peers: list[socket.socket] = []
        try:
            for _ in range(count):
                self._peers.append(socket.create_connection(address, _PATIENCE_S))
        except OSError:
            self.close()
            raise

    def send(self, frames: Frames, peer: int = 0) -> None:
        _say(self._peers[peer], *frames)

    def answer(self, peer: int = 0, seconds: float = 5.0) -> Frames | None:
        self._peers[peer].settimeout(seconds)
        said = _heard(self._peers[peer])
        return [said] if said else None

    def is_answered_after(self, junk: Frames, question: Frames, seconds: float) -> bool:
        """On a connection of its own, as the listener may hang up on who sends junk; and when it
        has come to the end of the junk."""
        self.send(junk)
        with suppress(OSError):  # it has hung up
            self._peers[0].shutdown(socket.SHUT_WR)
        while self.answer(seconds=_HANG_UP_S):
            continue
        with socket.create_connection(self._address, seconds) as asking:
            _say(asking, *question)
            return bool(_heard(asking))

    def vanish(self) -> None:
        self.close()

    def close(self) -> None:
        for peer in self._peers:
            peer.close()


def _say(to: socket.socket, *said: bytes) -> None:
    with suppress(OSError):  # who has hung up hears nothing
        to.sendall(b"".join(said))


def _heard(source: socket.socket) -> bytes:
    """What came; empty when the other side has hung up, or says nothing within the timeout."""
    try:
        return source.recv(_CHUNK)
    except OSError:
        return b""
