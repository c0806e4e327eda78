"""Virtual time runs events in order, and the real-time driver gives its thread back."""

from __future__ import annotations

import threading

import pytest

from pd_testkit.fabric import RealTimeDriver, Status, VirtualClock
from tests.kit.fabric_pair import pair


def test_events_run_in_time_order_and_ties_in_the_order_scheduled():
    clock, ran = VirtualClock(), []
    clock.schedule(2.0, lambda: ran.append("late"))
    clock.schedule(1.0, lambda: ran.append("first"))
    clock.schedule(1.0, lambda: ran.append("second"))
    clock.run_until_idle()
    assert ran == ["first", "second", "late"]
    assert clock.now == 2.0


def test_advance_runs_what_falls_due_and_nothing_else():
    clock, ran = VirtualClock(), []
    clock.schedule(1.0, lambda: ran.append(clock.now))
    clock.schedule(3.0, lambda: ran.append(clock.now))
    clock.advance(2.5)
    assert (ran, clock.now, clock.next_due) == ([1.0], 2.5, 3.0)
    clock.advance(0.5)
    assert ran == [1.0, 3.0]


def test_an_event_that_schedules_another_within_the_time_runs_it_too():
    clock, ran = VirtualClock(), []
    clock.schedule(1.0, lambda: clock.schedule(1.0, lambda: ran.append(clock.now)))
    clock.advance(2.0)
    assert ran == [2.0]


def test_a_cancelled_timer_never_runs():
    clock, ran = VirtualClock(), []
    timer = clock.schedule(1.0, lambda: ran.append(1))
    assert timer.pending
    timer.cancel()
    assert clock.next_due is None
    assert clock.run_until_idle() == 0
    assert not ran


def test_time_does_not_run_backwards():
    clock = VirtualClock()
    with pytest.raises(ValueError, match="advance"):
        clock.advance(-1)
    with pytest.raises(ValueError, match="past"):
        clock.schedule(-1e-9, lambda: None)
    with pytest.raises(ValueError, match="past"):
        clock.schedule(float("nan"), lambda: None)
    clock.advance(5)
    clock.advance_to(3)
    assert clock.now == 5


def test_what_schedules_for_ever_is_an_error_and_not_a_hang():
    clock = VirtualClock()

    def again() -> None:
        clock.schedule(1.0, again)

    again()
    with pytest.raises(RuntimeError, match="not idle after 50 events"):
        clock.run_until_idle(max_events=50)


def test_the_driver_completes_a_transfer_and_gives_its_thread_back():
    before = set(threading.enumerate())
    p = pair()
    with RealTimeDriver(p.fabric.clock):
        assert p.fabric.clock.driven
        assert p.read().wait(timeout=30) is Status.SUCCESS
    assert not p.fabric.clock.driven
    assert set(threading.enumerate()) == before
    assert p.d_block(0) == p.p_block(0)


def test_polling_does_not_move_a_driven_clock():
    p = pair()
    # So slow that nothing is due while this test runs.
    with RealTimeDriver(p.fabric.clock, speed=1e-9):
        transfer = p.read()
        assert [transfer.status for _ in range(5)] == [Status.IN_PROGRESS] * 5
        assert transfer.wait(timeout=0) is Status.IN_PROGRESS


def test_a_delay_on_a_driven_clock_counts_from_the_real_time_of_the_call():
    real, ran, clock = [100.0], threading.Event(), VirtualClock()
    with RealTimeDriver(clock, speed=2.0, monotonic=lambda: real[0]):
        real[0] = 105.0
        assert clock.now == 10.0
        timer = clock.schedule(3600.0, ran.set)
        assert timer.due == 3610.0
        with clock.changed:
            real[0] = 1905.0
            clock.changed.notify_all()
        assert ran.wait(30)
        real[0] = 2000.0
    assert clock.now == 3800.0


def test_a_clock_has_one_driver():
    clock = VirtualClock()
    with (
        RealTimeDriver(clock),
        pytest.raises(RuntimeError, match="driver already"),
    ):
        RealTimeDriver(clock).start()
    with pytest.raises(ValueError, match="speed"):
        RealTimeDriver(clock, speed=0)


def test_what_an_event_raises_under_the_driver_is_raised_by_close():
    clock, reached = VirtualClock(), threading.Event()

    def broken() -> None:
        reached.set()
        raise LookupError("broken event")

    driver = RealTimeDriver(clock).start()
    clock.schedule(0, broken)
    assert reached.wait(30)
    with pytest.raises(LookupError, match="broken event"):
        driver.close()
    driver.close()
