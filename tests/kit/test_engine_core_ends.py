"""How requests end in the core: by their text, by their client, by failures. Nothing leaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy.typing as npt
import pytest

pytest.importorskip("torch", reason="not applicable: torch is not installed")

from pd_testkit.engine.connector import Connector
from pd_testkit.engine.core import EngineCore, Stopped
from pd_testkit.engine.generation import (
    Generation,
    Hold,
    Load,
    LoadFailed,
    Sampling,
    TooLong,
)
from pd_testkit.engine.model import Batch, Decoder
from pd_testkit.engine.shape import SHAPES
from pd_testkit.engine.tokenizer import Bytes
from tests.kit.engine_cores import (
    DEADLINE_S,
    GREEDY,
    answer,
    at_rest,
    core,
    handed_over,
    ids,
    oracle,
    prefill,
    prompt_of,
    running,
    until,
)

TOKENS = GREEDY.max_tokens


class Faults:
    """What happens to the next loads."""

    def __init__(self, *faults: Any) -> None:
        self.left = list(faults)

    def next(self) -> Any:
        return self.left.pop(0) if self.left else None


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# -- by text


def test_the_end_of_text_ends_an_answer_and_is_no_text() -> None:
    async def run() -> None:
        engine = core()
        async with running(engine):
            prompt = prompt_of(12)
            told = oracle(prompt, TOKENS)
            stop = Bytes().decode(told[3:4])
            at = Bytes().decode(told).index(stop)
            tokens = await answer(engine, Generation("r", prompt, replace(GREEDY, stop=(stop,))))
            assert tokens[-1].finish_reason == "stop"
            assert "".join(token.text for token in tokens) == Bytes().decode(told)[:at]
            assert ids(tokens) == told[: len(tokens)]
            await at_rest(engine)
            assert engine.stats().generated_tokens == len(tokens)

    asyncio.run(run())


def test_an_answer_that_is_cut_shows_all_of_its_text() -> None:
    async def run() -> None:
        engine = core()
        async with running(engine):
            prompt = prompt_of(12)
            told = Bytes().decode(oracle(prompt, TOKENS))
            sampling = replace(GREEDY, stop=(told[-1:] + "no such text",))
            tokens = await answer(engine, Generation("r", prompt, sampling))
            assert tokens[-1].finish_reason == "length"
            assert "".join(token.text for token in tokens) == told

    asyncio.run(run())


def test_a_seed_gives_the_same_answer_beside_others() -> None:
    async def run() -> None:
        engine = core()
        async with running(engine):
            warm = Sampling(max_tokens=12, temperature=1.0, seed=5, logprobs=2, ignore_eos=True)
            alone = await answer(engine, Generation("a", prompt_of(9), warm))
            beside = await asyncio.gather(
                answer(engine, Generation("b", prompt_of(9), warm)),
                answer(engine, Generation("c", prompt_of(30, 1), warm)),
            )
            assert ids(beside[0]) == ids(alone)
            assert all(len(token.top) == 2 and token.logprob < 0 for token in alone)

    asyncio.run(run())


# -- refused


def test_what_cannot_run_is_refused_and_frees_p() -> None:
    async def run() -> None:
        p, d = core(role="prefill"), core(role="decode", num_blocks=4, chunked_prefill=False)
        most = SHAPES["tiny"].max_tokens
        async with running(p, d):
            for length, sampling in ((most, GREEDY), (50, replace(GREEDY, max_tokens=most))):
                with pytest.raises(TooLong):
                    await answer(d, Generation("r", prompt_of(length), sampling))
            prompt = prompt_of(70)
            load = await prefill(p, "r", prompt)
            with pytest.raises(TooLong):
                await answer(d, Generation("r", prompt, GREEDY, load))
            await at_rest(p, d)
            load = await prefill(p, "s", prompt)
            d.release(load)
            await at_rest(p)
            for wrong in (replace(load, block_ids=()), replace(load, tokens=1000)):
                with pytest.raises(ValueError, match="blocks"):
                    await answer(d, Generation("r", prompt_of(9), GREEDY, wrong))
            for engine, part in ((p, load), (d, Hold())):
                with pytest.raises(ValueError, match="no part"):
                    await answer(engine, Generation("r", prompt_of(9), GREEDY, part))
            with pytest.raises(ValueError, match="DP rank"):
                await answer(d, Generation("r", prompt_of(9), GREEDY, dp_rank=1))

    asyncio.run(run())


def test_a_p_of_which_nothing_is_told_is_freed_where_it_holds_the_blocks() -> None:
    async def run() -> None:
        p = core(role="prefill", tp_size=2, dp_size=2)
        d = core(role="decode")
        async with running(p, d):
            for room in range(2):  # one on each of P's ranks
                await answer(p, Generation(f"p{room}", prompt_of(20, room), GREEDY, Hold(room)))
            for room in range(2):
                d.release(Load(None, *p.side_channel, room))
            await at_rest(p)

    asyncio.run(run())


def test_an_id_in_use_is_refused_and_its_owner_goes_on() -> None:
    async def run() -> None:
        engine = core(role="both")
        async with running(engine):
            await answer(engine, Generation("p", prompt_of(9), GREEDY, Hold("t")))
            with pytest.raises(ValueError, match="in use"):
                await answer(engine, Generation("p", prompt_of(9), GREEDY))
            with pytest.raises(ValueError, match="in use"):
                await answer(engine, Generation("q", prompt_of(9), GREEDY, Hold("t")))
            assert engine.stats().held == 1

    asyncio.run(run())


# -- by the client


async def _left(engine: EngineCore, generation: Generation, when: Callable[[], bool]) -> None:
    """Ask, and leave when it holds."""
    task = asyncio.create_task(answer(engine, generation))
    await until(when, "never seen")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_clients_may_leave_at_any_time() -> None:
    async def run() -> None:
        endless = Sampling(max_tokens=900, ignore_eos=True)
        p, d = core(role="prefill"), core(role="decode", max_running=1)
        async with running(p, d):
            prompt = prompt_of(20)
            running_one = Generation("running", prompt, endless)
            task = asyncio.create_task(answer(d, running_one))
            await until(lambda: d.stats().running == 1, "runs")
            load = await prefill(p, "waiting", prompt)
            await _left(
                d,
                Generation("waiting", prompt, GREEDY, load),
                lambda: d.stats().waiting == 1,
            )
            await at_rest(p)  # P has heard of it
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await at_rest(d)
            room = Load(None, *p.side_channel, "room")
            await _left(
                d, Generation("loading", prompt, GREEDY, room), lambda: d.stats().loading == 1
            )
            await at_rest(d)  # P has not begun, and will not write
            assert d.stats().transfer_bytes == 0
            assert await handed_over(p, d, "r", prompt) == oracle(prompt, TOKENS)
            await at_rest(p, d)

    asyncio.run(run())


def test_p_whose_client_leaves_refuses_who_came_early() -> None:
    async def run() -> None:
        p = core(role="prefill", max_running=1, max_batch_tokens=16, num_blocks=600)
        d = core(role="decode")
        async with running(p, d):
            prompt = prompt_of(4000)
            room = Load(None, *p.side_channel, 1)
            early = asyncio.create_task(answer(d, Generation("d", prompt[:900], GREEDY, room)))
            await until(lambda: d.stats().loading == 1, "loads")
            await _left(p, Generation("p", prompt, GREEDY, Hold(1)), lambda: p.stats().running == 1)
            with pytest.raises(LoadFailed):
                await early
            await at_rest(p, d)

    asyncio.run(run())


# -- failed loads


@pytest.mark.parametrize("recompute", [False, True], ids=["error", "recompute"])
@pytest.mark.parametrize("writes", [False, True], ids=["read", "write"])
def test_what_p_does_not_hold_is_not_served(recompute: bool, writes: bool) -> None:
    async def run() -> None:
        p = core(role="prefill", writes=writes)
        d = core(role="decode", writes=writes, recompute_failed=recompute)
        async with running(p, d):
            prompt = prompt_of(40)
            load = await prefill(p, "r", prompt)
            wrong = [
                replace(load, transfer_id="unknown"),
                replace(load, engine_id="an earlier life"),
                replace(load, tp_size=3),
            ]
            for each in wrong:
                if recompute:
                    tokens = await answer(d, Generation("r", prompt, GREEDY, each))
                    assert ids(tokens) == oracle(prompt, TOKENS)
                else:
                    with pytest.raises(LoadFailed):
                        await answer(d, Generation("r", prompt, GREEDY, each))
            await at_rest(d)
            assert d.stats().failed_transfers == 3
            assert d.stats().external_hits == d.stats().transfer_bytes == 0
            assert p.stats().held == 1

    asyncio.run(run())


@pytest.mark.parametrize("writes", [False, True], ids=["read", "write"])
def test_a_dead_p_fails_loads_soon(writes: bool) -> None:
    async def run() -> None:
        p, d = core(role="prefill", writes=writes), core(role="decode", writes=writes)
        async with running(p, d):
            prompt = prompt_of(40)
            assert await handed_over(p, d, "met", prompt_of(20, 1)) == oracle(
                prompt_of(20, 1), TOKENS
            )
            load = await prefill(p, "r", prompt)
            p.close()
            with pytest.raises(LoadFailed):
                await answer(d, Generation("r", prompt, GREEDY, load))
            with pytest.raises(LoadFailed):
                await answer(d, Generation("s", prompt, GREEDY, load))
            assert ids(await answer(d, Generation("t", prompt, GREEDY))) == oracle(prompt, TOKENS)
            await at_rest(d)

    asyncio.run(run())


def test_a_p_that_dies_before_it_has_the_prompt_is_not_waited_for() -> None:
    async def run() -> None:
        clock = Clock()
        p, d = core(role="prefill"), core(role="decode", parts={"clock": clock})
        async with running(p, d):
            room = Load(None, *p.side_channel, "room")
            load = Generation("r", prompt_of(40), GREEDY, room)
            waits = asyncio.create_task(answer(d, load))
            await until(lambda: d.stats().loading == 1, "loads")
            p.close()

            began = clock.now

            def failed() -> bool:
                if clock.now - began < 100.0:  # of the 120 s that it would wait
                    clock.now += 0.1
                    d.wake()
                return waits.done()

            await until(failed, "still waits")
            with pytest.raises(LoadFailed):
                await waits
            await at_rest(d)

    asyncio.run(run())


def test_holds_expire_and_are_refused_after() -> None:
    async def run() -> None:
        clock = Clock()
        p = core(role="prefill", hold_s=60.0, parts={"clock": clock})
        d = core(role="decode")
        async with running(p, d):
            prompt = prompt_of(40)
            old = await prefill(p, "old", prompt)
            clock.now += 59.0
            young = await prefill(p, "young", prompt_of(40, 1))
            assert p.stats().held == 2
            clock.now += 2.0
            p.wake()
            await until(lambda: p.stats().held == 1, "the old one expires")
            assert p.stats().expired_holds == 1
            with pytest.raises(LoadFailed):
                await answer(d, Generation("r", prompt, GREEDY, old))
            tokens = await answer(d, Generation("s", prompt_of(40, 1), GREEDY, young))
            assert ids(tokens) == oracle(prompt_of(40, 1), TOKENS)
            await at_rest(p, d)
            assert p.stats().expired_holds == 1

    asyncio.run(run())


@pytest.mark.parametrize("digest", [False, True], ids=["unverified", "digest"])
def test_a_byte_that_was_flipped_shows(digest: bool) -> None:
    async def run() -> None:
        faults = Faults("corrupt")
        p = core(role="prefill", tp_size=2)
        d = core(role="decode", kv_digest=digest, parts={"transfer_faults": faults})
        async with running(p, d):
            prompt = prompt_of(40)
            load = await prefill(p, "r", prompt)
            if digest:
                with pytest.raises(LoadFailed):
                    await answer(d, Generation("r", prompt, GREEDY, load))
            else:
                tokens = await answer(d, Generation("r", prompt, GREEDY, load))
                assert ids(tokens) != oracle(prompt, TOKENS)
            assert d.stats().failed_digests == d.stats().failed_transfers == int(digest)
            assert d.stats().transfers == 1 - digest
            other = prompt_of(40, 1)
            assert await handed_over(p, d, "s", other) == oracle(other, TOKENS)
            await at_rest(p, d)

    asyncio.run(run())


def test_loads_fail_and_come_later_on_demand() -> None:
    async def run() -> None:
        faults = Faults("fail", 0.2)
        p, d = core(role="prefill"), core(role="decode", parts={"transfer_faults": faults})
        async with running(p, d):
            prompt = prompt_of(40)
            load = await prefill(p, "r", prompt)
            with pytest.raises(LoadFailed):
                await answer(d, Generation("r", prompt, GREEDY, load))
            await at_rest(p, d)
            assert await handed_over(p, d, "s", prompt) == oracle(prompt, TOKENS)
            assert d.stats().transfer_seconds >= 0.2
            await at_rest(p, d)

    asyncio.run(run())


# -- the engine's own


class Slow:
    """Everything takes as long as is said."""

    def step(self, prompt_tokens: int, decodes: int) -> float:
        return 0.02 * decodes + 0.001 * prompt_tokens

    def load(self, size: int) -> float:
        return 0.1


def test_steps_and_loads_take_as_long_as_they_are_told_to() -> None:
    async def run() -> None:
        p, d = core(role="prefill"), core(role="decode", parts={"pace": Slow()})
        async with running(p, d):
            prompt = prompt_of(40)
            load = await prefill(p, "r", prompt)
            loop = asyncio.get_running_loop()
            began = loop.time()
            tokens = await answer(d, Generation("r", prompt, GREEDY, load))
            assert ids(tokens) == oracle(prompt, TOKENS)
            assert loop.time() - began >= 0.1 + 0.001 + 0.02 * (TOKENS - 1)
            assert d.stats().transfer_seconds >= 0.1

    asyncio.run(run())


class Broken:
    """A model that breaks at a token."""

    def __init__(self, at: int) -> None:
        self._decoder = Decoder(SHAPES["tiny"], seed=0)
        self._at = at
        self.shape, self.tp_size = self._decoder.shape, 1

    def forward(self, batch: Batch, caches: Any) -> npt.NDArray[Any]:
        if any(self._at in tokens for tokens in batch.tokens):
            raise ZeroDivisionError("the model is broken")
        return self._decoder.forward(batch, caches)


def test_a_bug_ends_all_answers_with_an_error(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        from pd_testkit.engine.settings import Settings

        engine = EngineCore(Settings(), Broken(at=255), Bytes())
        engine.start()
        async with running(engine):
            endless = Sampling(max_tokens=2000, ignore_eos=True)
            task = asyncio.create_task(answer(engine, Generation("r", (1, 2, 3), endless)))
            await until(lambda: engine.stats().running == 1, "runs")
            with pytest.raises(Stopped, match="the model is broken"):
                await answer(engine, Generation("bad", (255,), GREEDY))
            with pytest.raises(Stopped, match="the model is broken"):
                await task
            assert not engine.alive
            with pytest.raises(Stopped):
                await answer(engine, Generation("next", (1,), GREEDY))

    asyncio.run(run())
    assert "the engine's loop has ended" in caplog.text


def test_a_bug_ends_the_answer_that_was_just_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    def hold(*_: object) -> None:
        raise RuntimeError("no memory for the blocks")

    async def run() -> None:
        engine = core(role="prefill")
        async with running(engine):
            monkeypatch.setattr(Connector, "hold", hold)
            with pytest.raises(Stopped, match="no memory for the blocks"):
                await answer(engine, Generation("r", (1, 2, 3), GREEDY, Hold()))
            assert not engine.alive

    asyncio.run(run())


def test_a_thread_that_died_ends_all_answers_with_an_error() -> None:
    async def run() -> None:
        engine = core()
        endless = Sampling(max_tokens=900, ignore_eos=True)
        task = asyncio.create_task(answer(engine, Generation("r", (1, 2, 3), endless)))
        await until(lambda: engine.stats().running == 1, "runs")
        for _ in range(2):  # one thread's death may be another's
            engine.fail("thread nic", ZeroDivisionError("no bytes"))
        with pytest.raises(Stopped, match="thread nic has died: ZeroDivisionError: no bytes"):
            await asyncio.wait_for(task, DEADLINE_S)
        assert not engine.alive
        engine.close()
        engine.fail("thread nic", ZeroDivisionError("no bytes"))

    asyncio.run(run())


def test_a_core_that_is_closed_ends_its_answers() -> None:
    async def run() -> None:
        engine = core()
        endless = Sampling(max_tokens=900, ignore_eos=True)
        task = asyncio.create_task(answer(engine, Generation("r", (1, 2, 3), endless)))
        await until(lambda: engine.stats().running == 1, "runs")
        engine.close()
        engine.close()
        with pytest.raises(Stopped):
            await asyncio.wait_for(task, DEADLINE_S)
        assert not engine.alive

    asyncio.run(run())
