"""Which token comes next."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch

from pd_testkit.engine.generation import Sampling


class Choice(NamedTuple):
    """A token, the natural logarithm of its probability, and the likeliest tokens' ids and
    logprobs, best first. Without `Sampling.logprobs` the logprob is 0 and no others are told."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def choose(
    logits: torch.Tensor,
    sampling: Sampling,
    generator: random.Random,
    *,
    prompt: Sequence[int] = (),
    answer: Sequence[int] = (),
    ends: Collection[int] = (),
) -> Choice:
    """The next token of an answer.

    Probabilities that are told are the model's own, as with vLLM: before penalties, temperature
    and before any token is left out. Takes one number of `generator` if the temperature is above 0,
    else none.

    Args:
        logits: (vocabulary,). NaN, as of a damaged cache, counts as least likely.
        generator: this answer's own.
        answer: tokens that it has already.
        ends: ids that end an answer; not chosen before it has `Sampling.min_tokens`.
    """
    row = logits.double().cpu().nan_to_num(nan=-1e30, posinf=1e30, neginf=-1e30)
    allowed = _penalized(row, sampling, prompt, answer)
    if len(answer) < sampling.min_tokens and ends and not sampling.ignore_eos:
        allowed = allowed.clone()
        allowed[list(ends)] = -torch.inf
    if sampling.temperature > 0:
        chosen = _draw(allowed, sampling, generator)
    else:
        chosen = int(allowed.argmax())
    if sampling.logprobs is None:
        return Choice(chosen, 0.0, ())
    logprobs = row.log_softmax(-1)
    best = logprobs.topk(min(sampling.logprobs, len(logprobs)))
    top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return Choice(chosen, float(logprobs[chosen]), top)


def _penalized(
    row: torch.Tensor, sampling: Sampling, prompt: Sequence[int], answer: Sequence[int]
) -> torch.Tensor:
    """As vLLM 0.33 does (``vllm/model_executor/layers/utils.py``, ``apply_penalties``)."""
    factor, presence = sampling.repetition_penalty, sampling.presence_penalty
    if factor != 1.0:
        row, said = row.clone(), torch.tensor(sorted({*prompt, *answer}))
        logits = row[said]
        row[said] = torch.where(logits > 0, logits / factor, logits * factor)
    if presence or sampling.frequency_penalty:
        times = torch.tensor(answer, dtype=torch.long).bincount(minlength=len(row))
        row = row - sampling.frequency_penalty * times - presence * (times > 0)
    return row


def _draw(row: torch.Tensor, sampling: Sampling, generator: random.Random) -> int:
    """By the probability of each of the tokens that are left in, likeliest first."""
    scaled, ids = row.sort(descending=True, stable=True)
    if sampling.top_k > 0:
        scaled = scaled[: sampling.top_k]
    probabilities = ((scaled - scaled[0]) / sampling.temperature).softmax(-1)
    mass = probabilities.cumsum(-1)
    if sampling.top_p < 1:
        # The likeliest tokens that have top_p together: one, at least.
        kept = int((mass - probabilities < sampling.top_p).sum())
        mass = mass[: max(kept, 1)]
    at = int(torch.searchsorted(mass, generator.random() * float(mass[-1]), right=True))
    return int(ids[min(at, len(mass) - 1)])
