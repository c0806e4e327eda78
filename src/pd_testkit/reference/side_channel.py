"""The side channel between workers: a listener thread and a client, over ZMQ."""

from __future__ import annotations

import itertools
import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import zmq

from pd_testkit.reference.paths import zmq_path
from pd_testkit.reference.side_channel_messages import (
    Answer,
    Claim,
    Claimed,
    DigestQuery,
    Digests,
    Geometry,
    Handshake,
    Meet,
    Message,
    Refusal,
    Refused,
    Request,
    check_descriptors,
    check_fit,
    decode_answer,
    decode_incoming,
    encode,
)

MAX_REQUEST_BYTES = 4 << 20
"""Of one frame to a listener; ZMQ drops the connection of a peer that sends more."""
MAX_ANSWER_BYTES = 64 << 20
RESOLVE_S = 1.0
"""For which a name with several addresses is tried out before it is told something."""
LINGER_MS = 100
"""For which a closing client goes on to send what it was told to."""

_log = logging.getLogger(__name__)
_watched = itertools.count()


class PeerSilent(TimeoutError):
    """The peer did not answer in time, or cannot be reached."""


class Listener:
    """Answers peers on a thread of its own, whatever they send.

    Args:
        handshake: what to tell peers; called on the thread, once per peer that asks.
        on_message: takes what peers tell; called on the thread, in the order of arrival.
        digests: answers queries for digests. None: they are refused.
        claims: answers claims. None: they are refused.
        converts: peers of another layout fit.
        host: a name or an address of this machine.
        port: 0 for any.

    Raises:
        OSError: the address cannot be listened on.
    """

    def __init__(
        self,
        handshake: Callable[[], Handshake],
        on_message: Callable[[Message], None],
        *,
        digests: Callable[[DigestQuery], Digests] | None = None,
        claims: Callable[[Claim], Claimed] | None = None,
        converts: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._handshake = handshake
        self._on_message = on_message
        self._digests = digests
        self._claims = claims
        self._converts = converts
        self._context = zmq.Context()
        self._peers = self._context.socket(zmq.ROUTER)
        self._peers.set(zmq.LINGER, 0)
        self._peers.set(zmq.IPV6, 1)
        self._peers.set(zmq.MAXMSGSIZE, MAX_REQUEST_BYTES)
        try:
            self._peers.bind(zmq_path("tcp", _addresses(host, port)[0], port))
        except OSError:
            self._context.destroy()
            raise
        except zmq.ZMQError as error:
            self._context.destroy()
            raise OSError(error.errno, f"{host}:{port}: {error.strerror}") from error
        bound = self._peers.get_string(zmq.LAST_ENDPOINT)
        self.address: tuple[str, int] = (host, int(bound.rpartition(":")[2]))
        closing = "inproc://closing"
        self._stop = self._context.socket(zmq.PAIR)
        self._stop.bind(closing)
        self._stopped = self._context.socket(zmq.PAIR)
        self._stopped.connect(closing)
        self._thread = threading.Thread(target=self._serve, name=f"side-channel:{self.address[1]}")
        self._thread.start()

    def close(self) -> None:
        """Stop listening; returns when the thread is gone. Harmless twice."""
        if not self._context.closed:
            self._stop.send(b"")
            self._thread.join()
            self._context.destroy(linger=0)

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._peers, zmq.POLLIN)
        poller.register(self._stopped, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self._stopped in ready:
                return
            peer, *frames = self._peers.recv_multipart()
            answer = self._answer(frames)
            if answer is not None:
                self._peers.send_multipart([peer, *encode(answer)])

    def _answer(self, frames: list[bytes]) -> Answer | None:
        try:
            message = decode_incoming(frames)
            if isinstance(message, Meet):
                ours = self._handshake()
                check_fit(ours.geometry, message.geometry, converts=self._converts)
                return ours
            if isinstance(message, DigestQuery):
                if self._digests is None:
                    raise Refused("digests", "none are kept", "asked for")
                return self._digests(message)
            if isinstance(message, Claim):
                if self._claims is None:
                    raise Refused("claims", "none are kept", "asked for")
                return self._claims(message)
            self._on_message(message)
        except Refused as refused:
            return Refusal(refused.what, refused.ours, refused.theirs)
        except Exception as error:  # one peer's message must not end the others' service
            _log.exception("side channel: a message could not be served")
            return Refusal("message", f"{type(error).__name__}", "cannot be served")
        return None


class Client:
    """Speaks to the listeners of peers; may be used by several threads at once.

    Args:
        converts: peers of another layout fit.
        hasty: a peer that refuses or drops the connection is silent at once, and not given the
            time to come back.
    """

    def __init__(self, *, converts: bool = False, hasty: bool = False) -> None:
        self._converts = converts
        self._hasty = hasty
        self._context = zmq.Context()
        self._lock = threading.Lock()
        self._told: dict[tuple[str, int], Any] = {}

    def meet(self, host: str, port: int, ours: Geometry, timeout_s: float) -> Handshake:
        """Ask a peer who it is. Blocks without using the CPU.

        Raises:
            Refused: the two do not fit, or its answer cannot be read.
            PeerSilent: no answer in ``timeout_s`` seconds.
        """
        peer = self._ask(host, port, Meet(ours), timeout_s)
        if not isinstance(peer, Handshake):
            raise Refused("answer", "Handshake", type(peer).__name__)
        check_fit(ours, peer.geometry, converts=self._converts)
        check_descriptors(peer)
        return peer

    def digests(self, host: str, port: int, query: DigestQuery, timeout_s: float) -> Digests:
        """What the peer's KV is. Raises as `meet` does."""
        answer = self._ask(host, port, query, timeout_s)
        if not isinstance(answer, Digests):
            raise Refused("answer", "Digests", type(answer).__name__)
        return answer

    def claim(self, host: str, port: int, claim: Claim, timeout_s: float) -> Claimed:
        """Have the peer keep its KV. Raises as `meet` does."""
        answer = self._ask(host, port, claim, timeout_s)
        if not isinstance(answer, Claimed):
            raise Refused("answer", "Claimed", type(answer).__name__)
        return answer

    def tell(self, host: str, port: int, message: Message) -> None:
        """Send and do not wait; a peer that is away gets it when it is back, until `forget`.

        Raises:
            PeerSilent: the host is not known, or the peer took none of the last thousand.
        """
        with self._lock:
            try:
                peer = self._told.get((host, port))
                if peer is None:
                    peer = self._told[host, port] = self._connected(host, port, RESOLVE_S)
                peer.send_multipart(encode(message), zmq.NOBLOCK)
            except zmq.ZMQError as error:
                raise PeerSilent(f"{host}:{port} was not told: {error}") from error

    def forget(self, host: str, port: int) -> None:
        """What that peer was told and did not get will not be sent any more."""
        with self._lock:
            peer = self._told.pop((host, port), None)
            if peer is not None:
                peer.close()

    def close(self) -> None:
        """Give all back; waits at most `LINGER_MS` for what is still to be sent. What other
        threads ask at that time ends as `PeerSilent`. Harmless twice."""
        with self._lock:
            for peer in self._told.values():
                peer.close(linger=LINGER_MS)
            self._told.clear()
        self._context.term()

    def _ask(
        self, host: str, port: int, request: Request, timeout_s: float
    ) -> Handshake | Digests | Claimed:
        deadline = time.monotonic() + timeout_s
        try:
            with self._connected(host, port, timeout_s) as peer:
                peer.send_multipart(encode(request))
                left = max(0.0, deadline - time.monotonic())
                if self._hasty:
                    left = _await_word(peer, left)
                if not peer.poll(round(1000 * left)):
                    raise PeerSilent(f"{host}:{port} did not answer in {timeout_s} s")
                return decode_answer(peer.recv_multipart())
        except zmq.ZMQError as error:  # such as: `close` was called meanwhile
            raise PeerSilent(f"{host}:{port} was not asked: {error}") from error

    def _connected(self, host: str, port: int, timeout_s: float) -> Any:
        endpoint = zmq_path("tcp", _reachable(host, port, timeout_s), port)
        peer = self._context.socket(zmq.DEALER)
        peer.set(zmq.LINGER, 0)
        peer.set(zmq.IPV6, 1)
        peer.set(zmq.MAXMSGSIZE, MAX_ANSWER_BYTES)
        peer.connect(endpoint)
        return peer


def _await_word(peer: Any, seconds: float) -> float:
    """Wait for an answer, or for the connection's end; gives what time is left, which is none."""
    ends = zmq.EVENT_CONNECT_RETRIED | zmq.EVENT_DISCONNECTED
    # ZMQ's own name has a file descriptor, which the next socket may get before this one is let go.
    with peer.get_monitor_socket(ends, f"inproc://connection/{next(_watched)}") as connection:
        poller = zmq.Poller()
        poller.register(peer, zmq.POLLIN)
        poller.register(connection, zmq.POLLIN)
        poller.poll(round(1000 * seconds))
    peer.disable_monitor()
    return 0.0


def _addresses(host: str, port: int) -> list[str]:
    """A host's addresses, most preferred first.

    Raises:
        OSError: it has none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _reachable(host: str, port: int, timeout_s: float) -> str:
    """The address of a host to connect to. A name with several (IPv6 and IPv4) is tried out, as
    a peer may listen on one of them only.

    Raises:
        PeerSilent: there is none.
    """
    try:
        first, *others = _addresses(host, port)
        if not others:
            return first
        with socket.create_connection((host, port), timeout_s) as probe:
            return str(probe.getpeername()[0])
    except OSError as error:
        raise PeerSilent(f"{host}:{port} cannot be reached: {error}") from error
