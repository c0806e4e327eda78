"""Which token comes next."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pd_testkit.engine.generation import Sampling

_Floats = npt.NDArray[np.float64]

_MOST = 1e30
"""Of a logit's size."""


class Choice(NamedTuple):
    """A token, the natural logarithm of its probability, and the likeliest tokens' ids and
    logprobs, best first. Without `Sampling.logprobs` the logprob is 0 and no others are told."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def choose(
    logits: npt.NDArray[Any],
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
    row = np.fmin(np.fmax(np.asarray(logits, np.float64), -_MOST), _MOST)
    allowed = _penalized(row, sampling, prompt, answer)
    if len(answer) < sampling.min_tokens and ends and not sampling.ignore_eos:
        allowed = allowed.copy()
        allowed[list(ends)] = -np.inf
    if sampling.temperature > 0:
        chosen = _draw(allowed, sampling, generator)
    else:
        chosen = int(allowed.argmax())
    if sampling.logprobs is None:
        return Choice(chosen, 0.0, ())
    ahead = row - row.max()
    logprobs = ahead - np.log(np.exp(ahead).sum())
    best = _likeliest(row)[: sampling.logprobs]
    top = tuple(zip(best.tolist(), logprobs[best].tolist(), strict=True))
    return Choice(chosen, float(logprobs[chosen]), top)


def _penalized(
    row: _Floats, sampling: Sampling, prompt: Sequence[int], answer: Sequence[int]
) -> _Floats:
    """As vLLM 0.33 does (``vllm/model_executor/layers/utils.py``, ``apply_penalties``)."""
    factor, presence = sampling.repetition_penalty, sampling.presence_penalty
    if factor != 1.0:
        row, said = row.copy(), sorted({*prompt, *answer})
        logits = row[said]
        row[said] = np.where(logits > 0, logits / factor, logits * factor)
    if presence or sampling.frequency_penalty:
        times = np.bincount(np.array(answer, np.intp), minlength=len(row))
        row = row - sampling.frequency_penalty * times - presence * (times > 0)
    return row


def _draw(row: _Floats, sampling: Sampling, generator: random.Random) -> int:
    """By the probability of each of the tokens that are left in, likeliest first."""
    ids = _likeliest(row)
    if sampling.top_k > 0:
        ids = ids[: sampling.top_k]
    with np.errstate(over="ignore"):  # by the least temperatures
        probabilities = np.exp((row[ids] - row[ids[0]]) / sampling.temperature)
    probabilities /= probabilities.sum()
    mass = probabilities.cumsum()
    if sampling.top_p < 1:
        # The likeliest tokens that have top_p together: one, at least.
        kept = int((mass - probabilities < sampling.top_p).sum())
        mass = mass[: max(kept, 1)]
    at = int(np.searchsorted(mass, generator.random() * mass[-1], side="right"))
    return int(ids[min(at, len(mass) - 1)])


def _likeliest(row: _Floats) -> npt.NDArray[np.intp]:
    """All tokens' ids, of equally likely ones the first one first."""
    return np.argsort(-row, kind="stable")
