"""Registrations over ZMQ: the proxy's listener, and the engine's side.

Engines speak to the listener's ROUTER socket by a DEALER; `registration` has the messages and
`signature` their signed form. Each message is answered by a msgpack map, ``{type: "ok"}`` or
``{type: "refused", reason}``, which a sender need not read: ATOM's and vLLM's do not.

Whoever reaches the listener can draw requests to an address of his choice. So it belongs on the
loopback or in a closed network, and elsewhere has a secret.
"""

from __future__ import annotations

import logging
import math
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import msgspec
import zmq

from pd_testkit.proxy.instances import Engine
from pd_testkit.proxy.registration import MAX_BYTES, BadRegistration, Goodbye, pack, parse
from pd_testkit.proxy.signature import NONCE_BYTES, Verifier, sign

DEFAULT_ENDPOINT = "tcp://127.0.0.1:36367"
"""ATOM's port, on the loopback only. vLLM's engines are told theirs (30001 in its examples)."""

_CUT_OFF_BYTES = 8 * MAX_BYTES
"""Whoever sends a larger message is disconnected before it is in memory."""

_logger = logging.getLogger(__name__)


class Listener:
    """A thread that takes registrations in until it is closed.

    The callbacks run in that thread, one at a time, in the order in which a peer sent. One that
    raises ValueError refuses: the peer is told, and nothing else happens.

    Args:
        endpoint: ``tcp://host:port``; port 0: any that is free.
        on_registration: an engine registered, or said that it is still there.
        on_goodbye: an engine leaves.
        secret: what is not signed with it is refused; at least 16 bytes. None: nothing is signed.
        clock: seconds since 1970, as the engines' clocks have it. For signatures only.

    Raises:
        OSError: it cannot listen there.
        ValueError: the secret is too short.
    """

    endpoint: str
    """With the port that was found."""

    def __init__(
        self,
        endpoint: str,
        on_registration: Callable[[Engine], object],
        on_goodbye: Callable[[Goodbye], object],
        *,
        secret: bytes | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._verifier = None if secret is None else Verifier(secret)
        self._on_registration = on_registration
        self._on_goodbye = on_goodbye
        self._clock = clock
        self._context = zmq.Context()
        self._socket = _bound(self._context, endpoint)
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._thread = threading.Thread(target=self._listen, name="pd-discovery", daemon=True)
        self._thread.start()

    @property
    def listening(self) -> bool:
        """Until it is closed. For a health check."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Give port, thread and connections back; no callback is called any more. May be repeated.

        Must not be called by a callback.
        """
        self._context.term()
        self._thread.join()

    def _listen(self) -> None:
        with self._socket:
            while True:
                try:
                    identity, *frames = self._socket.recv_multipart()
                    # A peer that is gone, or that never reads, makes this no slower: a ROUTER
                    # drops what it cannot send.
                    self._socket.send_multipart([identity, self._answer(frames)], zmq.NOBLOCK)
                except zmq.ContextTerminated:
                    return

    def _answer(self, frames: list[bytes]) -> bytes:
        """Act on one message, whatever it is."""
        try:
            self._take(frames)
        except ValueError as error:
            reason = str(error)
            _logger.warning("registration refused: %s", reason)
        except Exception:
            reason = "the proxy failed"
            _logger.exception("a registration could not be taken in")
        else:
            return msgspec.msgpack.encode({"type": "ok"})
        return msgspec.msgpack.encode({"type": "refused", "reason": reason})

    def _take(self, frames: list[bytes]) -> None:
        if len(frames) != 1:
            raise BadRegistration(f"a message of {len(frames)} frames, where one is expected")
        raw = frames[0]
        if self._verifier is not None:
            raw = self._verifier.open(raw, self._clock())
        message = parse(raw)
        if isinstance(message, Goodbye):
            self._on_goodbye(message)
        else:
            self._on_registration(message)


class Registrar:
    """An engine's side: registers with a proxy, again and again, and says goodbye at the end.

    A proxy that is not there yet, or that went away and came back, is registered with as soon as
    it is reached.

    Args:
        endpoint: the proxy's, ``tcp://host:port``.
        engine: as the proxy shall know it.
        interval_s: between two registrations; a third or less of the proxy's lifetime, so that
            one may be lost.
        secret: the proxy's.
        clock: seconds since 1970. For signatures only.
    """

    def __init__(
        self,
        endpoint: str,
        engine: Engine,
        *,
        interval_s: float = 3.0,
        secret: bytes | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._endpoint = endpoint
        self._engine = engine
        self._interval_s = interval_s
        self._secret = secret
        self._clock = clock
        self._heartbeat = 0
        self._answered = threading.Event()
        self._refusal = ""
        self._goodbye = True
        self._context = zmq.Context()
        self._dealer = self._context.socket(zmq.DEALER)
        # Nothing is queued for a proxy that is not connected: old heartbeats are worth nothing.
        self._dealer.setsockopt(zmq.IMMEDIATE, 1)
        self._dealer.setsockopt(zmq.LINGER, 1000)
        if "[" in endpoint:
            self._dealer.setsockopt(zmq.IPV6, 1)
        self._dealer.connect(endpoint)
        self._closing, self._closed = socket.socketpair()
        self._thread = threading.Thread(target=self._beat, name="pd-registrar", daemon=True)
        self._thread.start()

    def registered(self, timeout_s: float) -> bool:
        """Whether the proxy has taken the engine in; waits for its first answer.

        Raises:
            BadRegistration: it refused, and said why.
        """
        if not self._answered.wait(timeout_s):
            return False
        if self._refusal:
            raise BadRegistration(self._refusal)
        return True

    def close(self, *, goodbye: bool = True) -> None:
        """Say goodbye if the proxy is there, and end. May be repeated.

        Args:
            goodbye: False: end without a word, as an engine that died.
        """
        self._goodbye = goodbye
        self._closing.close()
        self._thread.join()
        self._context.term()

    def _beat(self) -> None:
        poller = zmq.Poller()
        poller.register(self._closed.fileno(), zmq.POLLIN)
        due = time.monotonic()
        with self._closed, self._dealer:
            while True:
                left = due - time.monotonic()
                # Until the proxy can be sent to there is nothing to wait for but that.
                poller.register(self._dealer, zmq.POLLIN | (0 if left > 0 else zmq.POLLOUT))
                ready = dict(poller.poll(math.ceil(left * 1000) if left > 0 else None))
                if self._closed.fileno() in ready:
                    break
                events = ready.get(self._dealer, 0)
                if events & zmq.POLLIN:
                    self._hear(self._dealer.recv())
                if events & zmq.POLLOUT and left <= 0:
                    self._heartbeat += 1
                    self._send(replace(self._engine, heartbeat=self._heartbeat))
                    due = time.monotonic() + self._interval_s
            if self._goodbye:
                self._send(Goodbye(self._engine.leg, self._engine.url))

    def _send(self, message: Engine | Goodbye) -> None:
        raw = pack(message)
        if self._secret is not None:
            raw = sign(raw, self._secret, self._clock(), secrets.token_bytes(NONCE_BYTES))
        try:
            self._dealer.send(raw, zmq.NOBLOCK)
        except zmq.Again:
            _logger.info("no proxy to send to at %s", self._endpoint)

    def _hear(self, raw: bytes) -> None:
        try:
            answer = msgspec.msgpack.decode(raw, type=_Answer)
        except ValueError as error:
            _logger.warning("%s answers in a form of its own: %s", self._endpoint, error)
            return
        self._refusal = answer.reason
        self._answered.set()


class _Answer(msgspec.Struct):
    type: str
    reason: str = ""


def _bound(context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> zmq.Socket[bytes]:
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, 0)
    router.setsockopt(zmq.MAXMSGSIZE, _CUT_OFF_BYTES)
    # vLLM's engines connect under an identity of their own. One that comes back before its old
    # connection is known to be dead would not be heard otherwise.
    router.setsockopt(zmq.ROUTER_HANDOVER, 1)
    router.setsockopt(zmq.TCP_KEEPALIVE, 1)
    if "[" in endpoint:
        router.setsockopt(zmq.IPV6, 1)
    try:
        router.bind(endpoint)
    except zmq.ZMQError as error:
        router.close()
        context.term()
        number = error.errno or 0
        reason = f"cannot listen for registrations at {endpoint}: {zmq.strerror(number)}"
        raise OSError(number, reason) from None
    return router
