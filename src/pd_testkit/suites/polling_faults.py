"""Rooms when the network fails, a stranger speaks, or an engine dies."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from pd_testkit.contract import Role, RoomState
from pd_testkit.suites.base import clause
from pd_testkit.suites.polling_run import Run
from pd_testkit.suites.polling_start import PollingBase

P, D = Role.PRODUCER, Role.CONSUMER
SUCCESS, FAILED = RoomState.SUCCESS, RoomState.FAILED
NONSENSE = ([b"hello"], [b"", b"\xff\xfe"], [b"{}"], [b"ABORT", b"x"], [b"GET / HTTP/1.1", b"a: b"])
"""Messages, of frames."""


class Faults(PollingBase):
    """What goes wrong on the way."""

    @clause("POL-047")
    def test_a_failed_write_fails_the_room(self, on: Callable[..., Any], net: ModuleType) -> None:
        run, fabric = on(net.Fail(kind="write", nth=2))
        room = run.room(1, [0, 1], [2, 3])
        run.meet(room)
        run.send(room)
        run.fails(room)
        assert fabric.counters.faults["fail"] == 1, "no write has failed"

    @clause("POL-048")
    def test_a_failed_write_fails_its_room_only(
        self, on: Callable[..., Any], net: ModuleType
    ) -> None:
        run, fabric = on(net.Fail(kind="write", nth=2))
        bad, good = run.room(1, [0], [1]), run.room(2, [1, 2], [2, 3], (1, 1))
        run.meet(bad, good)
        run.send(bad)
        run.until(lambda: fabric.counters.faults["fail"], "a write fails")
        run.send(good)
        run.finish(good)
        run.fails(bad)
        run.probe()

    @clause("POL-049")
    def test_a_failed_chunk_in_the_middle(self, on: Callable[..., Any], net: ModuleType) -> None:
        run, fabric = on()
        room = run.room(1, [0, 1, 2], [3, 4, 5])
        run.meet(room)
        run.send(room, 1)
        bad = net.Fail(kind="write")
        fabric.inject(bad)
        run.send(room, 1)
        run.until(lambda: fabric.counters.faults["fail"], "a write fails")
        fabric.withdraw(bad)
        run.send(room)
        run.fails(room)

    @clause("POL-050")
    def test_nonsense_to_p(self, start: Callable[..., Run]) -> None:
        self._harmless(start(), P)

    @clause("POL-051")
    def test_nonsense_to_d(self, start: Callable[..., Run]) -> None:
        self._harmless(start(), D)

    def _harmless(self, run: Run, role: Role) -> None:
        going = run.room(1, [0, 1], [2, 3])
        run.meet(going)
        run.send(going, 1)
        for frames in NONSENSE:
            run.rooms.intrude(role, frames)
        run.probe()
        run.send(going)
        run.finish(going)
        run.transfer(run.room(2, [2], [4], (1, 1)))
        run.check()


class Deaths(PollingBase):
    """Engines that die, and come back."""

    @clause("POL-052")
    def test_ds_rooms_fail_when_p_dies(self, start: Callable[..., Run]) -> None:
        run = start()
        half, fresh = run.room(1, [0, 1], [2, 3]), run.room(2, [2], [4], (1, 1))
        run.meet(half, fresh)
        run.send(half, 1)
        run.rooms.kill(P)
        run.fails(half, fresh, roles=[D])

    @clause("POL-053")
    def test_success_outlives_p(self, start: Callable[..., Run]) -> None:
        run = start()
        done, going = run.room(1, [0], [2]), run.room(2, [2], [4], (1, 1))
        run.meet(done, going)
        run.send(done)
        run.reach(D, done, SUCCESS)
        run.rooms.kill(P)
        run.fails(going, roles=[D])
        assert run.poll(D, done) is SUCCESS, "a success died with P"

    @clause("POL-054")
    def test_p_comes_back(self, start: Callable[..., Run]) -> None:
        run = start()
        before = run.room(1, [0], [2])
        run.meet(before)
        run.rooms.kill(P)
        run.fails(before, roles=[D])
        run.rooms.clear(D, before.number)
        run.restart(P)
        run.transfer(run.room(2, [1, 0], [4, 5], (1, 1)))
        run.check()

    @clause("POL-055")
    def test_what_is_sent_to_a_dead_d_fails(self, start: Callable[..., Run]) -> None:
        run = start()
        room = run.room(1, [0, 1], [2, 3])
        run.meet(room)
        run.send(room, 1)
        run.rooms.kill(D)
        run.send(room)
        run.fails(room, roles=[P])

    @clause("POL-056")
    def test_d_comes_back(self, start: Callable[..., Run]) -> None:
        run = start()
        run.transfer(run.room(1, [0], [2]))
        run.rooms.kill(D)
        run.restart(D)
        run.all.clear()
        run.transfer(run.room(2, [1, 0], [4, 5], (1, 1)))
        run.check()
