"""Which token is chosen: the likeliest, or one drawn from those that are left in."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest

from pd_testkit.engine.generation import Sampling
from pd_testkit.engine.sampling import choose

PROBABILITIES = (0.1, 0.5, 0.15, 0.25)
LOGITS = np.array([math.log(share) + 3.0 for share in PROBABILITIES])


def drawn(
    sampling: Sampling, count: int = 2000, logits: npt.NDArray[np.float64] = LOGITS
) -> Counter[int]:
    generator = random.Random(7)
    return Counter(choose(logits, sampling, generator).id for _ in range(count))


def test_temperature_0_takes_the_likeliest_and_no_random_number() -> None:
    generator = random.Random(1)
    before = generator.getstate()
    assert choose(LOGITS, Sampling(), generator).id == 1
    assert generator.getstate() == before


def test_of_equally_likely_tokens_the_first_is_taken() -> None:
    assert choose(np.array([1.0, 2.0, 2.0]), Sampling(), random.Random(1)).id == 1


def test_tokens_are_drawn_by_their_probability() -> None:
    counts = drawn(Sampling(temperature=1.0))
    for token, share in enumerate(PROBABILITIES):
        # Four standard deviations of 2000 draws, at most.
        assert abs(counts[token] / 2000 - share) < 4 * math.sqrt(0.25 / 2000)


def test_a_lower_temperature_sharpens() -> None:
    # At temperature 1/2 probabilities are squared: .01, .25, .0225, .0625 of .345.
    counts = drawn(Sampling(temperature=0.5))
    assert abs(counts[1] / 2000 - 0.25 / 0.345) < 0.045
    assert abs(counts[3] / 2000 - 0.0625 / 0.345) < 0.045


def test_top_k_leaves_in_the_k_likeliest() -> None:
    assert set(drawn(Sampling(temperature=1.0, top_k=2))) == {1, 3}
    assert set(drawn(Sampling(temperature=1.0, top_k=1))) == {1}
    assert set(drawn(Sampling(temperature=1.0, top_k=99))) == {0, 1, 2, 3}


def test_top_p_leaves_in_the_likeliest_that_have_p_together() -> None:
    assert set(drawn(Sampling(temperature=1.0, top_p=0.45))) == {1}
    assert set(drawn(Sampling(temperature=1.0, top_p=0.7))) == {1, 3}
    assert set(drawn(Sampling(temperature=1.0, top_p=0.8))) == {1, 2, 3}
    assert set(drawn(Sampling(temperature=1.0, top_p=0.0))) == {1}


def test_the_same_seed_draws_the_same_answer() -> None:
    sampling = Sampling(temperature=1.0)

    def answer(seed: int) -> list[int]:
        generator = random.Random(seed)
        return [choose(LOGITS, sampling, generator).id for _ in range(50)]

    assert answer(1) == answer(1)
    assert answer(1) != answer(2)


def test_logprobs_are_the_models_own() -> None:
    told = choose(LOGITS, Sampling(logprobs=2), random.Random(1))
    assert told.logprob == pytest.approx(math.log(0.5))
    assert [token for token, _ in told.top] == [1, 3]
    assert [logprob for _, logprob in told.top] == pytest.approx([math.log(0.5), math.log(0.25)])
    hot = choose(LOGITS, Sampling(temperature=9.0, top_k=1, logprobs=1), random.Random(1))
    assert hot.logprob == pytest.approx(math.log(0.5))


def test_logprobs_are_told_of_as_many_as_asked_for_and_there_are() -> None:
    assert choose(LOGITS, Sampling(), random.Random(1)).top == ()
    bare = choose(LOGITS, Sampling(logprobs=0), random.Random(1))
    assert (bare.top, bare.logprob) == ((), pytest.approx(math.log(0.5)))
    assert len(choose(LOGITS, Sampling(logprobs=20), random.Random(1)).top) == 4


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_end_is_not_chosen_before_min_tokens(temperature: float) -> None:
    sampling = Sampling(temperature=temperature, min_tokens=2, logprobs=1)
    generator = random.Random(1)
    for answer in ((), (0,)):
        chosen = choose(LOGITS, sampling, generator, answer=answer, ends={1, 3})
        assert chosen.id in {0, 2}
        assert chosen.top[0][0] == 1  # what the model would have said
    ended = {choose(LOGITS, sampling, generator, answer=(0, 0), ends={1, 3}).id for _ in range(20)}
    assert ended & {1, 3}


@pytest.mark.parametrize(
    ("sampling", "prompt", "answer", "chosen"),
    [
        # Token 1 leads token 3 by ln 2 = 0.69.
        (Sampling(presence_penalty=0.6), (), (1, 1, 1), 1),
        (Sampling(presence_penalty=0.8), (), (1,), 3),
        (Sampling(presence_penalty=0.8), (1,), (), 1),
        (Sampling(presence_penalty=-0.8), (), (3,), 3),
        (Sampling(frequency_penalty=0.6), (), (1,), 1),
        (Sampling(frequency_penalty=0.6), (), (1, 0, 1), 3),
        (Sampling(frequency_penalty=-0.4), (), (3, 3), 3),
        # Their logits are 2.31 and 1.61.
        (Sampling(repetition_penalty=1.4), (1, 1), (), 1),
        (Sampling(repetition_penalty=1.5), (1, 1), (), 3),
        (Sampling(repetition_penalty=1.5), (), (1,), 3),
        (Sampling(repetition_penalty=0.5), (3,), (), 3),
    ],
)
def test_penalties_count_what_was_said(
    sampling: Sampling, prompt: tuple[int, ...], answer: tuple[int, ...], chosen: int
) -> None:
    before = LOGITS.copy()
    found = choose(LOGITS, sampling, random.Random(1), prompt=prompt, answer=answer)
    assert found.id == chosen
    assert np.array_equal(LOGITS, before)


def test_a_repetition_penalty_makes_negative_logits_less() -> None:
    logits = np.array([-1.0, -1.2])
    sampling = Sampling(repetition_penalty=1.3)
    assert choose(logits, sampling, random.Random(1), prompt=(0,)).id == 1


def test_told_probabilities_are_those_before_penalties() -> None:
    sampling = Sampling(presence_penalty=2.0, frequency_penalty=2.0, logprobs=1)
    found = choose(LOGITS, sampling, random.Random(1), answer=(1,))
    assert (found.id, found.logprob) == (3, pytest.approx(math.log(0.25)))
    assert found.top == ((1, pytest.approx(math.log(0.5))),)


def test_an_end_that_is_ignored_is_a_token_like_any_other() -> None:
    sampling = Sampling(min_tokens=2, ignore_eos=True)
    assert choose(LOGITS, sampling, random.Random(1), ends={1}).id == 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_still_give_a_token(temperature: float) -> None:
    for bad in (math.nan, math.inf, -math.inf):
        logits = np.array([bad, bad, bad])
        chosen = choose(logits, Sampling(temperature=temperature, logprobs=1), random.Random(1))
        assert chosen.id in {0, 1, 2}
    mixed = np.array([math.nan, 1.0, -math.inf])
    assert choose(mixed, Sampling(temperature=temperature), random.Random(1)).id == 1
