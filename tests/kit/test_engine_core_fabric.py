"""The core over the simulated network, whose transfers have to be asked for, and have faults."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("torch", reason="not applicable: torch is not installed")

from pd_testkit.engine.core import EngineCore
from pd_testkit.engine.generation import Generation, LoadFailed
from pd_testkit.fabric import Corrupt, Fabric, Fail, Hang
from tests.kit.engine_cores import (
    GREEDY,
    answer,
    at_rest,
    core,
    handed_over,
    oracle,
    prefill,
    prompt_of,
    running,
)


class Simulated:
    """An engine of the fabric as a `pd_testkit.engine.rank.RankTransport`."""

    def __init__(self, fabric: Fabric, name: str) -> None:
        self._engine = fabric.engine(name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def allocate(self, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        return np.zeros(tuple(shape), dtype)

    def close(self) -> None:
        if self._engine.alive:
            self._engine.kill()


def _over(fabric: Fabric) -> dict[str, Any]:
    def transport(name: str, wake: Callable[[], None]) -> Simulated:
        return Simulated(fabric, name)

    return {"transport": transport, "polls": True}


def _pair(fabric: Fabric, writes: bool, **settings: Any) -> tuple[EngineCore, EngineCore]:
    p = core(role="prefill", writes=writes, tp_size=2, parts=_over(fabric), **settings)
    return p, core(role="decode", writes=writes, parts=_over(fabric), **settings)


@pytest.mark.parametrize("writes", [False, True], ids=["read", "write"])
def test_transfers_that_nobody_tells_of_are_asked_for(writes: bool) -> None:
    async def run() -> None:
        p, d = _pair(Fabric(), writes, kv_digest=True)
        async with running(p, d):
            for n, length in enumerate((3, 40)):
                prompt = prompt_of(length, n)
                assert await handed_over(p, d, f"r{n}", prompt) == oracle(prompt, 8)
            await at_rest(p, d)
            assert d.stats().transfers == 2

    asyncio.run(run())


@pytest.mark.parametrize(
    ("fault", "differs"), [(Corrupt(nth=2), 1), (Fail(nth=2), 0), (Hang(nth=2), 0)], ids=str
)
@pytest.mark.parametrize("writes", [False, True], ids=["read", "write"])
def test_a_fault_fails_its_load_and_no_other(fault: Any, differs: int, writes: bool) -> None:
    async def run() -> None:
        p, d = _pair(Fabric(faults=[fault]), writes, kv_digest=True, transfer_s=0.5)
        async with running(p, d):
            prompt = prompt_of(40)
            load = await prefill(p, "r", prompt)
            with pytest.raises(LoadFailed):
                await answer(d, Generation("r", prompt, GREEDY, load))
            assert (d.stats().failed_transfers, d.stats().failed_digests) == (1, differs)
            assert d.stats().transfer_bytes == 0
            assert await handed_over(p, d, "s", prompt) == oracle(prompt, 8)
            await at_rest(p, d)

    asyncio.run(run())
