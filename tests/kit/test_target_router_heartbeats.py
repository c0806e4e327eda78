"""The heartbeats by which the kit's engines register with a router."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest
import zmq

from pd_testkit.contract import Instance, Role
from pd_testkit.targets.router.discovered import Heartbeats


@pytest.fixture
def heard() -> Iterator[tuple[Heartbeats, Callable[[], dict[str, Any]]]]:
    """Heartbeats, and the next one that a listener hears."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as listener:
        listener.linger = 0
        port = listener.bind_to_random_port("tcp://127.0.0.1")
        beats = Heartbeats(port)

        def following() -> dict[str, Any]:
            assert listener.poll(10_000), "no heartbeat"
            _, message = listener.recv_multipart()
            return msgpack.unpackb(message)

        yield beats, following
        beats.close()


@pytest.fixture
def engine() -> Iterator[Callable[[Role], Instance]]:
    """An engine of that role, which listens."""
    open_sockets = []

    def listening(role: Role) -> Instance:
        open_sockets.append(socket.create_server(("127.0.0.1", 0)))
        return Instance(role, f"http://127.0.0.1:{open_sockets[-1].getsockname()[1]}")

    yield listening
    for each in open_sockets:
        each.close()


def first_of(following: Callable[[], dict[str, Any]], letter: str) -> dict[str, Any]:
    """The first heartbeat of that kind, behind what was under way of others."""
    return next(said for said in iter(following, None) if said["type"] == letter)


def test_an_engine_is_named_as_vllms_connector_names_itself(heard: Any, engine: Any) -> None:
    beats, following = heard
    for role, letter in ((Role.PRODUCER, "P"), (Role.CONSUMER, "D")):
        instance = engine(role)
        address = instance.url.removeprefix("http://")
        beats.begin(instance)
        said = first_of(following, letter)
        assert said["http_address"] == address
        assert said["zmq_address"]
        beats.cease(role, instance.url)


def test_a_beat_follows_the_other_until_they_cease(heard: Any, engine: Any) -> None:
    beats, following = heard
    first, second = engine(Role.PRODUCER), engine(Role.CONSUMER)
    beats.begin(first)
    assert [following()["type"] for _ in range(3)] == ["P"] * 3
    beats.cease(Role.PRODUCER, first.url)
    beats.begin(second)
    first_of(following, "D")
    assert [following()["type"] for _ in range(2)] == ["D"] * 2


def test_an_engine_that_does_not_listen_sends_none(heard: Any, engine: Any) -> None:
    beats, following = heard
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        dead = Instance(Role.PRODUCER, f"http://127.0.0.1:{deaf.getsockname()[1]}")
        beats.begin(dead)
        beats.begin(engine(Role.CONSUMER))
        assert [following()["type"] for _ in range(3)] == ["D"] * 3
