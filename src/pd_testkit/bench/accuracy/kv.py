"""Whether the KV really moved, and would be missed: `KV_CHECKS`."""

from __future__ import annotations

from pd_testkit.bench.accuracy.api import completion
from pd_testkit.bench.accuracy.check import Check, Deployment, NotApplicable
from pd_testkit.bench.accuracy.tokens import all_of, words_of
from pd_testkit.bench.endpoint import Unexpected
from pd_testkit.bench.kv.movement import Moved, out_of_proportion, unaccounted

_PROMPTS = 4
_BLOCKS = (4, 12)
"""Of the prompts of the two groups."""


async def _moved(deployment: Deployment) -> str:
    if not deployment.kv_check:
        raise NotApplicable("--no-kv-check")
    if not deployment.engines.known:
        raise Unexpected(
            "the engines' counters",
            "--prefill-endpoint and --decode-endpoint, or --no-kv-check",
            "nothing shows whether the KV moved or D computed the prompts again",
        )
    tolerance = _PROMPTS * deployment.block_size
    groups: list[Moved] = []
    for blocks in _BLOCKS:
        groups.append(await _group(deployment, blocks, tolerance))
        if wrong := unaccounted(groups[-1], tolerance):
            raise _unexpected(groups[-1], tolerance, wrong)
    first, second = groups
    if first.external is None and (wrong := out_of_proportion(first, second, tolerance)):
        raise _unexpected(second, tolerance, wrong)
    return "; ".join(map(str, groups))


def _unexpected(group: Moved, tolerance: int, wrong: str) -> Unexpected:
    expected = f"the KV of {group.missing} tokens to come from P, give or take {tolerance}"
    return Unexpected(f"{_PROMPTS} prompts of {group.prompts} tokens in all", expected, wrong)


async def _group(deployment: Deployment, blocks: int, tolerance: int) -> Moved:
    name = f"kv-moved/{blocks}"
    words = await words_of(deployment, name, blocks * deployment.block_size)
    prompts = deployment.prompts(name)
    before = await deployment.engines.snapshot()
    answers = await all_of(
        deployment.endpoint.answer(completion(deployment, prompts.words(words)))
        for _ in range(_PROMPTS)
    )
    counts = [answer.usage.prompt_tokens for answer in answers if answer.usage]
    return await deployment.engines.moved(before, counts, tolerance)


async def _nothing_left(deployment: Deployment) -> str:
    if not deployment.engines.known:
        raise NotApplicable("the engines are not known")
    if left := await deployment.engines.idle():
        told = ", ".join(f"{count} {what}" for what, count in left.items())
        raise Unexpected("the engines' gauges at the end", "no request left", told)
    return "no request is running, waiting or held"


KV_CHECKS = (
    Check("kv-moved", "prompts' KV came from P, and was not computed again", _moved),
    Check("nothing-left", "no request is left behind on an engine", _nothing_left),
)
