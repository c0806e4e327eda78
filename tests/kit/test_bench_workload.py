"""What is asked for: by a seed, from a file, or as a trace says; and the plan that it becomes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from pd_testkit.bench.load import workload
from pd_testkit.bench.load.lengths import Fixed, Uniform
from pd_testkit.bench.load.load import Load
from pd_testkit.bench.load.workload import NoWorkload, Prefixes, Prompt
from pd_testkit.bench.texts import LETTERS, WORDS, Texts

TEXTS = Texts({word: len(word) for word in (*WORDS, *LETTERS)})
"""A token per byte."""


def synthetic(count: int, prefixes: Prefixes | None = None, seed: int = 3) -> list[Prompt]:
    drawn = workload.synthetic(TEXTS, Uniform(40, 90), Fixed(7), seed, prefixes)
    return list(itertools.islice(drawn, count))


def written(path: Path, *lines: dict[str, Any]) -> Path:
    file = path / "x.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_synthetic_prompts_are_the_seeds_and_have_their_lengths() -> None:
    prompts = synthetic(50)
    assert prompts == synthetic(50) != synthetic(50, seed=4)
    assert all(len(prompt.text) == prompt.tokens for prompt in prompts)
    assert all(40 <= (prompt.tokens or 0) <= 90 for prompt in prompts)
    assert {prompt.max_tokens for prompt in prompts} == {7}
    assert len({prompt.text[:16] for prompt in prompts}) == 50


def test_prompts_of_a_group_begin_alike_and_go_on_apart() -> None:
    prompts = synthetic(60, Prefixes(tokens=32, groups=3))
    assert len({prompt.text[:32] for prompt in prompts}) == 3
    assert len({prompt.text[32:44] for prompt in prompts}) == 60
    assert all(len(prompt.text) == prompt.tokens for prompt in prompts)


@pytest.mark.parametrize("prefixes", [None, Prefixes(tokens=32, groups=2)])
def test_two_runs_of_a_seed_have_the_same_lengths_and_find_nothing_of_each_other_cached(
    prefixes: Prefixes | None,
) -> None:
    def drawn(name: str) -> list[Prompt]:
        found = workload.synthetic(TEXTS, Uniform(40, 90), Fixed(7), 3, prefixes, name)
        return list(itertools.islice(found, 50))

    one, other = drawn("one/"), drawn("other/")
    assert [prompt.tokens for prompt in one] == [prompt.tokens for prompt in other]
    blocks = [{prompt.text[:16] for prompt in prompts} for prompts in (one, other)]
    assert not blocks[0] & blocks[1]


def test_the_testbeds_halves_share_no_prompt() -> None:
    load = Load("closed", 4, None, 20, None, Fixed(60), Fixed(7))
    (_, first), (_, second) = (
        load.plan(TEXTS, "m", 3, "run", mode=mode) for mode in ("stream", "whole")
    )
    asked = [{plan.ask.body["prompt"][:16] for plan in half} for half in (first, second)]
    assert list(map(len, asked)) == [20, 20]
    assert not asked[0] & asked[1]


def test_a_prompt_has_own_tokens_also_where_its_prefix_is_longer() -> None:
    (prompt,) = synthetic(1, Prefixes(tokens=200, groups=1))
    assert prompt.tokens == 201
    assert len(prompt.text) in (201, 202)  # no word has one letter alone


def test_a_file_of_prompts(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    file = written(tmp_path, {"prompt": "one", "max_tokens": 3}, {"messages": messages, "x": 1})
    assert workload.prompts(file, Fixed(9), 0) == [
        Prompt("one", None, 3),
        Prompt(messages, None, 9),
    ]


def test_a_trace_in_mooncakes_form_shares_blocks(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        {"timestamp": 27000, "input_length": 1200, "output_length": 5, "hash_ids": [1, 2, 3]},
        {"timestamp": 27500, "input_length": 1024, "output_length": 6, "hash_ids": [1, 2]},
        {"timestamp": 30250, "input_length": 700, "output_length": 7, "hash_ids": [1, 4]},
    )
    first, second, third = workload.trace(file, TEXTS, Fixed(1), seed=5)
    assert [prompt.at for prompt in (first, second, third)] == [0.0, 0.5, 3.25]
    assert [len(prompt.text) for prompt in (first, second, third)] == [1200, 1024, 700]
    assert [prompt.max_tokens for prompt in (first, second, third)] == [5, 6, 7]
    assert first.text[:1024] == second.text
    assert third.text[:512] == first.text[:512]
    assert third.text[512:530] != first.text[512:530]
    other = workload.trace(file, TEXTS, Fixed(1), seed=6)[0]
    assert other.text[:16] != first.text[:16]


def test_a_plain_trace(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        {"at": 1.5, "prompt_tokens": 30},
        {"at": 2.0, "prompt": "p", "max_tokens": 4},
    )
    first, second = workload.trace(file, TEXTS, Fixed(8), seed=1)
    assert (first.at, len(first.text), first.max_tokens) == (0.0, 30, 8)
    assert second == Prompt("p", None, 4, 0.5)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"timestamp": 1}, "line 1: there is neither a prompt nor its length"),
        ({"prompt": "x"}, "line 1: there is neither a timestamp nor an at"),
        ({"at": 0, "prompt": 3}, "line 1: Expected `str"),
        (
            {"timestamp": 0, "input_length": 600, "hash_ids": [1]},
            "line 1: 600 tokens in 1 blocks of 512",
        ),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, line: dict[str, Any], says: str) -> None:
    with pytest.raises(NoWorkload, match=says):
        workload.trace(written(tmp_path, line), TEXTS, Fixed(1), 0)


def test_a_trace_out_of_order_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, {"at": 2, "prompt": "a"}, {"at": 1, "prompt": "b"})
    with pytest.raises(NoWorkload, match="line 2: it is before the line above it"):
        workload.trace(file, TEXTS, Fixed(1), 0)


def test_what_is_no_file_of_prompts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoWorkload, match="it is empty"):
        workload.prompts(written(tmp_path), Fixed(1), 0)
    with pytest.raises(NoWorkload, match="line 1: there is neither a prompt nor messages"):
        workload.prompts(written(tmp_path, {"text": "x"}), Fixed(1), 0)
    with pytest.raises(NoWorkload, match="No such file"):
        workload.prompts(tmp_path / "none", Fixed(1), 0)


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "latin1.jsonl"
    file.write_bytes('{"prompt": "ok"}\n{"prompt": "Käse"}\n'.encode("latin-1"))
    with pytest.raises(NoWorkload, match=r"line 2: .*utf-8"):
        workload.prompts(file, Fixed(1), 0)


def load(**told: Any) -> Load:
    plain: dict[str, Any] = {"arrivals": "closed", "concurrency": 2, "rate": None}
    plain |= {"requests": 3, "duration_s": None}
    return Load(**{**plain, "prompt_tokens": Fixed(20), "max_tokens": Fixed(4), **told})


def planned(load: Load, seed: int = 1, **told: Any) -> Any:
    before, plans = load.plan(TEXTS, "m", seed, "run", **told)
    return before, list(plans)


def test_the_warm_up_comes_first_and_is_marked() -> None:
    before, plans = planned(load(warm_up=2), first=10, mode="x")
    assert [plan.index for plan in (*before, *plans)] == [10, 11, 12, 13, 14]
    assert [plan.warm_up for plan in (*before, *plans)] == [True, True, False, False, False]
    assert {plan.mode for plan in plans} == {"x"}
    assert plans[0].headers == {"X-Request-Id": "run-12"}
    assert plans[0].due is None
    assert plans[0].ask.body["max_tokens"] == 4
    assert len({plan.ask.body["prompt"] for plan in (*before, *plans)}) == 5


def test_a_seed_plans_the_same_again() -> None:
    poisson = load(arrivals="poisson", rate=5.0, concurrency=None, requests=20)
    assert planned(poisson) == planned(poisson)
    assert planned(poisson) != planned(poisson, seed=2)


def test_an_open_loop_is_planned_within_its_duration() -> None:
    told = {"concurrency": None, "requests": None, "duration_s": 1.0, "rate": 4.0}
    _, plans = planned(load(arrivals="constant", **told))
    assert [plan.due for plan in plans] == [0.0, 0.25, 0.5, 0.75]
    _, plans = planned(load(arrivals="burst", burst=3, **told))
    assert [plan.due for plan in plans] == [0.0, 0.0, 0.0, 0.75, 0.75, 0.75]
    _, plans = planned(load(arrivals="ramp", ramp_from=0.0, ramp_s=2.0, **told))
    assert [plan.due for plan in plans] == [0.0]  # t^2 = n: the next is due at 1 s


def test_a_trace_is_planned_as_far_as_it_is_wanted(tmp_path: Path) -> None:
    file = written(tmp_path, *({"at": at, "prompt": "p"} for at in (3, 4, 6)))
    told = {"arrivals": "trace", "concurrency": None, "replay": file}
    assert [plan.due for plan in planned(load(**told, requests=None))[1]] == [0.0, 1.0, 3.0]
    assert [plan.due for plan in planned(load(**told, requests=2))[1]] == [0.0, 1.0]


def test_a_traces_times_begin_with_what_is_measured(tmp_path: Path) -> None:
    file = written(tmp_path, *({"at": at, "prompt": "p"} for at in (3, 53, 54, 90)))
    told = {"arrivals": "trace", "concurrency": None, "replay": file, "requests": None}
    before, plans = planned(load(**told, warm_up=1, duration_s=30.0))
    assert [plan.due for plan in before] == [None]
    assert [plan.due for plan in plans] == [0.0, 1.0]


def test_a_files_prompts_are_asked_again_when_there_are_no_more(tmp_path: Path) -> None:
    file = written(tmp_path, {"prompt": "a"}, {"prompt": "b"})
    _, plans = planned(load(prompts=file))
    assert [plan.ask.body["prompt"] for plan in plans] == ["a", "b", "a"]
    _, plans = planned(load(prompts=file, chat=True, stream=False))
    assert plans[0].ask.path == "/v1/chat/completions"
    assert plans[0].ask.body["messages"] == [{"role": "user", "content": "a"}]
    assert plans[0].ask.body["stream"] is False


def test_a_load_says_what_it_is() -> None:
    told = load(prompt_tokens=Uniform(10, 30), prefixes=Prefixes(8, 2)).told()
    assert (told["arrivals"], told["concurrency"], told["rate"]) == ("closed", 2, None)
    assert (told["requests"], told["duration_s"], told["stream"]) == (3, None, True)
    assert (told["prompt_tokens"], told["prompt_lengths"], told["max_tokens"]) == (20, "10-30", 4)
    assert (told["prefix_tokens"], told["prefix_groups"]) == (8, 2)
    assert json.loads(json.dumps(told)) == told
