"""What is read of answers, counters and questions, and how strictly."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pd_testkit.bench import answers
from pd_testkit.bench.accuracy import expectations
from pd_testkit.bench.accuracy.expectations import Band
from pd_testkit.bench.accuracy.tokens import difference
from pd_testkit.bench.answers import CHAT, COMPLETIONS, Choice, Malformed
from pd_testkit.bench.kv import movement as kv_movement
from pd_testkit.bench.kv.movement import Moved, out_of_proportion, unaccounted
from pd_testkit.bench.prompts import Prompts

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
HEAD: dict[str, Any] = {"id": "1", "created": 1, "model": "m", "usage": USAGE}
WHOLE = {
    **HEAD,
    "object": "text_completion",
    "choices": [{"index": 0, "text": "ab", "finish_reason": "length"}],
}


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def stream(*chunks: Any, end: bytes = b"data: [DONE]\n\n") -> bytes:
    return b"".join(b"data: " + encoded(chunk) + b"\n\n" for chunk in chunks) + end


def piece(text: str, reason: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "text": text, "finish_reason": reason, **more}
    return {"id": "1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}


# Answers


def test_a_whole_answer_is_read() -> None:
    answer = answers.whole(COMPLETIONS, encoded(WHOLE))
    assert [(c.text, c.finish_reason) for c in answer.choices] == [("ab", "length")]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 3


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("object", "chat.completion", "object is 'chat.completion'"),
        ("id", "", "id is empty"),
        ("created", "now", "Expected `int`"),
        ("usage", None, "no usage"),
        ("usage", {"prompt_tokens": 3}, "missing required field"),
        ("choices", [], "numbered []"),
        ("choices", [{"index": 1, "text": "", "finish_reason": "stop"}], "numbered [1]"),
        ("choices", [{"index": 0, "text": None, "finish_reason": "stop"}], "Expected `str`"),
        ("choices", [{"index": 0, "text": "a", "finish_reason": "abort"}], "'abort'"),
        ("choices", [{"index": 0, "text": "a"}], "without a finish reason"),
    ],
)
def test_what_is_wrong_with_an_answer_is_told(field: str, value: Any, told: str) -> None:
    with pytest.raises(Malformed) as refused:
        answers.whole(COMPLETIONS, encoded({**WHOLE, field: value}))
    assert told in str(refused.value)


def test_an_error_in_place_of_an_answer_is_told_by_its_message() -> None:
    with pytest.raises(Malformed, match="no room"):
        answers.whole(CHAT, encoded({"error": {"message": "no room", "code": 500}}))


def test_a_stream_adds_up() -> None:
    last = {**piece("", "stop"), "choices": [], "usage": USAGE}
    body = stream(piece("a", token_ids=[5]), piece("b", "stop", token_ids=[6]), last)
    answer = answers.streamed(COMPLETIONS, b": a comment\n\n" + body.replace(b"\n", b"\r\n"))
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason, choice.ids) == ("ab", "stop", (5, 6))
    assert answer.pieces == 2
    assert answer.usage == answers.Usage(3, 2, 5)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (stream(piece("a", "stop"), end=b""), "not [DONE]"),
        (stream(piece("a", "stop"))[:-1], "is cut"),
        (stream(piece("a")), "without a finish reason"),
        (stream(piece("a", "stop"), piece("b")), "goes on after its finish reason"),
        (stream(piece("a", "stop"), piece("", "stop")), "second finish reason"),
        (stream(piece("a", "stop"), {**piece(""), "id": "2"}), "2 ids"),
        (stream({"error": {"message": "P is gone"}}), "P is gone"),
        (stream(), "no chunk"),
        (b"event: x\n\n" + stream(piece("a", "stop")), "is no data"),
    ],
)
def test_what_is_wrong_with_a_stream_is_told(body: bytes, told: str) -> None:
    with pytest.raises(Malformed) as refused:
        answers.streamed(COMPLETIONS, body)
    assert told in str(refused.value)


# Differences


def test_tokens_are_compared_by_id_first() -> None:
    got = Choice("\ufffd", "length", ids=(1, 200), tokens=("\ufffd",))
    right = Choice("\ufffd", "length", ids=(1, 201), tokens=("\ufffd",))
    assert difference(got, right) == ("as the oracle, at token 2: 201", "200")


def test_an_answer_that_is_too_short_differs() -> None:
    found = difference(Choice("a", "length", ids=(1,)), Choice("ab", "length", ids=(1, 2)))
    assert found == ("as the oracle, at token 2: 2", "nothing after 1 tokens")


def test_log_probabilities_differ_where_they_are_exact() -> None:
    got, right = (Choice("a", "stop", ids=(1,), logprobs=(value,)) for value in (-0.5, -0.51))
    assert difference(got, right) is None
    assert difference(got, right, exact=True) == (
        "a log probability of -0.510000 for token 1",
        "-0.500000",
    )


def test_another_finish_reason_differs() -> None:
    assert difference(Choice("a", "stop"), Choice("a", "length")) == (
        "the finish reason length",
        "stop",
    )


# Counters: ten requests of 100 tokens, in blocks of 16; D had 200 of the tokens.

TOLERANCE = 10 * 16


@pytest.mark.parametrize(
    ("external", "transferred", "told"),
    [
        (800, 8000, ""),
        (800 - TOLERANCE, 8000, ""),
        (800 - TOLERANCE - 1, 8000, "D computed the rest again"),
        (0, 0, "D computed the rest again"),
        (800 + TOLERANCE + 1, 8000, "more than was missing"),
        (800, 0, "no byte did"),
        (800, None, ""),
        (None, 8000, ""),
        (None, 0, "no byte did"),
        (None, None, "nothing shows"),
    ],
)
def test_what_moved_must_account_for_what_was_missing(
    external: int | None, transferred: int | None, told: str
) -> None:
    wrong = unaccounted(Moved(1000, 200, external, transferred), TOLERANCE)
    assert told in wrong
    assert bool(told) == bool(wrong)


def test_too_little_missing_tells_nothing() -> None:
    assert "another --seed" in unaccounted(Moved(1000, 1000, 0, 0), TOLERANCE)


def test_bytes_are_in_proportion_to_the_tokens() -> None:
    first, second = Moved(400, 0, None, 4000), Moved(1200, 0, None, 12000)
    assert out_of_proportion(first, second, 64) == ""
    part = Moved(1200, 0, None, 6000)
    assert out_of_proportion(first, part, 64) == (
        "4000 bytes for 400 missing tokens, and 6000 for 1200"
    )


EXPOSITION = """\
# TYPE vllm:prefix_cache_hits_total counter
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 32.0
vllm:prefix_cache_hits_total{engine="1",model_name="m"} 16.0
# TYPE vllm:external_prefix_cache_hits_total counter
vllm:external_prefix_cache_hits_total{engine="0",model_name="m"} 480.0
# TYPE vllm:nixl_bytes_transferred histogram
vllm:nixl_bytes_transferred_bucket{le="+Inf"} 3.0
vllm:nixl_bytes_transferred_sum 4096.0
vllm:nixl_bytes_transferred_count 3.0
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="128",engine="0"} 1.0
"""


def test_the_metrics_are_read_by_vllms_names_over_all_ranks_and_engines() -> None:
    one = kv_movement.read([EXPOSITION])
    assert (one.local_hits, one.external_hits, one.transfer_bytes) == (48, 480, 4096)
    assert one.prompt_tokens is None
    assert one.block_sizes == {128}
    assert kv_movement.read([EXPOSITION, EXPOSITION]).local_hits == 96
    assert kv_movement.read([EXPOSITION, EXPOSITION]).since(one).local_hits == 48


# Questions


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("It is 3 + 4 = 7.\n#### 7", "7"),
        ("That makes $1,234.50 in all.", "1234.50"),
        ("It fell to -5 degrees", "-5"),
        ("none", None),
    ],
)
def test_the_last_number_counts(text: str, number: str | None) -> None:
    assert expectations.last_number(text) == (None if number is None else Decimal(number))


def test_the_first_five_questions_are_the_examples(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text(
        "".join(json.dumps({"question": f"q{n}", "answer": f"#### {n}"}) + "\n" for n in range(7))
    )
    pairs = expectations.prompts(expectations.questions(file))
    assert [right for _, right in pairs] == [5, 6]
    assert pairs[0][0].startswith("Question: q0\nAnswer: #### 0\n\nQuestion: q1\n")
    assert pairs[0][0].endswith("#### 4\n\nQuestion: q5\nAnswer:")


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (['{"question": "q", "answer": "#### 1"}'] * 5, "5 questions"),
        (['{"question": "q"}'], "q.jsonl:1: "),
        (['{"question": "q", "answer": "none"}'], "q.jsonl:1: the answer has no number"),
    ],
)
def test_a_file_without_questions_is_refused(tmp_path: Path, lines: list[str], told: str) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text("\n".join(lines))
    with pytest.raises(ValueError) as refused:
        expectations.questions(file)
    assert told in str(refused.value)


def test_a_band_has_two_edges() -> None:
    band = Band(0.41, 0.05)
    assert [share in band for share in (0.35, 0.36, 0.46, 0.47)] == [False, True, True, False]


# Prompts


@pytest.mark.parametrize("tokens", [1, 2, 7, 15, 16, 17, 128, 129])
@pytest.mark.parametrize("per_token", [1, 4])
def test_a_prompt_has_as_many_tokens_as_it_should(tokens: int, per_token: int) -> None:
    """By a tokenizer of bytes, and one of groups of characters."""

    async def count(text: str) -> int:
        return -(-len(text.encode()) // per_token)

    text = asyncio.run(Prompts("1/x").exactly(tokens, count))
    assert asyncio.run(count(text)) == tokens


def test_prompts_of_a_seed_are_the_same_each_time_and_differ_among_themselves() -> None:
    one, again, other = (Prompts(seed) for seed in ("1/x", "1/x", "2/x"))
    first = [one.words(9) for _ in range(50)]
    assert first == [again.words(9) for _ in range(50)]
    assert len({text[:8] for text in first}) == 50
    assert other.words(9) not in first
