"""Logs of the testbed's printed form, and results, as its CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pd_testkit.bench import results
from pd_testkit.bench.results import End, Request
from pd_testkit.bench.sweep import collect as sums
from pd_testkit.bench.sweep.collect import COLUMNS, Row, as_csv, csv_names, read_log
from pd_testkit.bench.sweep.collect_command import collect

SAMPLE = """\
== TTFT (stream=true) N=100 ==
  p50=0.656s  p95=0.796s  min=0.077s  max=0.800s

== Throughput (stream=false) N=100, errors=0 ==
  per-request tokens/sec: p50=67.6  p95=73.3  mean=65.2
  total generated tokens = 8219
  wall time (whole run)   = 8.53s
  aggregate throughput    = 964.1 tokens/sec\x20\x20
"""
"""The testbed's own."""

HEADING = (
    "p50_ttft,p95_ttft,min_ttft,max_ttft,p50_tps,p95_tps,mean_tps,total_tokens,wall_time_sec,"
    "aggregate_throughput"
)
NAME = "run_model_Qwen_Qwen2.5-7B-Instruct_conc4_pt64_mt128"


def test_the_testbeds_sample_is_its_csv() -> None:
    rows = read_log(SAMPLE)
    assert as_csv(rows, about=False).splitlines() == [
        HEADING,
        "0.656,0.796,0.077,0.8,67.6,73.3,65.2,8219,8.53,964.1",
    ]
    assert rows[0].errors == 0
    assert rows[0].missing == ()


def test_several_blocks_are_several_runs() -> None:
    other = SAMPLE.replace("p50=0.656s", "p50=0.5s").replace("errors=0", "errors=3")
    noise = "Starting...\nWARNING: p50=9s\n"
    first, second = read_log(f"{noise}{SAMPLE}{noise}{other}", "log")
    assert (first.values["p50_ttft"], second.values["p50_ttft"]) == (0.656, 0.5)
    assert (first.errors, second.errors) == (0, 3)
    assert (first.about["run"], second.about["run"]) == ("log#1", "log#2")


TTFT, _, THROUGHPUT = SAMPLE.partition("\n\n")


@pytest.mark.parametrize(
    ("text", "there"),
    [
        (TTFT, COLUMNS[:4]),
        (THROUGHPUT, COLUMNS[4:]),
        (SAMPLE.replace("p95=0.796s  ", ""), tuple(n for n in COLUMNS if n != "p95_ttft")),
        (SAMPLE.replace("8219", "nan"), tuple(n for n in COLUMNS if n != "total_tokens")),
    ],
)
def test_missing_parts_are_left_empty(text: str, there: tuple[str, ...]) -> None:
    (row,) = read_log(text)
    assert tuple(row.values) == there
    assert row.missing == tuple(name for name in COLUMNS if name not in there)
    (told,) = csv.DictReader(io.StringIO(as_csv([row], about=False)))
    assert {name for name in told if told[name] == ""} == set(row.missing)


def test_blocks_that_lack_their_ends_are_not_mixed() -> None:
    """The first run died after its TTFT; the third one before."""
    first, second, third = read_log(f"{TTFT}\n{SAMPLE}{THROUGHPUT}")
    assert "wall_time_sec" not in first.values
    assert second.missing == ()
    assert "p50_ttft" not in third.values


def test_the_logs_name_tells_model_and_load() -> None:
    (row,) = read_log(SAMPLE, NAME)
    assert row.about == {
        "run": NAME,
        "model": "Qwen_Qwen2.5-7B-Instruct",
        "concurrency": "4",
        "prompt_tokens": "64",
        "max_tokens": "128",
    }
    assert csv_names([row]) == [f"{NAME}.csv"]


def told(model: str, **tags: str) -> Row:
    load = {"concurrency": "4", "prompt_tokens": "64", "max_tokens": "128"}
    return Row(about={"model": model, **load, **tags})


def test_names_are_the_testbeds_and_tell_runs_apart() -> None:
    assert csv_names([told("Qwen/Qwen2.5-7B-Instruct", mode="pd")]) == [f"{NAME}.csv"]
    assert csv_names([told("m", mode="pd"), told("m", mode="ppd"), told("m", mode="pd")]) == [
        "run_model_m_conc4_pt64_mt128_mode-pd.csv",
        "run_model_m_conc4_pt64_mt128_mode-ppd.csv",
        "run_model_m_conc4_pt64_mt128_mode-pd_2.csv",
    ]


def test_other_loads_have_other_names_and_columns(tmp_path: Path) -> None:
    plain = {"chat": False, "exact": True, "prompt_lengths": "10", "answer_lengths": "4"}
    rows = [
        sums.row_of(results.read(write(tmp_path / f"{number}.jsonl", ended=True, **plain | told)))
        for number, told in enumerate(
            (
                {},
                {"chat": True},
                {"prefix_tokens": 8, "prefix_groups": 2},
                {"answer_lengths": "2-6", "stream": False},
            )
        )
    ]
    assert csv_names(rows) == [
        "run_model_a_b_conc2_pt10_mt4.csv",
        "run_model_a_b_conc2_pt10_mt4_chat-True.csv",
        "run_model_a_b_conc2_pt10_mt4_prefix_tokens-8_prefix_groups-2.csv",
        "run_model_a_b_conc2_pt10_mt4_stream-False_answer_lengths-2-6.csv",
    ]
    table = list(csv.DictReader(io.StringIO(as_csv(rows, about=True))))
    assert [row["chat"] for row in table] == ["", "True", "", ""]
    assert "burst" not in table[0]


# Results


def write(
    path: Path, *, ended: bool, command: str = "bench", prompt_tokens: int = 10, **told: object
) -> Path:
    """Two answers of 4 tokens: TTFT 1 and 3 s, in 2 and 4 s, so 2 and 1 token/s; and a failure."""
    configuration = {
        "concurrency": 2,
        "prompt_tokens": prompt_tokens,
        "max_tokens": 4,
        "tags": {"mode": "pd", "cell": "x"},
        **told,
    }
    run = results.begin(command, configuration, {"served": {"model": "a/b"}}, seed=1)
    with results.Writer(path, run) as writer:
        for index, (first, last) in enumerate(((1.0, 2.0), (3.0, 4.0))):
            pieces = (first, last)
            writer.write(
                Request(index=index, due=0.0, sent=0.0, ended=last, pieces=pieces, output_tokens=4)
            )
        writer.write(Request(index=2, due=0.0, sent=0.0, ended=1.0, error="refused"))
        if ended:
            summary = {
                "seconds": 4.0,
                "output_tokens": 8,
                "output_tokens_per_s": 2.0,
                "errors": {"refused": 1},
                "ttft": {"p50": 2.0, "p95": 2.9, "min": 1.0, "max": 3.0, "mean": 2.0},
                "tps": {"p50": 1.5, "p95": 1.95, "mean": 1.5},
            }
            writer.write(End(ended=4.0, summary=summary))
    return path


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "killed"])
def test_a_result_is_a_row_also_where_its_run_was_killed(tmp_path: Path, ended: bool) -> None:
    row = sums.row_of(results.read(write(tmp_path / "r.jsonl", ended=ended)))
    assert row.values == pytest.approx(
        {
            "p50_ttft": 2.0,
            "p95_ttft": 2.9,  # 1 + 0.95 x 2
            "min_ttft": 1.0,
            "max_ttft": 3.0,
            "p50_tps": 1.5,
            "p95_tps": 1.95,
            "mean_tps": 1.5,
            "total_tokens": 8,
            "wall_time_sec": 4.0,
            "aggregate_throughput": 2.0,
        }
    )
    assert row.errors == 1
    assert row.about == {
        "run": "r",
        "model": "a/b",
        "concurrency": "2",
        "prompt_tokens": "10",
        "max_tokens": "4",
        "mode": "pd",
    }


# The command


def ran(*arguments: object) -> Result:
    return CliRunner().invoke(collect, [str(each) for each in arguments])


def test_the_testbeds_flags_make_its_csv(tmp_path: Path) -> None:
    log, output = tmp_path / f"{NAME}.log", tmp_path / "new" / "out.csv"
    log.write_text(SAMPLE)
    result = ran("--input", log, "--output", output)
    assert result.exit_code == 0, result.output
    assert (
        output.read_text() == f"{HEADING}\n0.656,0.796,0.077,0.8,67.6,73.3,65.2,8219,8.53,964.1\n"
    )


def test_many_logs_have_a_csv_each_or_one_for_all(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.log").write_text(SAMPLE)
    write(tmp_path / "ours.jsonl", ended=True)
    assert ran(tmp_path).exit_code == 0
    assert (tmp_path / f"{NAME}.csv").read_text().splitlines()[0] == HEADING
    assert (tmp_path / "ours.csv").read_text().splitlines()[1].endswith(",8,4,2")
    output = tmp_path / "all.csv"
    assert ran(tmp_path / f"{NAME}.log", tmp_path / "ours.jsonl", "--output", output).exit_code == 0
    first, second = csv.DictReader(io.StringIO(output.read_text()))
    assert (first["model"], first["concurrency"], first["mode"]) == (
        *("Qwen_Qwen2.5-7B-Instruct", "4", ""),
    )
    assert (second["model"], second["mode"], second["errors"]) == ("a/b", "pd", "1")


def test_what_a_run_printed_beside_its_result_is_not_taken_for_another(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", ended=True)
    (tmp_path / "a.log").write_text("6 of 6 requests answered\n")
    result = ran(tmp_path)
    assert result.exit_code == 0
    assert "a.log" not in result.stderr


def test_what_is_wrong_with_a_log_is_told(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text(TTFT + "\n== Throughput (stream=false) N=100, errors=7 ==\n")
    result = ran(log)
    assert result.exit_code == 0
    assert "x: 7 requests failed" in result.stderr
    assert "no p50_tps, p95_tps, mean_tps, total_tokens" in result.stderr


def test_files_without_a_run_do_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "good.log").write_text(SAMPLE)
    (tmp_path / "bad.log").write_text("hello\n")
    (tmp_path / "other.jsonl").write_text("{}\n")
    write(tmp_path / "turns.jsonl", ended=True, command="multiturn")
    result = ran(tmp_path)
    assert result.exit_code == 1
    assert (tmp_path / "good.csv").exists()
    assert "bad.log: no line of it" in result.stderr
    assert "other.jsonl: no result" in result.stderr
    assert "is of pd-testkit multiturn" in result.stderr


@pytest.mark.parametrize("text", ["", "hello\n"])
def test_nothing_to_collect_is_refused(tmp_path: Path, text: str) -> None:
    log = tmp_path / "x.log"
    log.write_text(text)
    assert ran(log).exit_code == 2
    assert ran().exit_code == 2
    assert not (tmp_path / "x.csv").exists()
