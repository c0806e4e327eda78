"""The proxy's listener and the engines' registrar, over real sockets on the loopback."""

from __future__ import annotations

import logging
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import msgpack
import pytest
import zmq

from pd_testkit.proxy.discovery import Listener, Registrar
from pd_testkit.proxy.instances import Engine
from pd_testkit.proxy.registration import BadRegistration, Goodbye, pack
from pd_testkit.proxy.signature import sign

pytestmark = pytest.mark.timeout(60)

ANY_PORT = "tcp://127.0.0.1:0"
ENGINE = Engine("prefill", "http://10.0.0.1:8000", tp_size=8, handshake_port=6301)
SECRET = b"a secret of the fleet"
DEADLINE_S = 20.0


class Heard:
    """What a listener's callbacks were given, in order."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Engine | Goodbye] = queue.Queue()
        self.take = self._queue.put

    def next(self) -> Engine | Goodbye:
        return self._queue.get(timeout=DEADLINE_S)

    def nothing_more(self) -> bool:
        return self._queue.empty()


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def listen(heard: Heard) -> Iterator[Callable[..., Listener]]:
    """Starts listeners, which are closed afterwards."""
    started = []

    def start(endpoint: str = ANY_PORT, **options: Any) -> Listener:
        started.append(Listener(endpoint, heard.take, heard.take, **options))
        return started[-1]

    yield start
    for listener in started:
        listener.close()


@pytest.fixture
def connect() -> Iterator[Callable[[str], zmq.Socket[bytes]]]:
    """Makes plain DEALERs, with a limit on how long an answer is waited for."""
    with zmq.Context() as context:
        dealers: list[zmq.Socket[bytes]] = []

        def new(endpoint: str) -> zmq.Socket[bytes]:
            dealer = context.socket(zmq.DEALER)
            dealer.setsockopt(zmq.LINGER, 0)
            dealer.setsockopt(zmq.RCVTIMEO, int(DEADLINE_S * 1000))
            dealer.connect(endpoint)
            dealers.append(dealer)
            return dealer

        yield new
        for dealer in dealers:
            dealer.close()


@pytest.fixture
def reserved() -> Iterator[str]:
    """An endpoint that nobody listens at, and that nobody else is given."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield f"tcp://127.0.0.1:{held.getsockname()[1]}"


def ask(dealer: zmq.Socket[bytes], raw: bytes) -> dict[str, str]:
    dealer.send(raw)
    answer: dict[str, str] = msgpack.unpackb(dealer.recv())
    return answer


class TestListener:
    """The proxy's side."""

    def test_each_message_is_answered(self, listen, connect, heard: Heard) -> None:
        dealer = connect(listen().endpoint)
        assert ask(dealer, pack(ENGINE)) == {"type": "ok"}
        assert heard.next() == ENGINE
        assert ask(dealer, pack(Goodbye("prefill", ENGINE.url))) == {"type": "ok"}
        assert heard.next() == Goodbye("prefill", ENGINE.url)
        answer = ask(dealer, b"GET / HTTP/1.1")
        assert answer["type"] == "refused"
        assert "object" in answer["reason"]
        assert heard.nothing_more()

    def test_a_callback_may_refuse(self, connect) -> None:
        def refuse(engine: Engine) -> None:
            raise ValueError(f"no room for {engine.url}")

        with closing(Listener(ANY_PORT, refuse, refuse)) as listener:
            answer = ask(connect(listener.endpoint), pack(ENGINE))
        assert answer == {"type": "refused", "reason": "no room for http://10.0.0.1:8000"}

    def test_a_callback_that_fails_is_logged_and_outlived(
        self, connect, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(engine: object) -> None:
            raise KeyError("a bug")

        with closing(Listener(ANY_PORT, fail, fail)) as listener:
            dealer = connect(listener.endpoint)
            for _ in range(2):
                assert ask(dealer, pack(ENGINE))["reason"] == "the proxy failed"
            assert listener.listening
        (record, _) = [each for each in caplog.records if each.levelno == logging.ERROR]
        assert "a bug" in caplog.text
        assert record.name == "pd_testkit.proxy.discovery"

    def test_a_port_that_is_taken_is_named(self, listen) -> None:
        endpoint = listen().endpoint
        threads = threading.active_count()
        with pytest.raises(OSError, match=f"{endpoint}: Address already in use"):
            listen(endpoint)
        assert threading.active_count() == threads

    @pytest.mark.parametrize("endpoint", ["127.0.0.1:0", "tcp://127.0.0.1", "tcp://no host:1", ""])
    def test_an_endpoint_that_is_none_is_named(self, listen, endpoint: str) -> None:
        with pytest.raises(OSError, match=f"cannot listen for registrations at {endpoint}: "):
            listen(endpoint)

    def test_closing_gives_the_port_back(self, listen, reserved: str) -> None:
        listener = listen(reserved)
        assert listener.listening
        listener.close()
        assert not listener.listening
        listener.close()
        assert listen(reserved).endpoint == reserved

    def test_it_is_reached_by_ipv6(self, listen, connect, heard: Heard) -> None:
        try:
            listener = listen("tcp://[::1]:0")
        except OSError:
            pytest.skip("not applicable: no IPv6 loopback on this machine")
        with closing(Registrar(listener.endpoint, ENGINE)) as registrar:
            assert registrar.registered(DEADLINE_S)
        assert heard.next() == ENGINE

    def test_with_a_secret_only_signed_messages_are_taken_and_each_once(
        self, listen, connect, heard: Heard
    ) -> None:
        now = [1_800_000_000.0]
        dealer = connect(listen(secret=SECRET, clock=lambda: now[0]).endpoint)
        assert "not signed" in ask(dealer, pack(ENGINE))["reason"]
        message = sign(pack(ENGINE), SECRET, now[0], bytes(16))
        assert ask(dealer, message) == {"type": "ok"}
        assert "replay" in ask(dealer, message)["reason"]
        now[0] += 3600
        assert "3600.0 s ago" in ask(dealer, message)["reason"]
        assert heard.next() == ENGINE
        assert heard.nothing_more()

    def test_a_signed_message_is_refused_where_there_is_no_secret(self, listen, connect) -> None:
        message = sign(pack(ENGINE), SECRET, 1_800_000_000.0, bytes(16))
        assert "signed" in ask(connect(listen().endpoint), message)["reason"]

    def test_a_short_secret_leaves_nothing_behind(self, listen) -> None:
        threads = threading.active_count()
        with pytest.raises(ValueError, match="16 bytes"):
            listen(secret=b"short")
        assert threading.active_count() == threads


class TestRegistrar:
    """The engine's side."""

    def test_it_registers_and_repeats_it_and_says_goodbye(self, listen, heard: Heard) -> None:
        with closing(Registrar(listen().endpoint, ENGINE, interval_s=0.01)) as registrar:
            assert registrar.registered(DEADLINE_S)
            beats = [heard.next() for _ in range(3)]
        assert beats == [ENGINE] * 3
        assert [beat.heartbeat for beat in beats if isinstance(beat, Engine)] == [1, 2, 3]
        while (last := heard.next()) == ENGINE:
            continue
        assert last == Goodbye("prefill", ENGINE.url)

    def test_it_signs_with_the_secret(self, listen, heard: Heard) -> None:
        endpoint = listen(secret=SECRET).endpoint
        with closing(Registrar(endpoint, ENGINE, secret=SECRET)) as registrar:
            assert registrar.registered(DEADLINE_S)
        assert heard.next() == ENGINE
        assert heard.next() == Goodbye("prefill", ENGINE.url)

    def test_a_refusal_is_raised(self, listen) -> None:
        endpoint = listen(secret=SECRET).endpoint
        registrar = Registrar(endpoint, ENGINE)
        with closing(registrar), pytest.raises(BadRegistration, match="not signed"):
            registrar.registered(DEADLINE_S)

    def test_it_waits_for_a_proxy_that_is_late(self, listen, heard: Heard, reserved: str) -> None:
        with closing(Registrar(reserved, ENGINE)) as registrar:
            assert not registrar.registered(0.0)
            listen(reserved)
            assert registrar.registered(DEADLINE_S)
            assert heard.next() == ENGINE

    def test_it_registers_again_with_a_proxy_that_was_restarted(
        self, listen, heard: Heard, reserved: str
    ) -> None:
        first = listen(reserved)
        with closing(Registrar(reserved, ENGINE, interval_s=0.01)) as registrar:
            assert registrar.registered(DEADLINE_S)
            first.close()
            while not heard.nothing_more():
                heard.next()
            listen(reserved)
            assert heard.next() == ENGINE

    def test_it_ends_at_once_where_there_is_no_proxy(self, reserved: str) -> None:
        registrar = Registrar(reserved, ENGINE)
        registrar.close()
        registrar.close()
        assert not registrar.registered(0.0)
