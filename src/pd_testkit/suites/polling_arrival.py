"""What arrives in a room, byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from pd_testkit.contract import Role, RoomState
from pd_testkit.suites.base import clause
from pd_testkit.suites.polling_run import Run
from pd_testkit.suites.polling_start import PollingBase

P, D = Role.PRODUCER, Role.CONSUMER
SUCCESS = RoomState.SUCCESS


class Arrival(PollingBase):
    """Pages and aux data."""

    @clause("POL-001")
    def test_pages_are_there_at_success(self, start: Callable[..., Run]) -> None:
        run = start()
        room = run.room(1, [0, 1, 2], [4, 5, 6])
        run.meet(room)
        run.send(room)
        run.reach(D, room, SUCCESS)
        run.check()

    @clause("POL-002")
    def test_aux_data_are_there_at_success(self, start: Callable[..., Run]) -> None:
        run = start()
        room = run.room(1, [0], [0], (2, 5))
        run.meet(room)
        run.send(room)
        run.reach(D, room, SUCCESS)
        run.check()

    @clause("POL-003")
    def test_senders_memory_is_free_at_success(self, start: Callable[..., Run]) -> None:
        run = start()
        room = run.room(1, [0, 1, 2], [3, 4, 5], (1, 1))
        run.meet(room)
        run.send(room, 1)
        run.send(room)
        run.reach(P, room, SUCCESS)
        run.finish(room)
        run.check()

    @clause("POL-004")
    def test_scattered_pages_are_paired_by_their_place(self, start: Callable[..., Run]) -> None:
        run = start()
        run.transfer(run.room(1, [5, 0, 9, 2, 7], [1, 8, 3, 0, 6]))
        run.check()

    @clause("POL-005")
    def test_nothing_else_on_d_changes(self, start: Callable[..., Run]) -> None:
        run = start()
        run.transfer(run.room(1, [1, 3, 5], [7, 2, 4], (3, 2)))
        run.check()
        run.probe()

    @clause("POL-006")
    def test_nothing_on_p_changes(self, start: Callable[..., Run]) -> None:
        run = start()
        run.transfer(run.room(1, [2, 6, 4], [0, 1, 2], (2, 0)))
        assert not run.memory[P].changed(), "P's pages have changed"
        assert not run.aux[P].changed(), "P's aux slots have changed"

    @clause("POL-007")
    def test_one_page_arrives(self, start: Callable[..., Run]) -> None:
        run = start()
        run.transfer(run.room(1, [3], [5]))
        run.check()

    @clause("POL-008")
    def test_chunks_arrive_one_behind_the_other(self, start: Callable[..., Run]) -> None:
        run = start()
        room = run.room(1, [4, 2, 8, 0, 6, 3], [1, 9, 5, 7, 0, 2])
        run.meet(room)
        for chunk in (2, 1, 3):
            run.send(room, chunk)
        run.finish(room)
        run.check()

    @clause("POL-009")
    def test_no_success_before_the_last_chunk(self, start: Callable[..., Run]) -> None:
        run = start()
        room = run.room(1, [0, 1, 2], [3, 4, 5])
        run.meet(room)
        run.send(room, 1)
        run.send(room, 1)
        run.probe()
        for role in Role:
            assert not run.poll(role, room).ended, f"the {role} has ended, a chunk is to come"
        run.send(room)
        run.finish(room)
        run.check()

    @clause("POL-010")
    def test_aux_data_are_taken_with_the_last_chunk(self, start: Callable[..., Run]) -> None:
        run = start()
        room = run.room(1, [0, 1, 2], [3, 4, 5], (4, 3))
        run.meet(room)
        run.send(room, 2)
        run.probe()
        room.aux = run.aux[P].fill(4)
        run.send(room)
        run.finish(room)
        run.check()

    @clause("POL-011")
    def test_a_room_of_no_pages_brings_its_aux_data(self, start: Callable[..., Run]) -> None:
        run = start()
        run.transfer(run.room(1, [], [], (1, 2)))
        run.check()

    @clause("POL-012")
    def test_a_thousand_pages_arrive(self, start: Callable[..., Run]) -> None:
        run = start(num_blocks=1024)
        source = [(7 * page) % 1024 for page in range(1000)]
        room = run.room(1, source, [(11 * page + 3) % 1024 for page in range(1000)])
        run.meet(room)
        run.send(room, 600)
        run.send(room)
        run.finish(room)
        run.check()

    @clause("POL-013")
    def test_latent_caches_arrive(self, start: Callable[..., Run]) -> None:
        run = start(latent=True)
        run.transfer(run.room(1, [5, 1, 3], [2, 6, 0]))
        run.check()

    @clause("POL-014")
    def test_no_success_while_bytes_fly(self, on: Callable[..., Any], net: ModuleType) -> None:
        slow = net.Delay(seconds=0.5, kind="write", every=3)
        run, fabric = on(slow)
        room = run.room(1, [0, 1, 2], [3, 4, 5])
        run.meet(room)
        run.send(room, 1)
        run.send(room)
        run.until(lambda: fabric.in_flight, "a write is on its way")
        while fabric.in_flight:
            for role in Role:
                assert not run.poll(role, room).ended, f"the {role} has ended, bytes are flying"
            run.rooms.wait(0.1)
        run.finish(room)
        assert fabric.counters.faults["delay"], "no write was slow"
        run.check()
