"""The reference's side channel: a listener and a client over real sockets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import msgspec
import pytest
import zmq

from pd_testkit.fabric import RegionHandle
from pd_testkit.reference import side_channel
from pd_testkit.reference.side_channel import Client, Listener, PeerSilent
from pd_testkit.reference.side_channel_messages import (
    HEADER,
    PROTOCOL,
    Allocated,
    DigestQuery,
    Digests,
    Done,
    Geometry,
    Handshake,
    Meet,
    Message,
    Refusal,
    Refused,
    Written,
    check_descriptors,
    check_fit,
    decode_answer,
    decode_incoming,
    encode,
)

GEOMETRY = Geometry(
    model="m", layers=2, block_size=16, kv_heads=4, head_dim=8, itemsize=2, layout="NHD"
)
SIZE = 3 * 16 * 4 * 8 * 2
"""Bytes of a cache: 3 blocks of 16 tokens, 4 heads of 8 elements of 2 bytes."""
CACHES = {
    f"{layer}.{kind}": (RegionHandle("p", 1, 2 * layer + row, 4096 * (2 * layer + row + 1), SIZE),)
    for layer in range(2)
    for row, kind in enumerate("kv")
}
PEER = Handshake(
    geometry=GEOMETRY, engine_id="P", engine="p", generation=1, num_blocks=3, caches=CACHES
)


class Heard:
    """What a listener was told, in order."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.came = threading.Semaphore(0)

    def __call__(self, message: Message) -> None:
        self.messages.append(message)
        self.came.release()

    def wait(self) -> Message:
        assert self.came.acquire(timeout=10), "nothing was heard"
        return self.messages.pop(0)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def listener(heard: Heard) -> Iterator[Listener]:
    made = Listener(lambda: PEER, heard)
    yield made
    made.close()


@pytest.fixture
def client() -> Iterator[Client]:
    made = Client()
    yield made
    made.close()


@pytest.fixture
def raw(listener: Listener) -> Iterator[zmq.Socket[bytes]]:
    """A peer that sends whatever it likes."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as peer:
        peer.linger = 0
        peer.connect(f"tcp://127.0.0.1:{listener.address[1]}")
        yield peer


def answer(peer: zmq.Socket[bytes]) -> list[bytes]:
    assert peer.poll(10_000), "no answer"
    return peer.recv_multipart()


def test_a_handshake_arrives_whole(listener: Listener, client: Client) -> None:
    assert client.meet(*listener.address, GEOMETRY, 10) == PEER


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_hosts_are_names_and_addresses_of_both_families(client: Client, host: str) -> None:
    try:
        listener = Listener(lambda: PEER, Heard(), host=host)
    except OSError:
        pytest.skip(f"not applicable: this machine has no {host}")
    try:
        assert listener.address[0] == host
        assert client.meet(*listener.address, GEOMETRY, 10) == PEER
    finally:
        listener.close()


@pytest.mark.parametrize(
    "message",
    [
        Done(7, "r"),
        Done("cmpl-7", "r"),
        Allocated(7, "r", (3, 1, 2), 33, 0, "D", "::1", 6301, {"0": CACHES["0.k"][0]}, {"0": 1}),
        Written(7, "r", "p", ok=False),
    ],
)
def test_what_is_told_is_heard(
    listener: Listener, client: Client, heard: Heard, message: Message
) -> None:
    client.tell(*listener.address, message)
    assert heard.wait() == message


def test_what_is_told_is_heard_in_order(listener: Listener, client: Client, heard: Heard) -> None:
    for uid in range(500):
        client.tell(*listener.address, Done(uid, "r"))
    assert [heard.wait() for _ in range(500)] == [Done(uid, "r") for uid in range(500)]


def test_what_was_told_before_closing_is_heard(listener: Listener, heard: Heard) -> None:
    client = Client()
    client.tell(*listener.address, Done(7, "r"))
    client.close()
    assert heard.wait() == Done(7, "r")


def test_digests_are_answered(client: Client) -> None:
    query = DigestQuery(7, (3, 1), tokens=20, first_head=2, heads=2)
    asked = []

    def digests(query: DigestQuery) -> Digests:
        asked.append(query)
        return Digests({"0.k": b"\0\xff"})

    listener = Listener(lambda: PEER, Heard(), digests=digests)
    try:
        assert client.digests(*listener.address, query, 10) == Digests({"0.k": b"\0\xff"})
        assert asked == [query]
    finally:
        listener.close()


def test_digests_that_are_not_kept_are_refused(listener: Listener, client: Client) -> None:
    with pytest.raises(Refused, match="digests"):
        client.digests(*listener.address, DigestQuery(7, (), 0, 0, 1), 10)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", "2"),
        ("model", "n"),
        ("layers", 3),
        ("kv_heads", 8),
        ("head_dim", 16),
        ("itemsize", 1),
        ("layout", "HND"),
        ("mla", True),
    ],
)
def test_both_sides_name_what_does_not_fit(
    listener: Listener, client: Client, field: str, value: object
) -> None:
    other = msgspec.structs.replace(GEOMETRY, **{field: value})
    with pytest.raises(Refused) as refused:
        client.meet(*listener.address, other, 10)
    said = (refused.value.what, refused.value.ours, refused.value.theirs)
    assert said == (field.replace("_", " "), str(value), str(getattr(GEOMETRY, field)))
    with pytest.raises(Refused, match=field.replace("_", " ")):
        check_fit(GEOMETRY, other)


@pytest.mark.parametrize(("ours", "theirs"), [(1, 8), (8, 1), (2, 4)])
def test_sizes_may_differ(ours: int, theirs: int) -> None:
    for field in ("tp_size", "dp_size", "block_size"):
        check_fit(
            msgspec.structs.replace(GEOMETRY, **{field: ours}),
            msgspec.structs.replace(GEOMETRY, **{field: theirs}),
        )


@pytest.mark.parametrize(("field", "theirs"), [("tp_size", 3), ("tp_size", 0), ("block_size", 0)])
def test_sizes_must_make_sense(field: str, theirs: int) -> None:
    with pytest.raises(Refused, match=field.split("_")[0]):
        check_fit(
            msgspec.structs.replace(GEOMETRY, tp_size=2),
            msgspec.structs.replace(GEOMETRY, **{field: theirs}),
        )


def test_descriptors_must_be_whole() -> None:
    (handle,) = CACHES["0.k"]
    halves = (
        handle._replace(size=SIZE // 2),
        handle._replace(region=9, address=handle.address + SIZE // 2, size=SIZE // 2),
    )
    check_descriptors(msgspec.structs.replace(PEER, caches={**CACHES, "0.k": halves}))
    for wrong in (
        (),
        halves[:1],
        (*halves, handle),
        (handle._replace(size=2 * SIZE), handle._replace(size=-SIZE)),
        (handle._replace(engine="q"),),
        (handle._replace(generation=2),),
    ):
        with pytest.raises(Refused, match=r"cache 0\.k"):
            check_descriptors(msgspec.structs.replace(PEER, caches={**CACHES, "0.k": wrong}))
    with pytest.raises(Refused, match="caches: ours 4, theirs 1"):
        check_descriptors(msgspec.structs.replace(PEER, caches={"0.k": (handle,)}))


GOOD = encode(Done(7, "r"))[1]
BAD = {
    "nothing": [b""],
    "another protocol": [b"get_meta_msg"],
    "two of another": [b"pop_done_recv", b"7"],
    "a frame too few": [HEADER],
    "a frame too many": [HEADER, GOOD, b""],
    "an empty payload": [HEADER, b""],
    "a truncated payload": [HEADER, GOOD[:-1]],
    "a payload and more": [HEADER, GOOD + b"\0"],
    "garbage": [HEADER, bytes(range(256))],
    "a megabyte of it": [HEADER, b"\xc1" * (1 << 20)],
    "no map": [HEADER, msgspec.msgpack.encode([1, 2])],
    "an unknown type": [HEADER, msgspec.msgpack.encode({"type": "Stop"})],
    "a field of another type": [
        HEADER,
        msgspec.msgpack.encode({"type": "Done", "transfer_id": 7, "reader": 8}),
    ],
    "a field too few": [HEADER, msgspec.msgpack.encode({"type": "Done", "transfer_id": 7})],
    "another version": [PROTOCOL + b"2", GOOD],
}


@pytest.mark.parametrize("frames", BAD.values(), ids=BAD.keys())
def test_what_cannot_be_read_is_refused_and_the_listener_lives_on(
    listener: Listener,
    client: Client,
    heard: Heard,
    raw: zmq.Socket[bytes],
    frames: list[bytes],
) -> None:
    raw.send_multipart(frames)
    with pytest.raises(Refused, match="version" if frames[0] == PROTOCOL + b"2" else "message"):
        decode_answer(answer(raw))
    assert client.meet(*listener.address, GEOMETRY, 10) == PEER
    assert not heard.messages


def test_a_frame_without_bounds_is_dropped(
    listener: Listener, client: Client, raw: zmq.Socket[bytes]
) -> None:
    raw.send_multipart([HEADER, bytes(5 << 20)])
    assert client.meet(*listener.address, GEOMETRY, 10) == PEER
    assert not raw.poll(0)


@pytest.mark.parametrize("frames", BAD.values(), ids=BAD.keys())
def test_an_answer_that_cannot_be_read_is_refused(frames: list[bytes]) -> None:
    with pytest.raises(Refused):
        decode_answer(frames)


def test_messages_are_told_apart_from_answers() -> None:
    for message in (Meet(GEOMETRY), Done(1, "r")):
        assert decode_incoming(encode(message)) == message
        with pytest.raises(Refused):
            decode_answer(encode(message))
    for reply in (PEER, Digests({}), Refusal("a", "b", "c")):
        with pytest.raises(Refused):
            decode_incoming(encode(reply))


def test_what_the_worker_raises_is_answered(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    def handshake() -> Handshake:
        raise LookupError("no memory yet")

    def on_message(_: Message) -> None:
        raise KeyError("no such transfer")

    listener = Listener(handshake, on_message)
    try:
        client.tell(*listener.address, Done(7, "r"))
        for _ in range(2):
            with pytest.raises(Refused, match="LookupError"):
                client.meet(*listener.address, GEOMETRY, 10)
    finally:
        listener.close()
    assert "no memory yet" in caplog.text


@pytest.fixture
def silent() -> Iterator[tuple[str, int]]:
    """The address of a peer that takes connections and says nothing."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as mute:
        mute.linger = 0
        yield "127.0.0.1", mute.bind_to_random_port("tcp://127.0.0.1")


def test_a_silent_peer_is_given_up_without_using_the_cpu(
    silent: tuple[str, int], client: Client
) -> None:
    wall, cpu = time.monotonic(), time.process_time()
    with pytest.raises(PeerSilent, match=r"0\.3 s"):
        client.meet(*silent, GEOMETRY, 0.3)
    waited = time.monotonic() - wall
    assert 0.29 < waited < 5
    assert time.process_time() - cpu < waited / 2


def test_a_peer_that_is_not_there_is_given_up(client: Client) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(PeerSilent):
            client.meet("127.0.0.1", unused.getsockname()[1], GEOMETRY, 0.05)
    with pytest.raises(PeerSilent, match="cannot be reached"):
        client.meet("no-such-host.invalid", 6301, GEOMETRY, 0.05)


def test_closing_ends_what_is_asked(silent: tuple[str, int]) -> None:
    client, said = Client(), []

    def ask() -> None:
        with pytest.raises(PeerSilent) as silent_peer:
            client.meet(*silent, GEOMETRY, 30)
        said.append(str(silent_peer.value))

    asking = threading.Thread(target=ask)
    asking.start()
    client.close()
    asking.join(10)
    assert not asking.is_alive()
    assert len(said) == 1


def test_closing_does_not_wait_for_peers_that_are_away() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        client = Client()
        client.tell("127.0.0.1", unused.getsockname()[1], Done(7, "r"))
        started = time.monotonic()
        client.close()
        client.close()
        assert time.monotonic() - started < 5


def test_a_peer_that_came_back_hears_what_is_not_forgotten(client: Client, heard: Heard) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    client.tell("127.0.0.1", port, Done(1, "r"))
    client.forget("127.0.0.1", port)
    client.tell("127.0.0.1", port, Done(2, "r"))
    listener = Listener(lambda: PEER, heard, port=port)
    try:
        assert heard.wait() == Done(2, "r")
    finally:
        listener.close()


def test_closing_a_listener_frees_its_port(listener: Listener) -> None:
    listener.close()
    listener.close()
    Listener(lambda: PEER, Heard(), port=listener.address[1]).close()


def test_a_port_that_is_taken_is_an_error(listener: Listener) -> None:
    with pytest.raises(OSError, match="in use"):
        Listener(lambda: PEER, Heard(), port=listener.address[1])


def test_waiting_for_a_word_leaves_the_sockets_number_to_others(listener: Listener) -> None:
    """ZMQ names a socket's monitor by a file descriptor, which the next socket may get."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as peer:
        peer.connect(f"tcp://127.0.0.1:{listener.address[1]}")
        side_channel._await_word(peer, 0.0)
        with context.socket(zmq.PAIR) as other:
            other.bind(f"inproc://monitor.s-{peer.FD}")
