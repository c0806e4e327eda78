"""The generator's schedule, on a clock that jumps."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator

import pytest

from pd_testkit.bench.client import Observed, Planned
from pd_testkit.bench.endpoint import Ask
from pd_testkit.bench.load.generator import Monotonic, closed_loop, open_loop
from pd_testkit.bench.results import Request
from tests.kit.virtual_loop import Virtual, run

ASK = Ask("/v1/completions", {})


class Server:
    """Answers after as many seconds as it is told, and keeps who was there when.

    Attributes:
        sent, ended: when, by index.
        most: requests that were under way at once.
        cut: indices of those that were cancelled.
    """

    def __init__(self, takes: Callable[[int], float], error: str = "") -> None:
        self._takes = takes
        self._error = error
        self.sent: dict[int, float] = {}
        self.ended: dict[int, float] = {}
        self.seen: list[int] = []
        self.cut: set[int] = set()
        self.most = 0

    async def carry_out(self, plan: Planned) -> Observed:
        clock = Virtual()
        sent = self.sent[plan.index] = clock.now()
        self.most = max(self.most, len(self.sent) - len(self.ended))
        try:
            await clock.until(sent + self._takes(plan.index))
        except asyncio.CancelledError:
            self.cut.add(plan.index)
            raise
        ended = self.ended[plan.index] = clock.now()
        due = sent if plan.due is None else plan.due
        request = Request(index=plan.index, due=due, sent=sent, ended=ended, error=self._error)
        return Observed(request, "")

    def saw(self, observed: Observed) -> None:
        self.seen.append(observed.request.index)


def planned(*due: float) -> list[Planned]:
    return [Planned(index, ASK, due=when) for index, when in enumerate(due)]


def asked(count: float = math.inf) -> Iterator[Planned]:
    index = 0
    while index < count:
        yield Planned(index, ASK)
        index += 1


def test_an_open_loop_sends_when_it_is_due_and_not_when_there_is_an_answer() -> None:
    server = Server(lambda _: 10.0)
    run(open_loop(planned(0.5, 1.0, 1.0, 4.0), server.carry_out, server.saw, Virtual()))
    assert server.sent == {0: 0.5, 1: 1.0, 2: 1.0, 3: 4.0}
    assert server.ended == {0: 10.5, 1: 11.0, 2: 11.0, 3: 14.0}
    assert server.most == 4
    assert sorted(server.seen) == [0, 1, 2, 3]


def test_a_closed_loop_holds_exactly_its_concurrency() -> None:
    # Answers take 1, 2 and 3 seconds in turn; three users. By hand: 0, 1, 2 at 0; 3 at 1 (user 0);
    # 4 at 2 (user 0, as 3 takes 1, and user 1), and so on.
    server = Server(lambda index: 1.0 + index % 3)
    run(closed_loop(asked(8), 3, server.carry_out, server.saw, Virtual()))
    assert server.most == 3
    assert server.sent == {0: 0, 1: 0, 2: 0, 3: 1, 4: 2, 5: 2, 6: 3, 7: 4}
    assert server.ended == {0: 1, 1: 2, 2: 3, 3: 2, 4: 4, 5: 5, 6: 4, 7: 6}
    assert len(server.seen) == 8


def test_a_closed_loop_sends_nothing_after_its_end_and_waits_for_what_is_under_way() -> None:
    server = Server(lambda _: 2.0)
    run(closed_loop(asked(), 2, server.carry_out, server.saw, Virtual(), end=5.0))
    assert sorted(server.sent.values()) == [0, 0, 2, 2, 4, 4]
    assert sorted(server.ended.values()) == [2, 2, 4, 4, 6, 6]


def test_users_of_a_server_that_is_gone_do_not_hammer_at_it() -> None:
    server = Server(lambda _: 0.0, error="unreachable")
    run(closed_loop(asked(), 1, server.carry_out, server.saw, Virtual(), end=0.95))
    assert len(server.sent) == 10


def test_an_open_loop_that_is_cancelled_ends_what_is_under_way() -> None:
    server = Server(lambda index: 1.0 + 10 * index)

    async def scenario() -> None:
        plans = planned(0.0, 0.5, 1.0, 100.0)
        work = asyncio.ensure_future(open_loop(plans, server.carry_out, server.saw, Virtual()))
        await Virtual().until(2.0)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert Virtual().now() == 2.0

    run(scenario())
    assert (server.seen, server.cut) == ([0], {1, 2})


def test_a_closed_loop_that_is_cancelled_ends_what_is_under_way() -> None:
    server = Server(lambda _: 3.0)

    async def scenario() -> None:
        work = asyncio.ensure_future(
            closed_loop(asked(), 2, server.carry_out, server.saw, Virtual())
        )
        await Virtual().until(4.0)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    run(scenario())
    assert (sorted(server.seen), server.cut) == ([0, 1], {2, 3})


@pytest.mark.parametrize("loop", ["open", "closed"])
def test_a_result_that_cannot_be_kept_ends_the_run(loop: str) -> None:
    server = Server(lambda index: 1.0 + index)

    def full(_: Observed) -> None:
        raise OSError("no space left on device")

    async def scenario() -> None:
        if loop == "open":
            await open_loop(planned(0.0, 0.0, 50.0), server.carry_out, full, Virtual())
        else:
            await closed_loop(asked(9), 2, server.carry_out, full, Virtual())

    with pytest.raises(OSError, match="no space"):
        run(scenario())
    assert server.cut == ({1} if loop == "closed" else set())


def test_the_machines_clock_goes_on_from_where_it_is_told() -> None:
    clock = Monotonic(begin=100.0)
    asyncio.run(clock.until(99.0))  # past
    before = clock.now()
    asyncio.run(clock.until(before + 0.01))
    assert clock.now() >= before + 0.01
    assert before >= 100.0
