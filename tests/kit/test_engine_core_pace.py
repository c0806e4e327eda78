"""Steps that take as long as they are told to end when their time comes, whenever that is."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("torch", reason="not applicable: torch is not installed")

from pd_testkit.engine.generation import Generation
from tests.kit.engine_cores import GREEDY, answer, core, ids, oracle, prompt_of, running

TICK_S = 1e-4


class Ticking:
    """A clock that goes on by a tick whenever somebody looks, and not between."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += TICK_S
        return self.now


class Even:
    """All steps take this long."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def step(self, prompt_tokens: int, decodes: int) -> float:
        return self._seconds

    def load(self, size: int) -> float:
        return 0.0


@pytest.mark.parametrize("ticks", range(5, 9))
def test_a_step_is_noticed_that_ends_between_two_looks_at_the_clock(ticks: int) -> None:
    prompt = prompt_of(5)

    async def scenario() -> list[int]:
        engine = core(parts={"clock": Ticking(), "pace": Even((ticks + 0.5) * TICK_S)})
        async with running(engine):
            return ids(await answer(engine, Generation("r", prompt, GREEDY)))

    assert asyncio.run(scenario()) == oracle(prompt, GREEDY.max_tokens)
