"""What the discovery suite sends: registrations in each wire form, from peers of its own.

The messages are packed by msgpack itself, as the engines' own threads do.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from typing import Any, Protocol

from pd_testkit.contract import Discovery, Role

DEADLINE_S = 10.0
"""Nothing takes so long; it is only waited for where a clause is broken."""

_HEARTBEAT_S = 0.25
"""After so long an instance that is not known yet registers once more."""

HTTP = b"""\
GET /health HTTP/1.1\r
Host: 127.0.0.1:36367\r
User-Agent: kube-probe/1.33\r
Accept: */*\r
Connection: close\r
\r
"""
"""To ZMQ, whose first version had no greeting, this is a frame of 71 bytes, and so on."""

_CODES = {Role.PRODUCER: "P", Role.CONSUMER: "D"}


def url(number: int) -> str:
    """Of instance ``number``; nobody ever connects to it."""
    return f"http://10.0.{number // 250}.{number % 250 + 1}:8000"


class Form(Protocol):
    """The fields of a registration, in one wire form."""

    required: tuple[str, str, str]
    """Names of the fields that say what it is, P or D, and its HTTP address, in this order."""
    changed: Mapping[str, Any]
    """Fields that an instance may have otherwise when it comes back."""

    def __call__(
        self, role: Role, number: int, heartbeat: int = 1, **changes: Any
    ) -> dict[str, Any]:
        """Those of instance ``number``, with some changed."""

    def at(self, address: str) -> dict[str, Any]:
        """Those of a P at that ``host:port``, whatever it is."""


class Hello:
    """ATOM's form."""

    required = ("type", "role", "request_address")
    changed: Mapping[str, Any] = {"tp_size": 8, "handshake_port": 7301}

    def __call__(
        self, role: Role, number: int, heartbeat: int = 1, **changes: Any
    ) -> dict[str, Any]:
        return {
            "type": "register",
            "role": _CODES[role],
            "index": str(heartbeat),
            "request_address": f"{url(number)}/v1/completions",
            "handshake_port": 6301,
            "dp_size": 1,
            "tp_size": 1,
            "transfer_mode": "read",
        } | changes

    def at(self, address: str) -> dict[str, Any]:
        return self(Role.PRODUCER, 1, request_address=f"http://{address}/v1/completions")


class RoleAsType:
    """vLLM's form, which has no sequence number."""

    required = ("type", "type", "http_address")
    changed: Mapping[str, Any] = {"zmq_address": "10.9.9.9:24579"}

    def __call__(
        self, role: Role, number: int, heartbeat: int = 1, **changes: Any
    ) -> dict[str, Any]:
        host = url(number).removeprefix("http://").partition(":")[0]
        return {
            "type": _CODES[role],
            "http_address": f"{host}:8000",
            "zmq_address": f"{host}:14579",
        } | changes

    def at(self, address: str) -> dict[str, Any]:
        return self(Role.PRODUCER, 1, http_address=address)


def packed(message: Any) -> bytes:
    """Its msgpack."""
    import msgpack

    return bytes(msgpack.packb(message))


class Peer:
    """An engine's end of a connection: a DEALER socket."""

    def __init__(self, dealer: Any) -> None:
        self._dealer = dealer

    def send(self, *messages: Mapping[str, Any]) -> None:
        """Each as a message of its own; lost, where the connection is gone and does not come
        back."""
        import zmq

        for message in messages:
            with suppress(zmq.Again):
                self._dealer.send(packed(message), zmq.NOBLOCK)

    def send_raw(self, *frames: bytes) -> None:
        """One message of these frames."""
        self._dealer.send_multipart(frames)

    def vanish(self) -> None:
        """Go as soon as what was sent is on its way; no answer is read."""
        self._dealer.close(linger=5000)


class Peers:
    """Peers of one test."""

    def __init__(self) -> None:
        import zmq

        self._context = zmq.Context()
        self._peers: list[Peer] = []

    def new(self, discovery: Discovery, identity: bytes = b"", reconnects: bool = True) -> Peer:
        """One more, connected to the listener.

        Args:
            reconnects: when its connection is cut. Not so the end of one whose host is gone.
        """
        import zmq

        dealer = self._context.socket(zmq.DEALER)
        # A burst must not wait for the listener, and nothing may hold the end of a test up.
        dealer.setsockopt(zmq.SNDHWM, 0)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.RECONNECT_IVL, 10 if reconnects else -1)
        if identity:
            dealer.setsockopt(zmq.IDENTITY, identity)
        dealer.connect(discovery.endpoint())
        self._peers.append(Peer(dealer))
        return self._peers[-1]

    def close(self) -> None:
        """Close the connections of all peers."""
        self._context.destroy(linger=0)


def register(
    discovery: Discovery, peer: Peer, form: Form, role: Role, number: int, heartbeat: int = 1
) -> None:
    """Returns when the instance is known, and so all that the peer sent before is dealt with.

    It registers again from time to time, as engines do: what was on its way is lost when the
    listener cuts the connection.
    """
    other = Role.CONSUMER if role is Role.PRODUCER else Role.PRODUCER
    before = discovery.instances(other)
    deadline = time.monotonic() + DEADLINE_S
    while True:
        peer.send(form(role, number, heartbeat))
        if known(discovery, role, [number], _HEARTBEAT_S):
            return
        heartbeat += 1
        now = discovery.instances(other)
        assert now == before, f"instance {number} registers as {role}, and {now} are {other}s now"
        assert time.monotonic() < deadline, (
            f"instance {number} registers for {DEADLINE_S} s and is not known: the listener is "
            f"dead, or does not hear it"
        )


def known(
    discovery: Discovery, role: Role, numbers: Sequence[int], seconds: float = DEADLINE_S
) -> bool:
    """Whether all these instances are known within so many seconds; waits until they are."""
    wanted = {url(number) for number in numbers}
    deadline = time.monotonic() + seconds
    while not wanted <= set(discovery.instances(role)):
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        discovery.wait(left)
    return True


def speak_tcp(discovery: Discovery, raw: bytes) -> None:
    """Returns when the listener has hung up, or has said nothing for a second."""
    host, _, port = discovery.endpoint().removeprefix("tcp://").rpartition(":")
    stranger = socket.create_connection((host, int(port)), timeout=1)
    with closing(stranger), suppress(OSError):  # of being hung up on, too
        stranger.sendall(raw)
        stranger.shutdown(socket.SHUT_WR)
        while stranger.recv(4096):
            continue
