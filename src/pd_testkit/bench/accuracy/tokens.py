"""Whether P/D gives the tokens that one engine alone gives: `TOKEN_CHECKS`.

All asks are at temperature 0. The oracle gets the very same bodies.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Iterable, Sequence
from decimal import Decimal
from typing import Any, TypeVar

from pd_testkit.bench.accuracy import expectations
from pd_testkit.bench.accuracy.api import UNICODE, chat, completion, streaming
from pd_testkit.bench.accuracy.check import Check, Deployment, NotApplicable
from pd_testkit.bench.answers import CHAT, Answer, Choice
from pd_testkit.bench.endpoint import Ask, Endpoint, Unexpected
from pd_testkit.bench.kv.movement import Snapshot, unaccounted

LOGPROB_TOLERANCE = 1e-3
"""Of natural logarithms, where the oracle computes the same numbers: far above what the order of
additions makes, far below what a wrong block makes."""
AT_ONCE = 64
CONCURRENT_QUESTIONS = 100
_TRIES = 8
_REPLACEMENT = "\ufffd"
_T = TypeVar("_T")


def detailed(ask: Ask) -> Ask:
    """The same, with what tokens are compared by."""
    more: dict[str, Any] = {"return_token_ids": True}
    more |= {"logprobs": True, "top_logprobs": 1} if ask.path == CHAT else {"logprobs": 1}
    return Ask(ask.path, {**ask.body, **more})


async def same(deployment: Deployment, ask: Ask) -> Answer:
    """The deployment's answer, which is the oracle's.

    Raises:
        NotApplicable: there is no oracle.
        Unexpected: it is another.
    """
    oracle = _oracle(deployment)
    ask = detailed(ask)
    answer, wanted = await all_of(
        [deployment.endpoint.answer(ask), oracle.answer(_for(oracle, ask))]
    )
    for number, (got, right) in enumerate(zip(answer.choices, wanted.choices, strict=True)):
        if wrong := difference(got, right, deployment.exact):
            which = f" (choice {number})" if number else ""
            raise deployment.endpoint.unexpected(ask, wrong[0] + which, wrong[1])
    return answer


async def all_of(works: Iterable[Awaitable[_T]]) -> list[_T]:
    """What they give, when all have ended; raises what the first of them raised."""
    done = await asyncio.gather(*works, return_exceptions=True)
    given: list[_T] = []
    for each in done:
        if isinstance(each, BaseException):
            raise each
        given.append(each)
    return given


def difference(got: Choice, right: Choice, exact: bool = False) -> tuple[str, str] | None:
    """What the oracle has and the answer has not, and what it has instead; None: they are alike.

    Compared by token ids where both have them, else by tokens, else by text.

    Args:
        exact: log probabilities are compared, too.
    """
    if got.ids is not None and right.ids is not None:
        pair: tuple[Sequence[Any], Sequence[Any]] = got.ids, right.ids
    elif got.tokens is not None and right.tokens is not None:
        pair = got.tokens, right.tokens
    else:
        pair = got.text, right.text
    if pair[0] != pair[1]:
        place = next(
            (index for index, (a, b) in enumerate(zip(*pair, strict=False)) if a != b),
            min(map(len, pair)),
        )
        told = [_around(each, place) for each in pair]
        return f"as the oracle, at token {place + 1}: {told[1]}", told[0]
    if got.text != right.text:
        return f"the text {right.text!r}", repr(got.text)
    if got.finish_reason != right.finish_reason:
        return f"the finish reason {right.finish_reason}", got.finish_reason
    if exact and got.logprobs is not None and right.logprobs is not None:
        for place, (a, b) in enumerate(zip(got.logprobs, right.logprobs, strict=True)):
            if abs(a - b) > LOGPROB_TOLERANCE:
                return f"a log probability of {b:.6f} for token {place + 1}", f"{a:.6f}"
    return None


def _around(tokens: Sequence[Any], place: int) -> str:
    if place >= len(tokens):
        return f"nothing after {len(tokens)} tokens"
    return ", ".join(map(repr, tokens[place : place + 4]))


def _oracle(deployment: Deployment) -> Endpoint:
    if deployment.oracle is None:
        raise NotApplicable("there is no oracle; the questions tell")
    return deployment.oracle


def _for(oracle: Endpoint, ask: Ask) -> Ask:
    """With the name by which the oracle knows the model."""
    return Ask(ask.path, {**ask.body, "model": oracle.model})


async def _exactly(deployment: Deployment, check: str, tokens: Sequence[int]) -> list[str]:
    """Prompts of so many tokens each, as the oracle counts them."""
    oracle = _oracle(deployment)
    prompts = deployment.prompts(check)

    async def count(text: str) -> int:
        ask = _for(oracle, completion(deployment, text, max_tokens=1))
        answer = await oracle.answer(ask)
        return answer.usage.prompt_tokens if answer.usage else 0

    try:
        return [await prompts.exactly(length, count) for length in tokens]
    except ValueError as problem:
        raise Unexpected("prompts of a given length", "to find them", str(problem)) from None


async def words_of(deployment: Deployment, check: str, tokens: int) -> int:
    """Words that have at least so many tokens in this model."""
    probe = 40
    ask = completion(deployment, deployment.prompts(f"{check}/probe").words(probe), max_tokens=1)
    answer = await deployment.endpoint.answer(ask)
    has = answer.usage.prompt_tokens if answer.usage else probe
    return math.ceil(tokens * probe / has * 1.1)


async def _tokens(deployment: Deployment) -> str:
    prompts = deployment.prompts("tokens")
    answers = [
        await same(deployment, completion(deployment, prompts.words(words), max_tokens=16))
        for words in (1, 2, 3, 5, 8, 13, 21, 34, 55)
    ]
    if len({answer.choices[0].text for answer in answers}) == 1:
        raise Unexpected(
            f"{len(answers)} different prompts",
            "answers that differ, or wrong KV would not show",
            f"{answers[0].choices[0].text!r} each time",
        )
    streamed = streaming(completion(deployment, prompts.words(20), max_tokens=16))
    await same(deployment, streamed)
    return f"{len(answers) + 1} prompts, {_of(answers)} tokens of answers"


async def _block_edges(deployment: Deployment) -> str:
    sizes = sorted(set(deployment.block_sizes))
    lengths = sorted(
        {length for size in sizes for length in (size // 2, size - 1, size, size + 1, 2 * size)}
        | {1, 2}
    )
    for text in await _exactly(deployment, "block-edges", [n for n in lengths if n]):
        await same(deployment, completion(deployment, text))
    told = " and ".join(map(str, sizes))
    return f"prompts of {', '.join(map(str, lengths))} tokens; blocks of {told}"


async def _full_hit(deployment: Deployment) -> str:
    """The same prompt again and again, until a D has all of it already."""
    count = await words_of(deployment, "prefix-hit-full", 6 * deployment.block_size)
    text = deployment.prompts("prefix-hit-full").words(count)
    return await _hits(deployment, [text] * _asks(deployment))


async def _partial_hit(deployment: Deployment) -> str:
    """Prompts that begin alike and end each in its own way."""
    prompts = deployment.prompts("prefix-hit-partial")
    count = await words_of(deployment, "prefix-hit-partial", 3 * deployment.block_size)
    shared = prompts.words(count)
    texts = [f"{shared} {prompts.words(count)}" for _ in range(_asks(deployment))]
    return await _hits(deployment, texts)


def _asks(deployment: Deployment) -> int:
    return _TRIES * max(1, len(deployment.engines.decode))


async def _hits(deployment: Deployment, texts: Sequence[str]) -> str:
    """Ask until D has found a block in its own cache."""
    _oracle(deployment)
    known = deployment.kv_check and deployment.engines.known
    before = await deployment.engines.snapshot() if known else None
    asked: list[int] = []
    found = looked = 0
    for text in texts:
        answer = await same(deployment, completion(deployment, text))
        asked.append(answer.usage.prompt_tokens if answer.usage else 0)
        if before is None:
            if len(asked) == 2:
                return "asked twice; D's counters are not known"
            continue
        now = (await deployment.engines.snapshot()).decode.since(before.decode)
        found, looked = int(now.local_hits or 0), int(now.local_queries or 0)
        if found >= deployment.block_size:
            break
    if before is None:
        return f"asked {len(asked)} times"
    if not looked:
        return f"asked {len(asked)} times; D looks nothing up: its prefix cache is off"
    if not found:
        raise Unexpected(
            f"{len(asked)} prompts that begin alike",
            "a hit in D's prefix cache",
            f"none of {looked} tokens that D looked up",
        )
    return await accounted(deployment, before, asked)


async def accounted(deployment: Deployment, before: Snapshot, prompts: Sequence[int]) -> str:
    """What was seen to move for prompts of so many tokens, all of them answered since `before`.

    Raises:
        Unexpected: not what was missing.
    """
    tolerance = len(prompts) * deployment.block_size
    moved = await deployment.engines.moved(before, prompts, tolerance)
    if wrong := unaccounted(moved, tolerance):
        expected = f"the KV of {moved.missing} tokens to come from P, give or take {tolerance}"
        raise Unexpected(f"{len(prompts)} prompts", expected, wrong)
    return str(moved)


async def _multi_turn(deployment: Deployment) -> str:
    prompts = deployment.prompts("multi-turn")
    said: list[str] = []
    for _ in range(4):
        said.append(prompts.words(12))
        answer = await same(deployment, chat(deployment, *said))
        said.append(answer.choices[0].text)
    return "four turns"


async def _stop(deployment: Deployment) -> str:
    """The oracle's text, cut where the stop string first is; nothing of it is served."""
    prompts = deployment.prompts("stop")
    oracle = _oracle(deployment)
    for _ in range(20):
        text = prompts.words(12)
        whole = await oracle.answer(_for(oracle, completion(deployment, text, max_tokens=24)))
        said = whole.choices[0].text
        if (stop := _stop_in(said)) is not None:
            break
    else:
        raise NotApplicable("no answer has a text that one could stop at")
    expected = said[: said.index(stop)]
    ask = completion(deployment, text, max_tokens=24, stop=[stop, "never said"])
    for each in (ask, streaming(ask)):
        (choice,) = (await deployment.endpoint.answer(each)).choices
        if (choice.text, choice.finish_reason) != (expected, "stop"):
            raise deployment.endpoint.unexpected(
                each,
                f"{expected!r}, ended by stop",
                f"{choice.text!r}, ended by {choice.finish_reason}",
            )
    return f"at {stop!r}, streamed and whole"


def _stop_in(text: str) -> str | None:
    """Two characters of it that are first met neither at its begin nor at its end."""
    for place in range(2, len(text) - 2):
        stop = text[place : place + 2]
        if _REPLACEMENT not in text[: place + 2] and text.index(stop) == place:
            return stop
    return None


async def _unicode(deployment: Deployment) -> str:
    prompts = deployment.prompts("unicode-tokens")
    asks = [
        completion(deployment, f"{prompts.words(2)} {UNICODE * 3}"),
        chat(deployment, f"{prompts.words(2)} {UNICODE * 3}"),
    ]
    for ask in asks:
        await same(deployment, ask)
    return f"{len(asks)} prompts"


async def _at_once(deployment: Deployment) -> str:
    _oracle(deployment)
    prompts = deployment.prompts("at-once")
    words = await words_of(deployment, "at-once", 3 * deployment.block_size)
    asks = [completion(deployment, prompts.words(words + n % 7)) for n in range(AT_ONCE)]
    asks = [streaming(ask) if number % 2 else ask for number, ask in enumerate(asks)]
    before = None
    if deployment.kv_check and deployment.engines.known:
        before = await deployment.engines.snapshot()
    answers = await all_of(same(deployment, ask) for ask in asks)
    told = f"{len(asks)} requests"
    if before is None:
        return told
    counts = [answer.usage.prompt_tokens for answer in answers if answer.usage]
    return f"{told}: {await accounted(deployment, before, counts)}"


async def _questions(deployment: Deployment) -> str:
    if not deployment.questions:
        raise NotApplicable("no --dataset was given")
    if deployment.band is None:
        raise Unexpected(
            f"what {deployment.endpoint.model} should score",
            "a stated expectation: --expect SHARE [--band WIDTH]",
            "none: it is not among the known models",
        )
    gate = asyncio.Semaphore(CONCURRENT_QUESTIONS)

    async def right(prompt: str, number: Decimal) -> bool:
        fields = {"max_tokens": expectations.MAX_TOKENS, "stop": list(expectations.STOP)}
        async with gate:
            answer = await deployment.endpoint.answer(completion(deployment, prompt, **fields))
        return expectations.last_number(answer.choices[0].text) == number

    pairs = expectations.prompts(deployment.questions)
    marks = await all_of(right(prompt, number) for prompt, number in pairs)
    share = sum(marks) / len(marks)
    told = f"{sum(marks)} of {len(marks)} right: {share:.3f}"
    if share not in deployment.band:
        raise Unexpected(f"{len(marks)} questions", f"{deployment.band} right", told)
    return f"{told}, expected {deployment.band}"


def _of(answers: Sequence[Answer]) -> int:
    return sum(answer.usage.completion_tokens for answer in answers if answer.usage)


TOKEN_CHECKS = (
    Check("tokens", "P/D gives the oracle's tokens", _tokens),
    Check("block-edges", "also where prompts end at a block's edge", _block_edges),
    Check("prefix-hit-full", "also where D has the whole prompt cached", _full_hit),
    Check("prefix-hit-partial", "also where D has the prompt's begin cached", _partial_hit),
    Check("multi-turn", "also when a conversation goes on", _multi_turn),
    Check("stop-strings", "the text ends before a stop string", _stop),
    Check("unicode-tokens", "also where characters are several tokens", _unicode),
    Check("at-once", f"also with {AT_ONCE} requests at once", _at_once),
    Check("questions", "questions are answered as well as expected", _questions),
)
