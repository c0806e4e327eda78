"""Who stands between two speakers of any protocol over TCP, and strangers at a listener's door."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pytest

from pd_testkit.suites.relay import PlainPeers, Relay
from pd_testkit.suites.tampering import Frames, Tamper, Way, answers, silence

PATIENCE_S = 10.0


@pytest.fixture
def shouting() -> Iterator[tuple[str, int]]:
    """Where a listener says everything again in capitals, and hangs up on who says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as taken:

        def serve(one: socket.socket) -> None:
            with one:
                while said := one.recv(1 << 16):
                    one.sendall(said.upper())

        def accept() -> None:
            while True:
                one, _ = listener.accept()
                if ended.is_set():
                    one.close()
                    return
                thread = threading.Thread(target=serve, args=(one,))
                taken.callback(thread.join, PATIENCE_S)
                thread.start()

        ended = threading.Event()
        accepting = threading.Thread(target=accept)
        accepting.start()
        yield listener.getsockname()
        ended.set()
        socket.create_connection(listener.getsockname(), PATIENCE_S).close()
        accepting.join(PATIENCE_S)


class Speaker:
    """Somebody who means to speak to the listener, by way of a relay."""

    def __init__(self, relay: Relay) -> None:
        self.socket = socket.create_connection(relay.address, PATIENCE_S)

    def ask(self, what: bytes) -> bytes:
        self.socket.sendall(what)
        return self.socket.recv(1 << 16)


@pytest.fixture
def between(shouting: tuple[str, int]) -> Iterator[tuple[Relay, Speaker]]:
    relay = Relay(shouting)
    speaker = Speaker(relay)
    yield relay, speaker
    relay.close()
    relay.close()
    speaker.socket.close()
    assert not any(thread.name.startswith("relay") for thread in threading.enumerate())


def test_what_is_said_is_passed_and_written_down(between: tuple[Relay, Speaker]) -> None:
    relay, speaker = between
    assert speaker.ask(b"who") == b"WHO"
    assert speaker.ask(b"what") == b"WHAT"
    assert relay.messages(Way.ASKED) == [[b"who"], [b"what"]]
    assert relay.messages(Way.ANSWERED) == [[b"WHO"], [b"WHAT"]]


@pytest.mark.parametrize(
    ("tamper", "heard"),
    [
        (answers(lambda frames: [[frames[0][:2]]]), b"WH"),
        (answers(lambda frames: [[b"other"]]), b"other"),
        (answers(lambda frames: [[b""]]), b""),
    ],
    ids=["cut", "other", "empty"],
)
def test_a_changed_answer_ends_the_connection(
    between: tuple[Relay, Speaker], tamper: Tamper, heard: bytes
) -> None:
    relay, speaker = between
    relay.tamper = tamper
    assert speaker.ask(b"who") == heard
    assert speaker.socket.recv(1) == b"", "hung up"


def test_an_answer_that_was_kept_back_comes_when_it_is_repeated(
    between: tuple[Relay, Speaker],
) -> None:
    relay, speaker = between
    answered = threading.Event()

    def keep(frames: Frames) -> Sequence[Frames]:
        answered.set()
        return []

    relay.tamper = answers(keep)
    speaker.socket.sendall(b"who")
    assert answered.wait(PATIENCE_S)
    relay.repeat_answers()
    assert speaker.socket.recv(1 << 16) == b"WHO"
    assert speaker.ask(b"what") == b"WHAT"


def test_what_is_kept_from_the_listener_is_written_down(between: tuple[Relay, Speaker]) -> None:
    relay, speaker = between
    asked = threading.Event()

    def keep_the_first(way: Way, index: int, frames: Frames) -> Sequence[Frames]:
        if way is Way.ANSWERED or index:
            return [frames]
        asked.set()
        return silence(way, index, frames)

    relay.tamper = keep_the_first
    speaker.socket.sendall(b"who")
    assert asked.wait(PATIENCE_S)
    assert speaker.ask(b"what") == b"WHAT"
    assert relay.messages(Way.ASKED) == [[b"who"], [b"what"]]


def test_who_turns_to_a_listener_that_is_not_there_is_hung_up_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = gone.getsockname()
    relay = Relay(address)
    with socket.create_connection(relay.address, PATIENCE_S) as speaker:
        assert speaker.recv(1) == b""
    relay.close()


def test_a_stranger_knows_a_listener_that_lives_from_one_that_does_not(
    shouting: tuple[str, int],
) -> None:
    stranger = PlainPeers(shouting)
    assert stranger.is_answered_after([b"\xff" * 4096], [b"who"], PATIENCE_S)
    stranger.close()
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        stranger = PlainPeers(deaf.getsockname())
        assert not stranger.is_answered_after([b"\xff"], [b"who"], 0.05)
        stranger.close()


def test_several_strangers_are_told_apart(shouting: tuple[str, int]) -> None:
    strangers = PlainPeers(shouting, 3)
    for number in range(3):
        strangers.send([b"a", b"b" * number], number)
    assert [strangers.answer(number) for number in range(3)] == [[b"A"], [b"AB"], [b"ABB"]]
    strangers.vanish()
    strangers.close()
