"""A man in the middle of a side channel of ZMQ messages, and peers that speak them."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import zmq

from pd_testkit.suites.tampering import Frames, Tamper, Way, untouched

JUNK: Frames = [b"", b"\xc1"]
"""No message of any protocol: 0xC1 is the byte that msgpack never uses."""


def endpoint(host: str, port: int) -> str:
    """ZMQ's."""
    return f"tcp://{host}:{port}"


class Interposer:
    """Passes messages on, as `Between`.

    Args:
        upstream: host and port where P really listens.
    """

    def __init__(self, upstream: tuple[str, int], tamper: Tamper = untouched) -> None:
        self.tamper = tamper
        self._upstream = endpoint(*upstream)
        self._passed: dict[Way, list[tuple[bytes, Frames]]] = {way: [] for way in Way}
        self._context = zmq.Context()
        self._context.linger = 0
        self._clients = self._context.socket(zmq.ROUTER)
        # The system's choice: pytest-randomly would have each test draw the same ports.
        self._clients.bind("tcp://127.0.0.1:*")
        port = int(self._clients.get_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
        self.address = ("127.0.0.1", port)
        self._ours = self._context.socket(zmq.PAIR)
        self._ours.bind("inproc://orders")
        self._orders = self._context.socket(zmq.PAIR)
        self._orders.connect("inproc://orders")
        self._thread = threading.Thread(target=self._run, name=f"interposer:{port}")
        self._thread.start()

    def messages(self, way: Way) -> list[Frames]:
        return [frames for _, frames in list(self._passed[way])]

    def repeat_answers(self) -> None:
        self._order(b"repeat")

    def close(self) -> None:
        """Tell whoever still waits some junk, so that it waits no more, and give all back."""
        if self._thread.is_alive():
            self._order(b"close")
            self._thread.join()
            self._context.destroy()

    def _order(self, what: bytes) -> None:
        self._ours.send(what)
        self._ours.recv()

    def _run(self) -> None:
        upstream: dict[bytes, zmq.Socket[bytes]] = {}
        poller = zmq.Poller()
        poller.register(self._clients, zmq.POLLIN)
        poller.register(self._orders, zmq.POLLIN)
        order = b""
        while order != b"close":
            ready = dict(poller.poll())
            if self._clients in ready:
                client, *frames = self._clients.recv_multipart()
                if client not in upstream:
                    upstream[client] = self._context.socket(zmq.DEALER)
                    upstream[client].connect(self._upstream)
                    poller.register(upstream[client], zmq.POLLIN)
                for message in self._pass(Way.ASKED, client, frames):
                    upstream[client].send_multipart(message)
            for client, peer in upstream.items():
                if peer in ready:
                    for message in self._pass(Way.ANSWERED, client, peer.recv_multipart()):
                        self._clients.send_multipart([client, *message])
            if self._orders in ready:
                order = self._orders.recv()
                if order == b"repeat":
                    self.tamper = untouched
                again = [(client, JUNK) for client in upstream]
                for client, frames in self._passed[Way.ANSWERED] if order == b"repeat" else again:
                    self._clients.send_multipart([client, *frames])
                self._orders.send(b"")
        for peer in upstream.values():
            peer.close()

    def _pass(self, way: Way, client: bytes, frames: Frames) -> Sequence[Frames]:
        index = len(self._passed[way])
        self._passed[way].append((client, frames))
        return self.tamper(way, index, frames)


class RawPeers:
    """DEALERs, as `Strangers`.

    Args:
        address: host and port of the listener.
    """

    def __init__(self, address: tuple[str, int], count: int = 1) -> None:
        self._context = zmq.Context()
        self._context.linger = 0
        self._peers = [self._context.socket(zmq.DEALER) for _ in range(count)]
        for peer in self._peers:
            peer.connect(endpoint(*address))

    def send(self, frames: Frames, peer: int = 0) -> None:
        self._peers[peer].send_multipart(frames)

    def answer(self, peer: int = 0, seconds: float = 5.0) -> Frames | None:
        if not self._peers[peer].poll(round(1000 * seconds)):
            return None
        return self._peers[peer].recv_multipart()

    def is_answered_after(self, junk: Frames, question: Frames, seconds: float) -> bool:
        """It is by two answers, as one may be a refusal of the junk; asked more than once, as the
        listener may drop a connection."""
        self.send(junk)
        answers = 0
        deadline = time.monotonic() + seconds
        while answers < 2 and time.monotonic() < deadline:
            self.send(question)
            self.send(question)
            while answers < 2 and self.answer(seconds=0.5):
                answers += 1
        return answers == 2

    def vanish(self) -> None:
        for peer in self._peers:
            peer.close(linger=1000)
        self._peers.clear()

    def close(self) -> None:
        self._context.destroy()
