"""Whether the accuracy test notices wrong KV: bytes are flipped in flight, and it must."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec

from pd_testkit.bench.accuracy.api import completion
from pd_testkit.bench.accuracy.check import Check, Deployment, NotApplicable
from pd_testkit.bench.accuracy.tokens import same, words_of
from pd_testkit.bench.endpoint import Endpoint, Refused, Unexpected

FAULT = "kv-corrupt"
_PATH = "/admin/faults"
_PROMPTS = 4
"""Fewer than what a router leaves an engine alone after, where they are refused."""
_BLOCKS = 4


class _Faults(msgspec.Struct):
    """What an engine says of its faults: how often each kind struck since its start."""

    fired: dict[str, int]


async def _corrupted(deployment: Deployment) -> str:
    if deployment.oracle is None:
        raise NotApplicable("there is no oracle")
    if not deployment.engines.known:
        raise NotApplicable("the engines are not known")
    words = await words_of(deployment, "detector", _BLOCKS * deployment.block_size)
    prompts = deployment.prompts("detector")
    engines = [
        engine.with_key(deployment.admin_key)
        for engine in (*deployment.engines.prefill, *deployment.engines.decode)
    ]
    wrong = refused = 0
    async with _faulty(engines) as fired:
        for _ in range(_PROMPTS):
            try:
                await same(deployment, completion(deployment, prompts.words(words)))
            except Refused:
                refused += 1
            except Unexpected:
                wrong += 1
        struck = await fired()
    if not struck:
        raise Unexpected(f"the fault {FAULT}", "to strike", "no transfer was corrupted")
    if not wrong + refused:
        raise Unexpected(
            f"{_PROMPTS} prompts with {struck} bytes of KV flipped",
            "another answer, or an error",
            "the right tokens: this test would not notice wrong KV",
        )
    return f"{struck} bytes flipped: of {_PROMPTS} answers {wrong} were wrong and {refused} refused"


@asynccontextmanager
async def _faulty(engines: Sequence[Endpoint]) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """All of them flip a byte of each transfer meanwhile; gives how often one did.

    Raises:
        Unexpected: one does not let itself be told.
    """
    before = 0

    async def fired() -> int:
        return sum([await _told(engine, "GET") for engine in engines]) - before

    before = await fired()
    try:
        for engine in engines:
            await _told(engine, "POST", {"fault": FAULT})
        yield fired
    finally:
        for engine in engines:
            await _told(engine, "DELETE")


async def _told(engine: Endpoint, method: str, body: dict[str, str] | None = None) -> int:
    """How often the fault struck there, after it was asked so."""
    path = f"{_PATH}?kind={FAULT}" if method == "DELETE" else _PATH
    status, answer = await engine.call(method, path, body)
    asked = f"{method} {engine.url}{path}"
    if status != 200:
        told = answer[:200].decode("utf-8", "replace")
        raise Unexpected(asked, "status 200", f"status {status}: {told}")
    try:
        return msgspec.json.decode(answer, type=_Faults).fired.get(FAULT, 0)
    except msgspec.DecodeError as problem:
        raise Unexpected(asked, "how often the fault struck", str(problem)) from None


DETECTOR_CHECKS = (Check("detector", "a flipped byte of KV is noticed", _corrupted),)
