"""The checks of P's listener: what others send to it must not end it."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

import pytest

from pd_testkit.suites.base import clause
from pd_testkit.suites.meeting import by_way_of
from pd_testkit.suites.tampering import Way

MEBIBYTE = 1 << 20


class Door:
    """P's listener, which D has met only by way of somebody who wrote down what D said."""

    def __init__(self, meeting) -> None:
        self.met = meeting()
        between = self.met.between()
        self.met.fetch("known", by_way_of(between, self.met.hand_off("known")))
        self.met.until(
            lambda: bool(self.met.sent["known"]), "P was not told that its blocks are free"
        )
        self.said = between.messages(Way.ASKED)
        """The question for P's handshake first, and what followed it."""

    def send(self, *junk) -> None:
        """Send each of the messages from a peer of its own; the listener must answer what is asked
        next."""
        for frames in junk:
            stranger = self.met.strangers()
            answers = stranger.is_answered_after(frames, self.said[0], self.met.deadline_s)
            stranger.close()
            shown = [frame[:40] for frame in frames[:4]]
            assert answers, f"the listener is silent after {shown}"

    def check_open(self) -> None:
        """D meets P there itself."""
        self.met.fetch("open")


class Listens:
    """P's listener lives on, whatever it is sent."""

    @pytest.fixture
    def door(self, meeting) -> Door:
        return Door(meeting)

    @clause("HSK-009")
    def test_messages_of_unknown_types_do_not_end_the_listener(self, door):
        import msgpack

        words = [b"hello", b"PING", b"get_meta", b"0", b"\xff\xfe"]
        values = [None, 7, "stop", [], {}, {"type": "stop"}, {"req_id": 1}, [1, [2, [3]]]]
        door.send(*([word] for word in words), *([msgpack.packb(value)] for value in values))
        door.send(*([*door.said[0][:-1], msgpack.packb(value)] for value in values))
        door.check_open()

    @clause("HSK-010")
    def test_frames_too_few_too_many_or_changed_do_not_end_the_listener(self, door):
        door.send([b""], [b"", b""], [b""] * 64)
        for message in door.said:
            front, last = message[:-1], message[-1]
            door.send([b"", *message], [*message, b""], [*message, *message], message[::-1])
            door.send([*front, b""], [*front, last[:-1]], [*front, last[: len(last) // 2]])
            door.send([*front, b"-1"], [*front, b"no id"], [*front, last + last])
            door.send(*([frame] for frame in message if [frame] != message))
        door.check_open()

    @clause("HSK-011")
    def test_garbage_does_not_end_the_listener(self, door, pd_seed):
        chance = random.Random(pd_seed)
        door.send(*([chance.randbytes(size)] for size in (1, 7, 64, 1000)))
        door.send(*([chance.randbytes(9) for _ in range(frames)] for frames in (2, 3, 9)))
        for message in door.said:
            door.send([*message[:-1], chance.randbytes(64)], [*message, chance.randbytes(64)])
        door.send([chance.randbytes(MEBIBYTE)], [*door.said[0][:-1], chance.randbytes(MEBIBYTE)])
        door.check_open()

    @clause("HSK-012")
    def test_connections_that_vanish_or_speak_no_zmq_do_not_end_the_listener(self, door):
        address = door.met.pair.side_channel()
        with ExitStack() as taken:
            for spoken in (
                b"",
                b"GET / HTTP/1.1\r\n\r\n",
                b"\xff" * 4096,
                b"\xff\0\0\0\0\0\0\0\1\x7f",
            ):
                for stays in (False, True):
                    plain = taken.enter_context(socket.create_connection(address, 10))
                    plain.sendall(spoken)
                    if not stays:
                        plain.close()
            for _ in range(10):
                raw = door.met.strangers()
                taken.callback(raw.close)
                for _ in range(100):  # so that some are still to be answered when it is gone
                    raw.send(door.said[0])
                raw.vanish()
            door.send(door.said[0])
            door.check_open()

    @clause("HSK-013")
    def test_fifty_peers_at_once_are_all_answered(self, door):
        raw = door.met.strangers(50)
        for peer in range(50):
            raw.send(door.said[0], peer)
        door.met.start("r", door.met.hand_off("r"))
        for peer in range(50):
            assert raw.answer(peer), f"peer {peer} of 50 has no answer"
        door.met.until_ended("r")
        assert door.met.received["r"]
        door.check_open()

    @clause("HSK-014")
    def test_a_completion_that_comes_again_is_not_reported_again(self, door):
        if not door.said[1:]:
            pytest.skip("not applicable: completions go another way than the handshake")
        door.send(*door.said[1:], *door.said[1:])
        door.met.look()
        assert door.met.sent == {"known": 1}, "P reports what no D has fetched since"
        door.check_open()
