"""Rooms that end by time or by an abort."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from pd_testkit.contract import Role, RoomState
from pd_testkit.suites.base import clause
from pd_testkit.suites.polling_run import Room, Run
from pd_testkit.suites.polling_start import PATIENCE_S, PollingBase

P, D = Role.PRODUCER, Role.CONSUMER
SUCCESS, FAILED = RoomState.SUCCESS, RoomState.FAILED
_MEETS = 3
"""Times as patient as the least: a side with a room that is to fail beside one that must meet, on a
busy machine too."""


class Time(PollingBase):
    """Patience."""

    @clause("POL-029")
    def test_a_sender_gives_up(self, start: Callable[..., Run], short: float) -> None:
        run = start(patience=(short, PATIENCE_S))
        room = run.room(1, [0], [1])
        began = run.rooms.now()
        run.open(room, P)
        self._gives_up(run, P, room, began, short)

    @clause("POL-030")
    def test_a_receiver_gives_up(self, start: Callable[..., Run], short: float) -> None:
        run = start(patience=(PATIENCE_S, short))
        room = run.room(1, [0], [1])
        began = run.rooms.now()
        run.open(room)
        run.place(room)
        run.ready(room)
        self._gives_up(run, D, room, began, short)

    def _gives_up(self, run: Run, role: Role, room: Room, began: float, patience: float) -> None:
        self._ends(run, role, room, patience)
        took = run.rooms.now() - began
        assert run.poll(role, room) is FAILED, f"the {role} is {run.poll(role, room)}"
        assert took >= 0.9 * patience, f"the {role} gave up after {took:.2f} s of {patience:g}"

    def _ends(self, run: Run, role: Role, room: Room, patience: float) -> None:
        run.until(lambda: run.poll(role, room).ended, f"the {role} gives up", within=patience)

    @clause("POL-031")
    def test_what_d_gives_up_fails_on_p(self, start: Callable[..., Run], short: float) -> None:
        run = start(patience=(PATIENCE_S, short))
        room = run.room(1, [0, 1], [1, 2])
        run.meet(room)
        run.send(room, 1)
        run.until(lambda: run.poll(D, room).ended, "D gives up", within=short)
        run.fails(room)

    @clause("POL-032")
    def test_a_failed_room_says_why(self, start: Callable[..., Run], short: float) -> None:
        run = start(patience=(short, short))
        alone, silent = run.room(1, [0], [1]), run.room(2, [1], [2], (1, 1))
        run.open(silent, D)
        run.place(silent)
        run.open(alone, P)
        for role, room in ((P, alone), (D, silent)):
            self._ends(run, role, room, short)
            why = run.rooms.failure(role, room.number)
            assert why.strip(), f"the {role} does not say why room {room.number} failed"
            assert "unknown" not in why.lower(), f"the {role} knows no reason: {why}"

    @clause("POL-033")
    def test_time_fails_its_own_room_only(self, start: Callable[..., Run], short: float) -> None:
        run = start(patience=(_MEETS * short, PATIENCE_S))
        alone, other = run.room(1, [0], [1]), run.room(2, [1, 2], [2, 3], (1, 1))
        run.open(other, D)
        run.place(other)
        run.open(other, P)  # last: its patience begins here
        run.ready(other)
        run.send(other, 1)
        run.open(alone, P)
        run.until(lambda: run.poll(P, alone).ended, "P gives up", within=_MEETS * short)
        run.send(other)
        run.finish(other)
        run.check()


class Aborts(PollingBase):
    """On either side, at every step."""

    @clause("POL-034")
    def test_abort_on_p_before_they_meet(self, start: Callable[..., Run]) -> None:
        run = start()
        room = run.room(1, [0], [1])
        run.open(room)
        run.rooms.abort(P, room.number)
        self._gone(run, room)

    @clause("POL-035")
    def test_abort_on_p_before_it_sends(self, start: Callable[..., Run]) -> None:
        run = start()
        room = run.room(1, [0], [1])
        run.meet(room)
        run.rooms.abort(P, room.number)
        self._gone(run, room)

    @clause("POL-036")
    def test_abort_on_p_between_chunks(self, start: Callable[..., Run]) -> None:
        run = start()
        room = self._half_sent(run)
        run.rooms.abort(P, room.number)
        self._gone(run, room)

    @clause("POL-037")
    def test_abort_on_d_before_it_says_where(self, start: Callable[..., Run]) -> None:
        run = start()
        room = run.room(1, [0], [1])
        run.open(room)
        run.reach(D, room, RoomState.WAITING_FOR_INPUT)
        run.rooms.abort(D, room.number)
        self._gone(run, room)

    @clause("POL-038")
    def test_abort_on_d_before_p_sends(self, start: Callable[..., Run]) -> None:
        run = start()
        room = run.room(1, [0], [1])
        run.meet(room)
        run.rooms.abort(D, room.number)
        self._gone(run, room)

    @clause("POL-039")
    def test_abort_on_d_between_chunks(self, start: Callable[..., Run]) -> None:
        run = start()
        room = self._half_sent(run)
        run.rooms.abort(D, room.number)
        run.fails(room)
        run.quieten(room)
        run.send(room)
        run.probe()
        assert run.poll(P, room) is FAILED, "P went on with a room that D had aborted"

    @clause("POL-040")
    def test_aborts_on_both_sides(self, start: Callable[..., Run]) -> None:
        run = start()
        rooms = [run.room(1, [0], [1]), run.room(2, [1], [2], (1, 1))]
        run.meet(*rooms)
        for roles, room in zip(((P, D), (D, P)), rooms, strict=True):
            for role in roles:
                run.rooms.abort(role, room.number)
        run.fails(*rooms)
        run.probe()
        run.fails(*rooms)

    @clause("POL-041")
    def test_a_second_abort_changes_nothing(self, start: Callable[..., Run]) -> None:
        run = start()
        rooms = [run.room(1, [0], [1]), run.room(2, [1], [2], (1, 1))]
        run.meet(*rooms)
        for role, room in zip(Role, rooms, strict=True):
            run.rooms.abort(role, room.number)
            run.fails(room, roles=[role])
            run.rooms.abort(role, room.number)
            run.fails(room, roles=[role])
        run.probe()

    @clause("POL-042")
    def test_an_abort_fails_its_own_room_only(self, start: Callable[..., Run]) -> None:
        run = start()
        rooms = [run.room(n, [n, n + 4], [n, n + 4], (n, n)) for n in range(4)]
        run.meet(*rooms)
        for room in rooms:
            run.send(room, 1)
        run.rooms.abort(P, 1)
        run.rooms.abort(D, 2)
        for room in (rooms[0], rooms[3]):
            run.send(room)
            run.finish(room)
        run.check()

    @clause("POL-043")
    def test_a_sender_that_comes_after_ds_abort(self, start: Callable[..., Run]) -> None:
        run = start()
        room = run.room(1, [0], [1])
        run.open(room, D)
        run.place(room)
        run.rooms.abort(D, room.number)
        run.fails(room, roles=[D])
        run.probe()
        run.open(room, P)
        run.probe()
        state = run.poll(P, room)
        assert state in (RoomState.BOOTSTRAPPING, FAILED), f"P is {state}, D has aborted the room"

    @clause("POL-044")
    def test_an_aborted_room_is_soon_quiet(self, start: Callable[..., Run]) -> None:
        run = start()
        rooms = [run.room(1, [0, 1], [1, 2]), run.room(2, [2], [3], (1, 1))]
        run.meet(*rooms)
        run.send(rooms[0], 1)
        for room in rooms:
            run.rooms.abort(D, room.number)
            run.quieten(room)

    @clause("POL-045")
    def test_a_quiet_room_is_not_written_to(self, start: Callable[..., Run]) -> None:
        run = start()
        for number in range(1, 6):
            room = run.room(number, list(range(10)), list(range(10)), (0, 0))
            run.meet(room)
            run.send(room, number)
            run.send(room, 1)
            run.rooms.abort(D, number)
            run.send(room)
            run.fails(room, roles=[D])
            run.quieten(room)
            # P may have sent all of it before it heard: then that is a success, on P.
            run.reach(P, room, FAILED, SUCCESS)
            run.probe()

    @clause("POL-046")
    def test_a_room_is_not_quiet_while_bytes_fly(
        self, on: Callable[..., Any], net: ModuleType
    ) -> None:
        slow = net.Delay(seconds=0.5, kind="write")
        run, fabric = on(slow)
        room = run.room(1, [0, 1], [2, 3])
        run.meet(room)
        run.send(room)
        run.until(lambda: fabric.in_flight, "a write is on its way")
        run.rooms.abort(D, room.number)
        while fabric.in_flight:
            assert not run.rooms.quiet(room.number), "quiet, while bytes are on their way"
            run.rooms.wait(0.1)
        run.fails(room, roles=[D])
        run.quieten(room)
        run.reach(P, room, FAILED, SUCCESS)  # as above
        fabric.withdraw(slow)
        run.probe()

    def _half_sent(self, run: Run) -> Room:
        room = run.room(1, [0, 1, 2], [3, 4, 5])
        run.meet(room)
        run.send(room, 2)
        run.probe()
        return room

    def _gone(self, run: Run, room: Room) -> None:
        """Both sides learn of it; others go on."""
        run.fails(room)
        run.probe()
