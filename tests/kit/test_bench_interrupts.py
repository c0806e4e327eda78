"""Ctrl-C at a measurement's begin, when there is little or nothing to keep."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from aiohttp import web
from click.testing import CliRunner

from pd_testkit.bench import results
from pd_testkit.bench.kv.bandwidth_command import bandwidth
from pd_testkit.bench.load.command import bench
from pd_testkit.bench.sweep.loads_command import bench as sweep_bench
from pd_testkit.bench.turns.compare_command import compare
from pd_testkit.bench.turns.multiturn_command import multiturn
from pd_testkit.targets.loop_thread import LoopThread
from tests.kit.toy_deployment import served

PATIENCE_S = 60.0
"""Reached only on failure."""


@contextmanager
def interrupting(path: str) -> Iterator[str]:
    """The URL of a server that sends its client Ctrl-C when it is asked for that, once."""
    left = [path]

    async def answer(http: web.Request) -> web.Response:
        if http.path in left:
            left.clear()
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, signal.SIGINT)
        if http.path == "/v1/models":
            return web.json_response({"data": [{"id": "tiny"}]})
        return web.json_response({"count": 1})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    loop = LoopThread("interrupting", PATIENCE_S)
    running = served(app)
    try:
        yield loop.run(running.__aenter__())[0]
        loop.run(running.__aexit__(None, None, None))
    finally:
        loop.close()


@pytest.mark.parametrize("command", [bench, bandwidth, multiturn, compare], ids=lambda c: c.name)
def test_an_interrupt_before_anything_is_measured_is_one(
    command: click.Command, tmp_path: Path
) -> None:
    """And not an exit status that says what was measured."""
    file = tmp_path / "r.jsonl"
    with interrupting("/v1/models") as url:
        ended = CliRunner().invoke(command, ["--endpoint", url, "--output", str(file)])
    assert (ended.exit_code, ended.output) == (130, "")
    assert not file.exists()


def test_an_interrupt_before_a_sweep_is_one(tmp_path: Path) -> None:
    grid = tmp_path / "grid.toml"
    grid.write_text("[[case]]\nrate = 1\n")
    with interrupting("/v1/models") as url:
        words = [str(grid), "--endpoint", url, "--folder", str(tmp_path / "out")]
        ended = CliRunner().invoke(sweep_bench, words)
    assert (ended.exit_code, ended.output) == (130, "")


@pytest.mark.parametrize("command", [bandwidth, multiturn], ids=lambda c: c.name)
def test_an_interrupt_while_words_are_counted_ends_the_file(
    command: click.Command, tmp_path: Path
) -> None:
    file = tmp_path / "r.jsonl"
    with interrupting("/tokenize") as url:
        words = ["--endpoint", url, "--output", str(file), "--kv-bytes-per-token", "10"]
        ended = CliRunner().invoke(command, words)
    assert ended.exit_code == 130, ended.output
    result = results.read(file)
    assert result.end is not None
    assert result.end.interrupted
    assert not result.requests
    assert not any("tokens" in warning for warning in result.end.warnings)
