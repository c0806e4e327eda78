"""``pd-testkit accuracy`` as a command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pd_testkit.bench.accuracy.command import accuracy
from pd_testkit.targets.loop_thread import LoopThread
from tests.kit.toy_deployment import Toy, served

pytestmark = pytest.mark.xdist_group("test_accuracy_command")  # they share processes

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def urls() -> Iterator[list[str]]:
    """Of a router, its P, its D and the oracle; and of a router that tears characters."""
    loop = LoopThread("toys", PATIENCE_S)
    toy, oracle, torn = Toy(), Toy(), Toy("torn-characters")
    apps = (toy.router(), toy.engine("prefill"), toy.engine("decode"))
    running = served(*apps, oracle.router(), torn.router())
    try:
        yield loop.run(running.__aenter__())
        loop.run(running.__aexit__(None, None, None))
    finally:
        loop.close()


def told(*arguments: str, **variables: str) -> Result:
    return CliRunner().invoke(accuracy, arguments, env={"COLUMNS": "200", **variables})


def environment(urls: list[str]) -> dict[str, str]:
    """As ``pd-testkit up --then`` sets it."""
    router, prefill, decode, *_ = urls
    return {
        "PD_ENDPOINT": router,
        "PD_PREFILL_ENDPOINTS": prefill,
        "PD_DECODE_ENDPOINTS": decode,
        "PD_MODEL": "toy",
        "OPENAI_API_KEY": "sk-noop",
    }


def test_it_takes_the_stack_from_the_environment(urls: list[str], tmp_path: Path) -> None:
    file = tmp_path / "seen.json"
    arguments = ("--oracle", urls[3], "--seed", "1", "--json", str(file))
    result = told(*arguments, **environment(urls))
    assert result.exit_code == 0, result.output
    *_, last = result.output.splitlines()
    assert last == "accurate: 22 kept; seed 1 (again: --seed 1)"
    document = json.loads(file.read_text())
    assert (document["succeeded"], document["seed"]) == (True, 1)
    assert document["endpoint"] == urls[0]
    assert {check["outcome"] for check in document["checks"]} == {"kept"}


def test_without_anything_to_compare_with_it_fails(urls: list[str]) -> None:
    result = told("--check", "health", "--seed", "1", **environment(urls))
    assert result.exit_code == 1
    assert "--oracle URL, --oracle prefill, or --dataset FILE" in result.output
    assert result.output.splitlines()[-1].startswith("NOT ACCURATE: 1 kept, 1 failed")


def test_prefill_by_itself_can_be_the_oracle(urls: list[str]) -> None:
    arguments = ("--oracle", "prefill", "--check", "tokens", "--seed", "1", "--endpoint", urls[0])
    kept = told(*arguments, "--prefill-endpoint", urls[3])
    assert kept.output.splitlines()[-1].startswith("accurate: 1 kept"), kept.output
    silent = told(*arguments, "--prefill-endpoint", urls[1])  # it has no completions
    assert silent.exit_code == 1


def test_prefill_cannot_be_the_oracle_where_nobody_says_where_it_is(urls: list[str]) -> None:
    result = told("--endpoint", urls[0], "--oracle", "prefill")
    assert result.exit_code == 2
    assert result.stderr == "--oracle prefill: say where P is by --prefill-endpoint URL\n"


def test_a_model_without_a_stated_expectation_fails(urls: list[str], tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text('{"question": "q", "answer": "#### 1"}\n' * 7)
    arguments = ("--dataset", str(file), "--check", "questions", "--seed", "1")
    stated = told(*arguments, "--expect", "0.02", **environment(urls))
    assert stated.exit_code == 0, stated.output
    unstated = told(*arguments, **environment(urls))
    assert unstated.exit_code == 1
    assert "--expect SHARE" in unstated.output


def test_a_failure_says_what_was_asked_expected_and_got(urls: list[str]) -> None:
    arguments = ("--endpoint", urls[4], "--oracle", urls[3], "--check", "unicode", "--seed", "4")
    result = told(*arguments)
    assert result.exit_code == 1
    lines = [line.split(None, 1) for line in result.output.splitlines()]
    said = {line[0]: line[1] for line in lines if len(line) == 2}
    assert said["asked:"].startswith('/v1/completions {"prompt": "')
    assert "ö" in said["expected:"]
    assert "\ufffd" in said["got:"]
    assert said["again:"].startswith(f"curl -sS {urls[4]}/v1/completions ")


def test_an_endpoint_that_is_not_there_is_told_in_one_line() -> None:
    result = told("--endpoint", "http://127.0.0.1:9", "--model", "m", "--oracle", "http://[::1]:9")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("GET /v1/models: expected an answer; got Client")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        ((), "--endpoint"),
        (("--endpoint", "http://h", "--self-test"), "PD_ENGINE_ADMIN_KEY"),
        (("--endpoint", "http://h", "--expect", "41"), "--expect"),
        (("--endpoint", "http://h", "--dataset", "/no/file"), "/no/file"),
    ],
)
def test_wrong_options_are_told_in_one_line(arguments: tuple[str, ...], wrong: str) -> None:
    result = told(*arguments)
    assert result.exit_code == 2
    assert wrong in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_dataset_of_nothing_is_refused(urls: list[str], tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.touch()
    result = told("--dataset", str(file), **environment(urls))
    assert result.exit_code == 2
    assert result.stderr == f"{file}: 0 questions; the first 5 are the examples\n"
