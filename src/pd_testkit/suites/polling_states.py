"""The states that both sides tell, and rooms beside each other."""

from __future__ import annotations

from collections.abc import Callable

from pd_testkit.contract import Role, RoomState
from pd_testkit.suites.base import clause
from pd_testkit.suites.polling_run import Run
from pd_testkit.suites.polling_start import PollingBase

P, D = Role.PRODUCER, Role.CONSUMER
SUCCESS, FAILED = RoomState.SUCCESS, RoomState.FAILED
_ORDER = tuple(RoomState)
MANY = 12
"""Rooms at once, of one page each."""


class States(PollingBase):
    """Forward, and to an end."""

    @clause("POL-015")
    def test_a_senders_states_move_forward(self, start: Callable[..., Run]) -> None:
        self._moves_forward(start(), P)

    @clause("POL-016")
    def test_a_receivers_states_move_forward(self, start: Callable[..., Run]) -> None:
        self._moves_forward(start(), D)

    def _moves_forward(self, run: Run, role: Role) -> None:
        done, failed = run.room(1, [0, 1], [2, 3]), run.room(2, [2, 3], [4, 5], (1, 1))
        for room in (done, failed):
            run.open(room, D, P)
            run.poll(role, room)
            run.place(room)
            run.ready(room)
            run.poll(role, room)
            run.send(room, 1)
            run.poll(role, room)
        run.rooms.abort(role, failed.number)
        run.send(done)
        run.finish(done)
        run.fails(failed, roles=[role])
        for room in (done, failed):
            seen = room.history[role]
            told = " -> ".join(map(str, seen))
            assert seen == sorted(seen, key=_ORDER.index), f"the {role} went back: {told}"
            assert sum(state.ended for state in seen) == 1, f"the {role} ended twice: {told}"

    @clause("POL-017")
    def test_a_sender_waits_until_it_is_told_where(self, start: Callable[..., Run]) -> None:
        run = start()
        room = run.room(1, [0], [1])
        run.open(room)
        run.reach(D, room, RoomState.WAITING_FOR_INPUT)
        run.probe()
        state = run.poll(P, room)
        assert state is RoomState.BOOTSTRAPPING, f"P is {state}, nobody has said where"
        run.rooms.receive(room.number, room.pages, room.slots[1])
        run.ready(room)
        run.send(room)
        run.finish(room)

    @clause("POL-018")
    def test_success_is_final(self, start: Callable[..., Run]) -> None:
        run = start()
        room = run.room(1, [0, 1], [2, 3])
        run.transfer(room)
        run.probe()
        for role in Role:
            for _ in range(3):
                assert run.poll(role, room) is SUCCESS, f"success on the {role} was not final"
        run.check()

    @clause("POL-019")
    def test_failed_is_final(self, start: Callable[..., Run]) -> None:
        run = start()
        room = run.room(1, [0, 1], [2, 3])
        run.meet(room)
        run.rooms.abort(D, room.number)
        run.fails(room)
        run.send(room)
        for _ in range(2):
            for role in Role:
                assert run.poll(role, room) is FAILED, f"a failure on the {role} was not final"
            run.probe()

    @clause("POL-020")
    def test_a_cleared_room_tells_how_it_ended(self, start: Callable[..., Run]) -> None:
        run = start()
        done, failed = run.room(1, [0], [1]), run.room(2, [1], [2], (1, 1))
        run.transfer(done)
        run.meet(failed)
        run.rooms.abort(D, failed.number)
        run.fails(failed)
        run.clear(done, failed)
        run.probe()
        for role in Role:
            assert run.poll(role, done) is SUCCESS, f"the {role} forgot a success"
            assert run.poll(role, failed) is FAILED, f"the {role} forgot a failure"

    @clause("POL-021")
    def test_an_abort_after_success_is_too_late(self, start: Callable[..., Run]) -> None:
        run = start()
        rooms = [run.room(number, [number], [number], (number, number)) for number in (1, 2)]
        for room in rooms:
            run.transfer(room)
        for role, room in zip(Role, rooms, strict=True):
            run.rooms.abort(role, room.number)
        run.probe()
        for role, room in zip(Role, rooms, strict=True):
            assert run.poll(role, room) is SUCCESS, f"an abort on the {role} undid a success"
        run.check()


class Rooms(PollingBase):
    """Many of them, and their numbers."""

    @clause("POL-022")
    def test_many_rooms_each_get_their_own(self, start: Callable[..., Run]) -> None:
        run = start()
        rooms = [run.room(100 + n, [n], [(5 * n) % MANY], (n, (7 * n) % MANY)) for n in range(MANY)]
        run.meet(*rooms)
        for room in reversed(rooms):
            run.send(room)
        run.finish(*rooms)
        run.check()

    @clause("POL-023")
    def test_rooms_are_matched_by_their_number(self, start: Callable[..., Run]) -> None:
        run = start()
        rooms = [run.room(n, [n, n + 4], [n + 4, n], (n, n)) for n in range(4)]
        for room in rooms:
            run.open(room, P)
        for room in reversed(rooms):
            run.open(room, D)
            run.place(room)
        for room in rooms[::2] + rooms[1::2]:
            run.ready(room)
            run.send(room)
        run.finish(*rooms)
        run.check()

    @clause("POL-024")
    def test_a_receiver_may_come_first(self, start: Callable[..., Run]) -> None:
        run = start()
        room = run.room(1, [0, 1], [2, 3])
        run.open(room, D)
        run.place(room)
        run.probe()
        run.open(room, P)
        run.ready(room)
        run.send(room)
        run.finish(room)
        run.check()

    @clause("POL-025")
    def test_a_sender_may_come_first(self, start: Callable[..., Run]) -> None:
        run = start()
        room = run.room(1, [0, 1], [2, 3])
        run.open(room, P)
        run.probe()
        run.open(room, D)
        run.place(room)
        run.ready(room)
        run.send(room)
        run.finish(room)
        run.check()

    @clause("POL-026")
    def test_a_number_is_used_anew_after_success(self, start: Callable[..., Run]) -> None:
        run = start()
        for use in range(3):
            room = run.room(7, [use, use + 3], [use + 5, use], (use, use + 1))
            run.transfer(room)
            run.clear(room)
            run.probe()  # behind all that P's own threads still do for the last use
        run.check()

    @clause("POL-027")
    def test_a_number_is_used_anew_after_a_failure(self, start: Callable[..., Run]) -> None:
        run = start()
        for use, role in enumerate((D, P)):
            room = run.room(7, [use], [use], (use, use))
            run.meet(room)
            for each in (role, *Role):
                run.rooms.abort(each, 7)
            run.fails(room)
            run.quieten(room)
            run.clear(room)
            run.probe()  # behind all that was said of the last use
        room = run.room(7, [5, 3], [4, 6], (4, 5))
        run.transfer(room)
        run.check()

    @clause("POL-028")
    def test_rooms_follow_each_other_through_the_same_pages(
        self, start: Callable[..., Run]
    ) -> None:
        run = start()
        for number in range(1, 9):
            room = run.room(number, [2, 0], [1, 3], (1, 1))
            run.transfer(room)
            run.clear(room)
        run.check()
