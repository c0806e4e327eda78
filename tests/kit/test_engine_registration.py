"""The engine's heartbeats, as a router's listener hears them."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgpack
import pytest
import zmq

from pd_testkit.engine.faults import Faults, parse
from pd_testkit.engine.registration import Registration, records
from pd_testkit.proxy.discovery import Listener
from pd_testkit.proxy.instances import Engine, Registry
from pd_testkit.proxy.registration import Goodbye

WAIT_S = 30.0


def engines(
    role: str = "prefill", protocol: str = "nixl", writes: bool = False
) -> Sequence[Engine]:
    return records(
        role,
        host="127.0.0.1",
        port=8000,
        side_channel_port=9000,
        protocol=protocol,
        writes=writes,
        tp_size=2,
        dp_size=3,
    )


class Router:
    """Hears registrations and goodbyes, in order."""

    def __init__(self, endpoint: str = "tcp://127.0.0.1:0") -> None:
        self.heard: queue.SimpleQueue[Engine | Goodbye] = queue.SimpleQueue()
        self._listener = Listener(endpoint, self.heard.put, self.heard.put)
        self.endpoint = self._listener.endpoint

    def next(self) -> Engine | Goodbye:
        return self.heard.get(timeout=WAIT_S)

    def goodbye(self) -> Goodbye:
        """The next one, whatever heartbeats come before it."""
        while True:
            message = self.next()
            if isinstance(message, Goodbye):
                return message

    def close(self) -> None:
        self._listener.close()


@contextmanager
def router(endpoint: str = "tcp://127.0.0.1:0") -> Iterator[Router]:
    made = Router(endpoint)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def registered(
    endpoints: Sequence[str], of: Sequence[Engine], faults: Faults | None = None
) -> Iterator[Registration]:
    registration = Registration(endpoints, of, interval_s=0.01, faults=faults or Faults())
    try:
        yield registration
    finally:
        registration.close()


def test_all_routers_hear_of_the_engine_until_it_leaves() -> None:
    (engine,) = engines()
    with router() as one, router() as other:
        with registered([one.endpoint, other.endpoint], [engine]):
            for each in (one, other):
                assert [each.next(), each.next()] == [engine, engine]
        for each in (one, other):
            assert each.goodbye() == Goodbye("prefill", "http://127.0.0.1:8000")


def test_an_engine_of_both_roles_registers_for_both_legs() -> None:
    with router() as one, registered([one.endpoint], engines("both")):
        legs = set()
        while len(legs) < 2:
            message = one.next()
            assert isinstance(message, Engine)
            legs.add(message.leg)


def test_a_router_that_comes_back_hears_of_the_engine() -> None:
    with router() as one:
        endpoint = one.endpoint
    with registered([endpoint], engines()):
        with router(endpoint) as one:
            assert one.next() == engines()[0]
        with router(endpoint) as one:
            assert one.next() == engines()[0]


def test_a_router_that_is_away_holds_nothing_up() -> None:
    with router() as one:
        endpoint = one.endpoint
    with registered([endpoint], engines()):
        pass


def test_heartbeats_stop_without_a_goodbye_and_begin_again() -> None:
    faults = Faults()
    (engine,) = engines()
    with router() as one, registered([one.endpoint], [engine], faults):
        assert one.next() == engine
        faults.add(parse("stop-heartbeats"))
        assert faults.fired()["stop-heartbeats"] == 1
        marker = Engine("decode", "http://127.0.0.1:1")
        with registered([one.endpoint], [marker]):
            # All that the engine had sent is heard before what others send now.
            while one.next() != marker:
                continue
            assert [one.next() for _ in range(5)] == [marker] * 5
        assert one.goodbye().url == marker.url
        faults.clear()
        assert one.next() == engine
    assert faults.fired()["stop-heartbeats"] == 1


def test_an_engine_may_be_silent_from_its_start() -> None:
    faults = Faults([parse("stop-heartbeats")])
    with router() as one, registered([one.endpoint], engines(), faults):
        assert faults.fired()["stop-heartbeats"] == 1
        faults.clear("stop-heartbeats")
        assert one.next() == engines()[0]


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        (
            "nixl",
            {
                "type": "register",
                "role": "P",
                "request_address": "http://127.0.0.1:8000/v1/completions",
                "handshake_port": 9000,
            },
        ),
        (
            "p2p_nccl",
            {
                "type": "P",
                "http_address": "127.0.0.1:8000",
                "zmq_address": "127.0.0.1:9000",
            },
        ),
        (
            "moriio",
            {
                "type": "P",
                "http_address": "127.0.0.1:8000",
                "zmq_address": "host:127.0.0.1,handshake:9000,notify:9000",
            },
        ),
    ],
)
def test_a_heartbeat_has_the_form_of_its_protocol(
    protocol: str, expected: dict[str, object]
) -> None:
    context = zmq.Context()
    hears = context.socket(zmq.ROUTER)
    hears.set(zmq.LINGER, 0)
    try:
        port = hears.bind_to_random_port("tcp://127.0.0.1")
        with registered([f"tcp://127.0.0.1:{port}"], engines(protocol=protocol, writes=True)):
            assert hears.poll(1000 * WAIT_S)
            _, raw = hears.recv_multipart()
    finally:
        hears.close()
        context.term()
    message = msgpack.unpackb(raw)
    # vllm-router takes MoRI-IO's modes in capitals only.
    mode = "write" if protocol == "nixl" else "WRITE"
    sizes = {"tp_size": 2, "dp_size": 3, "transfer_mode": mode, "protocol": protocol}
    assert {name: message[name] for name in (*expected, *sizes)} == {**expected, **sizes}


@pytest.mark.parametrize("protocol", ["nixl", "p2p_nccl", "moriio"])
def test_the_proxy_takes_the_engine_for_what_it_is(protocol: str) -> None:
    registry = Registry()
    for engine in engines("both", protocol):
        registry.register(engine, 0.0)
    (p,), (d,) = registry.instances("prefill"), registry.instances("decode")
    assert (p.protocol, d.protocol) == (protocol, protocol)
    assert p.engine.handshake_port == 9000
