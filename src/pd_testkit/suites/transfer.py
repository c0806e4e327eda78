"""The checks of the unit `transfer`: here, paths, ports and the process's role.

What is moved is checked in modules of their own.
"""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from pd_testkit.contract import Role, Unit
from pd_testkit.suites.base import Suite, clause
from pd_testkit.suites.transfer_asymmetry import Heads, Tokens
from pd_testkit.suites.transfer_memory import Offsets, Pages, Regions
from pd_testkit.suites.transfer_merge import Merging

PATIENCE = 0.25
"""Seconds until a thread that does not come is taken to wait for a lock."""


def interleaved(count, call, lines):
    """What ``call`` gives to each of ``count`` threads that run it at the same time.

    All meet before each of its first ``lines`` lines; from there, one after the other runs to
    the end. So what one of them reads before that line is outdated by then. A lock that lets
    only one of them come so far ends the meeting.
    """
    meeting = threading.Barrier(count)
    turns = [threading.Event() for _ in range(count + 1)]
    turns[0].set()

    def run(number):
        seen = 0

        def step(frame, event, arg):
            nonlocal seen
            if event == "line" and seen < lines and not meeting.broken:
                seen += 1
                with suppress(threading.BrokenBarrierError):
                    meeting.wait(PATIENCE)
                    if seen == lines:
                        turns[number].wait(PATIENCE)
            return step

        before = sys.gettrace()
        sys.settrace(step)
        try:
            return call()
        finally:
            sys.settrace(before)
            turns[number + 1].set()

    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(run, n) for n in range(count)]]


class TransferSuite(Pages, Merging, Offsets, Regions, Heads, Tokens, Suite):
    """The plain functions below a transfer."""

    unit = Unit.TRANSFER

    @clause("XFER-068")
    def test_a_path_has_scheme_host_and_port(self, make):
        assert make().zmq_path("tcp", "10.1.2.3", 5555) == "tcp://10.1.2.3:5555"
        assert make().zmq_path("tcp", "node-7.example", 80) == "tcp://node-7.example:80"

    @clause("XFER-069")
    def test_an_ipv6_address_is_put_in_brackets(self, make):
        assert make().zmq_path("tcp", "::1", 5555) == "tcp://[::1]:5555"
        assert make().zmq_path("tcp", "2001:db8::7", 80) == "tcp://[2001:db8::7]:80"

    @clause("XFER-070")
    def test_brackets_and_zones_of_ipv6_are_understood(self, make):
        assert make().zmq_path("tcp", "[::1]", 5555) == "tcp://[::1]:5555"
        assert make().zmq_path("tcp", "fe80::1%eth0", 5555) == "tcp://[fe80::1%eth0]:5555"

    @clause("XFER-071")
    def test_a_path_may_have_no_port(self, make):
        assert make().zmq_path("ipc", "/tmp/pd.sock") == "ipc:///tmp/pd.sock"  # noqa: S108
        assert make().zmq_path("inproc", "pd") == "inproc://pd"
        assert make().zmq_path("tcp", "10.1.2.3") == "tcp://10.1.2.3"

    @clause("XFER-072")
    def test_the_port_follows_from_the_ranks(self, make):
        for dp_rank, tp_rank, tp_size, port in (
            (0, 0, 1, 16_301),
            (0, 5, 8, 16_306),
            (1, 0, 8, 16_309),
            (3, 5, 8, 16_330),
            (3, 0, 1, 16_304),
        ):
            found = make().port(16_301, dp_rank=dp_rank, tp_rank=tp_rank, tp_size=tp_size)
            assert found == port, f"DP rank {dp_rank}, TP rank {tp_rank} of {tp_size}"

    @clause("XFER-073")
    def test_no_two_workers_share_a_port(self, make):
        driver = make()
        for dp_size in range(1, 9):
            for tp_size in range(1, 9):
                ports = {
                    driver.port(6301, dp_rank=dp_rank, tp_rank=tp_rank, tp_size=tp_size)
                    for dp_rank in range(dp_size)
                    for tp_rank in range(tp_size)
                }
                assert len(ports) == dp_size * tp_size, f"DP {dp_size} x TP {tp_size}: {ports}"

    @clause("XFER-074")
    def test_a_port_that_does_not_exist_is_refused(self, make):
        assert make().port(65_528, dp_rank=0, tp_rank=7, tp_size=8) == 65_535
        for dp_rank, tp_rank in ((1, 0), (7, 7)):
            with pytest.raises(ValueError):
                make().port(65_528, dp_rank=dp_rank, tp_rank=tp_rank, tp_size=8)

    @clause("XFER-075")
    def test_a_rank_that_does_not_exist_is_refused(self, make):
        for dp_rank, tp_rank in ((0, 4), (1, -1), (-1, 3)):
            with pytest.raises(ValueError):
                make().port(6301, dp_rank=dp_rank, tp_rank=tp_rank, tp_size=4)

    @clause("XFER-076")
    def test_there_is_no_role_at_first(self, make):
        assert make().role() is None

    @clause("XFER-077")
    def test_the_last_role_counts(self, make):
        driver = make()
        for role in (Role.PRODUCER, Role.CONSUMER, Role.PRODUCER):
            driver.set_role(role)
            assert driver.role() is role

    @clause("XFER-078")
    def test_there_is_one_holder(self, make):
        driver = make()
        holder = driver.role_holder()
        driver.set_role(Role.CONSUMER)
        assert driver.role_holder() is holder

    @clause("XFER-079")
    def test_threads_get_one_holder(self, make):
        for lines in (2, 3, 4):
            holders = interleaved(4, make().role_holder, lines)
            assert len({id(holder) for holder in holders}) == 1, "a thread got one of its own"

    @clause("XFER-080")
    def test_all_threads_see_the_role(self, make):
        driver = make()
        with ThreadPoolExecutor(1) as other:
            other.submit(driver.set_role, Role.PRODUCER).result()
            assert driver.role() is Role.PRODUCER
            driver.set_role(Role.CONSUMER)
            assert other.submit(driver.role).result() is Role.CONSUMER
