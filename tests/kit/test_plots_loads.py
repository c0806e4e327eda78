"""What files say of loads, what sets loads apart, and what changed between two sides."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from pd_testkit.bench.results import NoResult
from pd_testkit.plots.comparison import Noise, noise, pairs
from pd_testkit.plots.loads import Load, gather, series
from pd_testkit.plots.told import shared
from tests.kit import measured as made

CSV = (
    "p50_ttft,p95_ttft,min_ttft,max_ttft,p50_tps,p95_tps,mean_tps,"
    "total_tokens,wall_time_sec,aggregate_throughput\n"
    "0.656,0.796,0.077,0.800,67.6,73.3,65.2,8219,8.53,964.1\n"
)
NAME = "run_model_Qwen_Qwen2.5-7B-Instruct_conc4_pt64_mt128"


def loaded(command="bench", **traits):
    return Load("x", command, traits, {"requests": 1})


def test_a_result_tells_its_measures(tmp_path):
    run = made.run_of(concurrency=2, prompt_tokens=64)
    requests = [
        made.answered(0, ttft=0.1, gaps=(0.02, 0.04)),
        made.answered(1, due=1.0, ttft=0.3, gaps=(0.03,)),
        made.answered(2, due=1.5, ttft=0.5, gaps=(), error="cut"),
        made.answered(3, due=0.0, ttft=9.0, warm_up=True),
    ]
    (load,) = gather([made.written(tmp_path / "a.jsonl", run, requests)]).loads
    measures = ("mean_ttft", "max_itl", "p50_itl", "errors", "error_rate", "completed", "goodput")
    assert [load.measure(name) for name in measures] == pytest.approx(
        [0.2, 0.04, 0.03, 1.0, 1 / 3, 2.0, None]
    )
    assert load.measure("throughput") == pytest.approx(5 / 2.0)  # tokens; from 0 to 1.5 + 0.5
    assert load.samples("itl") == pytest.approx([0.02, 0.03, 0.04])


def test_goodput_is_what_the_run_said(tmp_path):
    path = made.written(tmp_path / "a.jsonl", made.run_of(), summary={"goodput_per_s": 3.5})
    assert gather([path]).loads[0].measure("goodput") == 3.5


def test_a_csv_of_the_testbed_is_a_load(tmp_path):
    path = tmp_path / f"{NAME}.csv"
    path.write_text(CSV)
    (load,) = gather([path]).loads
    assert load.traits["model"] == "Qwen_Qwen2.5-7B-Instruct"
    traits = ("concurrency", "prompt_tokens", "max_tokens")
    assert [load.traits[name] for name in traits] == [4, 64, 128]
    measures = ("p50_ttft", "max_ttft", "mean_tps", "throughput", "output_tokens", "p50_e2e")
    assert [load.measure(name) for name in measures] == [0.656, 0.8, 65.2, 964.1, 8219, None]


def test_a_csv_beside_its_result_file_is_not_counted_twice(tmp_path):
    made.load(tmp_path / f"{NAME}.jsonl", concurrency=4)
    (tmp_path / f"{NAME}.csv").write_text(CSV)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    assert [load.command for load in gather([tmp_path]).loads] == ["bench"]


def test_a_csv_that_is_no_utf8_is_somebody_elses(tmp_path):
    made.load(tmp_path / "a.jsonl", concurrency=4)
    (tmp_path / "other.csv").write_bytes("größe,zahl\n1,2\n".encode("latin-1"))
    assert [load.command for load in gather([tmp_path]).loads] == ["bench"]


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.csv", "a,b\n1,2\n", "no CSV of the testbed: no column aggregate_throughput"),
        (f"{NAME}.csv", CSV.replace("964.1", "many"), "line 2: could not convert"),
        ("a.jsonl", "no json\n", "no result of pd-testkit"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path, name, text, why):
    (tmp_path / name).write_text(text)
    with pytest.raises(NoResult, match=why):
        gather([tmp_path / name])


def test_a_run_that_compares_modes_is_a_load_of_each(tmp_path):
    loads = gather([made.comparison(tmp_path / "c.jsonl")]).loads
    assert [(load.traits["mode"], load.measure("requests")) for load in loads] == [
        ("pd", 5),
        ("ppd", 5),
    ]


def test_modes_that_take_turns_have_latencies_and_no_throughput(tmp_path):
    loads = gather([made.comparison(tmp_path / "c.jsonl")]).loads
    measures = ("throughput", "total_throughput", "requests_per_s", "seconds")
    assert [load.measure(name) for load in loads for name in measures] == [None] * 8
    assert [load.measure("mean_ttft") for load in loads] == pytest.approx([0.1, 0.1])


def test_runs_that_did_not_end_say_so(tmp_path):
    made.load(tmp_path / "a.jsonl", concurrency=1, requests=2, ends=False)
    made.load(tmp_path / "b.jsonl", concurrency=1, requests=2, interrupted=True)
    made.load(tmp_path / "c.jsonl", concurrency=1, requests=2)
    states = [load.state for load in gather([tmp_path]).loads]
    assert states == ["killed", "interrupted", ""]


def test_series_are_named_by_what_sets_them_apart():
    loads = [
        loaded(mode=mode, model="tiny", concurrency=concurrency)
        for concurrency in (16, 4)
        for mode in ("pd", "ppd")
    ]
    assert list(series(loads, "concurrency")) == ["pd", "ppd"]
    assert list(series(loads)) == [
        "pd, concurrency 4",
        "pd, concurrency 16",
        "ppd, concurrency 4",
        "ppd, concurrency 16",
    ]
    assert list(series(loads[:1])) == [""]


OPEN = {"rate": 4.0, "concurrency": None}
PREFIX = {"prefix_tokens": 16, "prefix_groups": 4}


@pytest.mark.parametrize(
    ("one", "other", "names"),
    [
        ({"chat": False}, {"chat": True}, ["others", "chat"]),
        ({"exact": True}, {"exact": False}, ["others", "as the model ends"]),
        (
            {"prompt_lengths": "64"},
            {"prompt_lengths": "32-96"},
            ["others", "prompts of 32-96 tokens"],
        ),
        (
            {"answer_lengths": "1-9"},
            {"answer_lengths": "4-6"},
            ["answers of 1-9 tokens", "answers of 4-6 tokens"],
        ),
        (PREFIX, PREFIX | {"prefix_groups": 1}, ["1 prefix groups", "4 prefix groups"]),
        ({}, PREFIX, ["others", "16 prefix tokens, 4 prefix groups"]),
        (OPEN | {"burst": 2}, OPEN | {"burst": 8}, ["bursts of 2", "bursts of 8"]),
        (
            OPEN | {"ramp_from": 0.0, "ramp_s": 30.0},
            OPEN | {"ramp_from": 1.0, "ramp_s": 60.0},
            ["from 0 requests/s, within 30 s", "from 1 requests/s, within 60 s"],
        ),
        ({"file": "a.jsonl"}, {"file": "b.jsonl"}, ["a.jsonl", "b.jsonl"]),
    ],
)
def test_runs_of_other_loads_are_no_repetitions(tmp_path, one, other, names):
    for name, told in (("a", one), ("b", other), ("c", other)):
        run = made.run_of(**{"concurrency": 2, "prompt_tokens": 64, "max_tokens": 5, **told})
        made.written(tmp_path / f"{name}.jsonl", run, [made.answered(0)])
    loads = gather([tmp_path]).loads
    assert sorted(series(loads)) == sorted(names)
    assert sorted(map(len, series(loads).values())) == [1, 2]
    assert [(len(pair.now), len(pair.then)) for pair in pairs(loads, loads[1:])] == [(1, 0), (2, 2)]
    assert list(series(loads[1:])) == [""], "what all share is in no name"


def test_what_all_loads_share_is_said_of_all(tmp_path):
    run = made.run_of(concurrency=2, prompt_tokens=64, chat=True, exact=True, **PREFIX)
    load = gather([made.written(tmp_path / "a.jsonl", run, [made.answered(0)])]).loads[0]
    assert shared([load, replace(load, traits=load.traits | {"prefix_groups": 1})]) == (
        "tiny, concurrency 2, 64 prompt tokens, chat, 16 prefix tokens, abc123def456"
    )


# By hand, for 0.10, 0.11, 0.12 against 0.20, 0.21, 0.22: 0.1 apart; both have squares of 2e-4, so
# the pooled variance is 1e-4, the difference's error 0.01 * sqrt(2/3) = 0.00816, and t is 12.2,
# beyond 2.776 of 4 degrees of freedom.
@pytest.mark.parametrize(
    ("now", "then", "what"),
    [
        ([0.10, 0.11, 0.12], [0.20, 0.21, 0.22], Noise.BEYOND),
        ([0.10, 0.11, 0.12], [0.12, 0.13, 0.14], Noise.WITHIN),  # t 2.45 of 4: 2.776
        ([0.10, 0.12], [0.14, 0.16], Noise.WITHIN),  # t 2.83 of 2: 4.303
        ([0.2], [0.10, 0.11, 0.12], Noise.BEYOND),  # t 7.79 of 2
        ([0.2], [0.10, 0.12], Noise.WITHIN),  # t 5.2 of 1: 12.706
        ([0.1], [0.2], Noise.UNKNOWN),
        ([0.1, 0.1], [0.1, 0.1], Noise.WITHIN),
    ],
)
def test_a_difference_is_beyond_noise_by_students_t(now, then, what):
    assert noise(now, then) is what


def test_noise_is_taken_for_a_difference_once_in_twenty_times():
    chance = random.Random(5)

    def three():
        return [chance.gauss(1, 0.1) for _ in range(3)]

    wrong = sum(noise(three(), three()) is Noise.BEYOND for _ in range(2000))
    assert 70 <= wrong <= 130  # 100 +- 3 standard deviations


def test_sides_are_paired_by_configuration():
    now = [loaded(mode=mode, concurrency=c, commit="b") for mode in ("pd", "ppd") for c in (1, 2)]
    then = [loaded(mode="pd", concurrency=c, commit="a") for c in (2, 2, 1)]
    assert [(pair.name, len(pair.now), len(pair.then)) for pair in pairs(now, then)] == [
        ("pd, concurrency 1", 1, 1),
        ("pd, concurrency 2", 1, 2),
        ("ppd, concurrency 1", 1, 0),
        ("ppd, concurrency 2", 1, 0),
    ]
    (alone,) = pairs(now[:1], [loaded(mode="ppd")])
    assert len(alone.then) == 1


def test_differences_are_in_percent_of_the_baseline():
    def of(p50, rate):
        told = {"ttft": {"p50": p50}, "output_tokens_per_s": rate, "requests": 1, "errors": {}}
        return replace(loaded(), told=told)

    (pair,) = pairs([of(0.3, 80.0), of(0.3, 80.0)], [of(0.2, 100.0), of(0.2, 100.0)])
    found = {each.measure: (each.percent, each.verdict) for each in pair.differences()}
    assert found == {
        "throughput": (pytest.approx(-20.0), "worse"),
        "error_rate": (None, ""),
        "p50_ttft": (pytest.approx(50.0), "worse"),
    }


def test_a_table_of_all_runs_tells_what_each_is_and_counts_none_twice(tmp_path):
    head, row = CSV.splitlines()
    (tmp_path / f"{NAME}_mode-pd.csv").write_text(CSV)
    other = row.replace("964.1", "800.0")
    rows = [f"a,tiny,pd,4,,{row}", f"b,tiny,ppd,8,True,{other}"]
    text = "\n".join([f"run,model,mode,concurrency,chat,{head}", *rows])
    (tmp_path / "summary.csv").write_text(f"{text}\n")
    loads = gather([tmp_path]).loads
    assert [load.measure("throughput") for load in loads] == [964.1, 800.0]
    assert loads[0].traits["label"] == "mode-pd"
    assert (loads[1].name, loads[1].traits) == (
        "b",
        {"model": "tiny", "mode": "ppd", "concurrency": 8, "chat": True},
    )
