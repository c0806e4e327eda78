"""Engine cores of one process, joined as a P and a D are, and the oracle of what they answer."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import torch

from pd_testkit.engine.core import EngineCore
from pd_testkit.engine.counts import Stats
from pd_testkit.engine.generation import Generation, Hold, Load, Sampling, Token
from pd_testkit.engine.model import Decoder
from pd_testkit.engine.monolith import Monolith
from pd_testkit.engine.settings import Settings
from pd_testkit.engine.shape import SHAPES
from pd_testkit.engine.tokenizer import Bytes

DEADLINE_S = 60.0
"""Only reached on failure."""
GREEDY = Sampling(max_tokens=8, ignore_eos=True)

torch.set_num_threads(1)


def core(
    model: str = "tiny", *, parts: Mapping[str, Any] | None = None, **settings: Any
) -> EngineCore:
    """Started; ``parts`` are those of `EngineCore` beside the model and the tokenizer."""
    chosen = Settings(model=model, **{"num_blocks": 64, "block_size": 16, **settings})
    engine = EngineCore(
        chosen,
        _decoder(model, chosen.tp_size, chosen.dtype, chosen.device, chosen.layout),
        Bytes(),
        **(parts or {}),
    )
    engine.start()
    return engine


@functools.cache
def _decoder(model: str, tp_size: int, dtype: str, device: str, layout: str) -> Decoder:
    ways = {"tp_size": tp_size, "dtype": dtype, "device": device, "layout": layout}
    return Decoder(SHAPES[model], seed=0, **ways)


@functools.cache
def oracle(prompt: tuple[int, ...], tokens: int, model: str = "tiny") -> list[int]:
    """What the model says in one piece."""
    return _monolith(model).greedy(prompt, tokens)


@functools.cache
def _monolith(model: str) -> Monolith:
    return Monolith(SHAPES[model], 0)


def prompt_of(length: int, salt: int = 0) -> tuple[int, ...]:
    """Unlike any other's, from its first block on."""
    return tuple((salt * 101 + at * 7 + at // 16 * 31) % 256 for at in range(length))


@contextlib.asynccontextmanager
async def running(*cores: EngineCore) -> AsyncIterator[None]:
    """Closes them at the end."""
    try:
        yield
    finally:
        for each in cores:
            each.close()


async def answer(engine: EngineCore, generation: Generation) -> list[Token]:
    async def all_of_it() -> list[Token]:
        return [token async for token in engine.generate(generation)]

    return await asyncio.wait_for(all_of_it(), DEADLINE_S)


async def prefill(p: EngineCore, name: str, prompt: tuple[int, ...]) -> Load:
    """Have P compute and hold the prompt; gives what D is told."""
    *_, last = await answer(p, Generation(name, prompt, GREEDY, Hold()))
    assert last.transfer is not None
    return load_of(last.transfer)


def load_of(params: Mapping[str, Any]) -> Load:
    return Load(
        params["remote_engine_id"],
        params["remote_host"],
        params["remote_handshake_port"],
        params["transfer_id"],
        params["remote_tp_size"],
        params["remote_dp_size"],
        params["remote_dp_rank"],
        tuple(params["remote_block_ids"]),
        params["remote_block_size"],
        params["remote_tokens"],
    )


async def handed_over(
    p: EngineCore,
    d: EngineCore,
    name: str,
    prompt: tuple[int, ...],
    sampling: Sampling = GREEDY,
) -> list[int]:
    """The tokens of D, for which P has computed the prompt."""
    load = await prefill(p, name, prompt)
    return ids(await answer(d, Generation(name, prompt, sampling, load)))


def ids(tokens: Sequence[Token]) -> list[int]:
    return [token.id for token in tokens]


async def until(holds: Callable[[], bool], what: str) -> None:
    """Look again until it holds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + DEADLINE_S
    while not holds():
        assert loop.time() < end, what
        await asyncio.sleep(0.002)


async def at_rest(*cores: EngineCore) -> None:
    """Nothing is held, and all blocks are free."""
    for each in cores:
        await until(lambda each=each: _rests(each.stats()), f"never at rest: {each.stats()}")


def _rests(stats: Stats) -> bool:
    busy = stats.running + stats.waiting + stats.loading + stats.held
    return busy == 0 and stats.free_blocks == stats.blocks
