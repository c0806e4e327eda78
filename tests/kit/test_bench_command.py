"""``pd-testkit bench`` as a command, against servers in this process."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner, Result

from pd_testkit.bench import results
from pd_testkit.bench.load.command import bench
from pd_testkit.bench.results import Run, Writer
from pd_testkit.targets.loop_thread import LoopThread

PATIENCE_S = 60.0
QUICK = ("--prompt-tokens", "20", "--max-tokens", "3", "--seed", "5", "--model", "m")

Fails = Callable[[int], str]


class Server:
    """Answers completions and chats with as many tokens as are asked for.

    Attributes:
        asked: bodies, in the order in which they came.
        fails: for a request's number, how: ``status``, ``no-done``, or empty.
    """

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.fails: Fails = lambda _: ""
        self.usage = True

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/completions", self._answer)
        app.router.add_post("/v1/chat/completions", self._answer)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_get("/v1/models", self._models)
        return app

    async def _tokenize(self, http: web.Request) -> web.Response:
        return web.json_response({"count": len((await http.json())["prompt"])})

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "m", "object": "model"}]})

    async def _answer(self, http: web.Request) -> web.StreamResponse:
        body = await http.json()
        number = len(self.asked)
        self.asked.append(body)
        self.ids.append(http.headers["X-Request-Id"])
        failing = self.fails(number)
        if failing == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()
        if failing == "status":
            return web.json_response({"error": {"message": "no D engine"}}, status=503)
        count = body["max_tokens"]
        usage = {"prompt_tokens": 20, "completion_tokens": count, "total_tokens": 20 + count}
        told = {"usage": usage} if self.usage else {}
        if not body["stream"]:
            choice = {"index": 0, "text": "t" * count, "finish_reason": "length"}
            return web.json_response({"choices": [choice], **told})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(http)
        for left in range(count - 1, -1, -1):
            choice = {"index": 0, "text": "t", "finish_reason": None if left else "length"}
            await response.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
        await response.write(b"data: " + json.dumps({"choices": [], **told}).encode() + b"\n\n")
        if failing != "no-done":
            await response.write(b"data: [DONE]\n\n")
        return response


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    loop = LoopThread("served", PATIENCE_S)
    try:
        yield loop
    finally:
        loop.close()


@pytest.fixture
def server(loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Where PD_ENDPOINT leads."""
    server = Server()

    async def start() -> TestServer:
        running = TestServer(server.application())
        await running.start_server(shutdown_timeout=0.1)
        return running

    running = loop.run(start())
    monkeypatch.setenv("PD_ENDPOINT", str(running.make_url("")))
    yield server
    loop.run(running.close())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "x.jsonl"


def told(*arguments: str, file: Path | None = None) -> Result:
    output = () if file is None else ("--output", str(file))
    return CliRunner().invoke(bench, [*QUICK, *output, *arguments])


def test_a_closed_loop_is_measured_and_kept(server: Server, file: Path) -> None:
    arguments = ("--requests", "9", "--concurrency", "2", "--warm-up", "3", "--tag", "mode=pd")
    result = told(*arguments, "--goodput", "ttft:60000 e2el:60000", "--label", "here", file=file)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("9 of 9 requests answered in ")
    assert "180 prompt tokens, 27 output tokens" in result.stdout
    assert ": 9 within the objectives" in result.stdout
    assert result.stdout.splitlines()[-1] == f"result: {file}"
    read = results.read(file)
    assert (read.run.command, read.run.label, read.run.seed) == ("bench", "here", 5)
    assert len(read.requests) == 12
    assert len(read.measured) == 9
    told_ = read.run.configuration
    assert (told_["arrivals"], told_["concurrency"], told_["rate"]) == ("closed", 2, None)
    assert (told_["requests"], told_["prompt_tokens"], told_["max_tokens"]) == (9, 20, 3)
    assert told_["tags"] == {"mode": "pd"}
    assert read.end is not None
    summary = read.end.summary
    assert (summary["completed"], summary["output_tokens"], summary["good"]) == (9, 27, 9)
    assert summary["ttft"]["count"] == 9
    assert summary["itl"]["count"] == 18
    assert summary["objectives"] == {"ttft": 60.0, "e2e": 60.0}
    assert summary["capacity"]["cpu_share"] > 0
    assert not read.end.interrupted
    assert {len(body["prompt"]) for body in server.asked} == {20}
    assert len(set(server.ids)) == 12


def test_an_open_loop_is_measured(server: Server, file: Path) -> None:
    result = told("--rate", "400", "--requests", "12", "--arrivals", "constant", file=file)
    assert result.exit_code == 0, result.output
    requests = sorted(results.read(file).requests, key=lambda request: request.index)
    due = [request.due - requests[0].due for request in requests]
    assert due == pytest.approx([number / 400 for number in range(12)])
    assert all(request.sent >= request.due for request in requests)


def test_without_streaming_only_whole_answers_are_timed(server: Server, file: Path) -> None:
    result = told("--requests", "3", "--no-stream", "--chat", "--model-ends", file=file)
    assert result.exit_code == 0, result.output
    assert "first token" not in result.stdout
    assert "end-to-end latency" in result.stdout
    assert {body["stream"] for body in server.asked} == {False}
    assert all("messages" in body and "ignore_eos" not in body for body in server.asked)


def test_a_duration_ends_the_run(server: Server, file: Path) -> None:
    result = told("--duration", "0.3", "--concurrency", "2", file=file)
    assert result.exit_code == 0, result.output
    requests = results.read(file).requests
    began = min(request.sent for request in requests)
    assert max(request.sent for request in requests) <= began + 0.3


def test_errors_are_counted_by_kind(server: Server, file: Path) -> None:
    server.fails = lambda number: {1: "status", 2: "no-done", 4: "status"}.get(number, "")
    result = told("--requests", "6", "--concurrency", "1", file=file)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[1:3] == [
        "  no-done: 1 (the stream ends without [DONE])",
        "  refused: 2 (status 503: no D engine)",
    ]
    end = results.read(file).end
    assert end is not None
    assert end.summary["errors"] == {"refused": 2, "no-done": 1}


def test_where_nothing_is_answered_it_fails(server: Server, file: Path) -> None:
    server.fails = lambda _: "status"
    result = told("--requests", "2", file=file)
    assert result.exit_code == 1
    assert result.stdout.startswith("0 of 2 requests answered in ")
    assert results.read(file).requests[0].detail == "status 503: no D engine"


def test_answers_without_usage_are_warned_of(server: Server, file: Path) -> None:
    server.usage = False
    result = told("--requests", "2", file=file)
    assert result.exit_code == 0, result.output
    assert "warning: 2 answers came without usage" in result.stderr
    end = results.read(file).end
    assert end is not None
    assert any("without usage" in warning for warning in end.warnings)


TESTBED = re.compile(
    r"== TTFT \(stream=true\) N=6 ==\n"
    r"  p50=\d+\.\d{3}s  p95=\d+\.\d{3}s  min=\d+\.\d{3}s  max=\d+\.\d{3}s\n"
    r"\n"
    r"== Throughput \(stream=false\) N=6, errors=1 ==\n"
    r"  per-request tokens/sec: p50=\d+\.\d  p95=\d+\.\d  mean=\d+\.\d\n"
    r"  total generated tokens = 15\n"
    r"  wall time \(whole run\)   = \d+\.\d\ds\n"
    r"  aggregate throughput    = \d+\.\d tokens/sec  \n"
    r"result: .*x\.jsonl\n"
)
"""As the testbed prints, and the line that is ours after it."""


def test_the_testbeds_flags_and_printout(server: Server, file: Path) -> None:
    server.fails = lambda number: "status" if number == 8 else ""
    host, port = os.environ.pop("PD_ENDPOINT").removeprefix("http://").rstrip("/").split(":")
    arguments = ("--host", host, "--port", port, "--requests", "6", "--concurrency", "2")
    result = told(*arguments, file=file)
    assert result.exit_code == 0, result.output
    assert TESTBED.fullmatch(result.stdout), result.stdout
    assert [body["stream"] for body in server.asked] == [True] * 6 + [False] * 6
    read = results.read(file)
    assert sorted(request.index for request in read.requests) == list(range(12))
    assert read.end is not None
    assert read.end.summary["ttft"]["count"] == 6
    assert read.end.summary["tps"]["count"] == 5
    assert read.end.summary["output_tokens"] == 15


def test_the_testbeds_goodput_is_of_the_streamed_half(server: Server, file: Path) -> None:
    server.fails = lambda number: "status" if number in (1, 8) else ""
    arguments = ("--testbed", "--requests", "6", "--concurrency", "1", "--goodput", "ttft:60000")
    assert told(*arguments, file=file).exit_code == 0
    read = results.read(file)
    assert read.end is not None
    summary = read.end.summary
    assert summary["good"] == 5  # of six, of which one failed
    began = min(request.due for request in read.requests if request.mode == "stream")
    ended = max(request.ended for request in read.requests if request.mode == "stream")
    assert summary["goodput_per_s"] == pytest.approx(5 / (ended - began))
    assert summary["completed"] == 5


@pytest.mark.parametrize("left", [b'{"type":"request","ind', b""], ids=["torn", "whole"])
def test_a_run_that_was_stopped_goes_on(server: Server, file: Path, left: bytes) -> None:
    arguments = ("--requests", "6", "--concurrency", "1")
    assert told(*arguments, file=file).exit_code == 0
    asked = [body["prompt"] for body in server.asked]
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:4]) + left)  # the run and three requests
    server.asked.clear()
    result = told(*arguments, "--resume", str(file))
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("6 of 6 requests answered in ")
    assert [body["prompt"] for body in server.asked] == asked[3:]
    read = results.read(file)
    assert [request.index for request in read.requests] == list(range(6))
    ended = [request.ended for request in read.requests]
    assert ended == sorted(ended)
    assert read.end is not None
    again = told(*arguments, "--resume", str(file))
    assert again.exit_code == 0
    assert len(server.asked) == 3


def test_the_warm_up_of_a_run_that_goes_on_takes_none_of_its_time(
    server: Server, file: Path
) -> None:
    arguments = ("--requests", "6", "--concurrency", "1", "--warm-up", "3")
    assert told(*arguments, file=file).exit_code == 0
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:6]))  # the run, its warm-up and two requests
    assert told(*arguments, "--resume", str(file)).exit_code == 0
    *_, second, _, _, warm, third, _, _, _ = results.read(file).requests
    assert [request.index for request in (second, warm, third)] == [4, 2, 5]
    assert second.ended <= third.due < warm.ended


def test_the_testbeds_second_half_follows_its_first_also_where_that_went_on(
    server: Server, file: Path
) -> None:
    arguments = ("--testbed", "--requests", "3", "--concurrency", "1")
    assert told(*arguments, file=file).exit_code == 0
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:3]))  # the run and two requests
    assert told(*arguments, "--resume", str(file)).exit_code == 0
    requests = results.read(file).requests
    assert [request.mode for request in requests] == ["stream"] * 3 + ["whole"] * 3
    assert all(after.due >= before.ended for before, after in pairwise(requests))


def test_an_open_loop_goes_on_where_it_was(server: Server, file: Path) -> None:
    arguments = ("--rate", "100", "--requests", "6", "--arrivals", "constant")
    assert told(*arguments, file=file).exit_code == 0
    lines = file.read_bytes().splitlines(keepends=True)
    kept = [lines[0], *(line for line in lines if b'"index":0' in line or b'"index":3' in line)]
    file.write_bytes(b"".join(kept))
    assert told(*arguments, "--resume", str(file)).exit_code == 0
    requests = {request.index: request for request in results.read(file).requests}
    assert sorted(requests) == list(range(6))
    last = max(requests[0].ended, requests[3].ended)
    assert requests[1].due >= last
    gaps = [requests[index].due - requests[1].due for index in (2, 4, 5)]
    assert gaps == pytest.approx([0.01, 0.03, 0.04])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--requests", "7"), "is of another load: requests was 6"),
        (("--requests", "6", "--chat"), "is of another load: chat was False"),
        (("--duration", "1"), "a run of a --duration cannot go on"),
        (("--requests", "6", "--output", "y"), "--resume goes on in its file"),
    ],
)
def test_a_run_goes_on_with_its_own_load_only(
    server: Server, file: Path, arguments: tuple[str, ...], says: str
) -> None:
    assert told("--requests", "6", file=file).exit_code == 0
    before = file.read_bytes()
    result = told(*arguments, "--resume", str(file))
    assert result.exit_code == 2
    assert says in result.stderr
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--prefix-tokens", "8"), "prefix_tokens was 8, prefix_groups was 1"),
        (("--testbed",), "testbed was True"),
    ],
)
def test_a_run_does_not_go_on_without_an_option_that_it_had(
    server: Server, file: Path, given: tuple[str, ...], says: str
) -> None:
    assert told("--requests", "6", *given, file=file).exit_code == 0
    result = told("--requests", "6", "--resume", str(file))
    assert result.exit_code == 2
    assert f"is of another load: {says}\n" in result.stderr


def test_a_sweeps_file_cannot_go_on_here(server: Server, file: Path) -> None:
    run = Run(
        schema=1,
        id="x",
        command="multiturn",
        began=0.0,
        seed=1,
        configuration={},
        environment={},
    )
    Writer(file, run).close()
    result = told("--requests", "6", "--resume", str(file))
    assert (result.exit_code, result.stderr) == (2, f"Error: {file} is of pd-testkit multiturn\n")


def test_an_interrupt_keeps_what_is_there(server: Server, file: Path) -> None:
    server.fails = lambda number: "interrupt" if number == 3 else ""
    result = told("--requests", "100", "--concurrency", "1", file=file)
    assert result.exit_code == 130
    assert result.stdout.startswith("3 of 3 requests answered in ")
    read = results.read(file)
    assert len(read.requests) == 3
    assert read.end is not None
    assert read.end.interrupted
    server.fails = lambda _: ""
    on = told("--requests", "100", "--concurrency", "1", "--resume", str(file))
    assert on.exit_code == 0
    assert on.stdout.startswith("100 of 100 requests answered in ")


WRONG = {
    "--concurrency is of a closed loop": ("--concurrency", "2", "--rate", "1"),
    "--arrivals needs a --rate": ("--arrivals", "burst"),
    "choose --requests or --duration": ("--requests", "2", "--duration", "1"),
    "leaves nothing of --prompt-tokens 20": ("--prefix-tokens", "20"),
    "'x' is no length": ("--max-tokens", "x"),
    "'ttfs:3' is none of ttft, tpot, e2el": ("--goodput", "ttfs:3"),
    "'ttft:fast' is none of": ("--goodput", "ttft:fast"),
    "'mode' is no NAME=VALUE": ("--tag", "mode"),
    "--goodput ttft and tpot need a stream": ("--no-stream", "--goodput", "tpot:50"),
    "the testbed knows --requests only": ("--testbed", "--duration", "1"),
    "does not exist": ("--prompts", "/nowhere"),
}


@pytest.mark.parametrize("says", WRONG)
def test_wrong_options_are_one_line(server: Server, says: str) -> None:
    result = told(*WRONG[says])
    assert result.exit_code == 2
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert server.asked == []


def test_nobody_to_ask_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PD_ENDPOINT", raising=False)
    result = told()
    assert result.exit_code == 2
    assert result.stderr == "Error: say where: --endpoint URL, or --host and --port\n"


def test_an_endpoint_that_is_not_there_is_one_line(loop: LoopThread, file: Path) -> None:
    async def free() -> int:
        running = TestServer(web.Application())
        await running.start_server()
        await running.close()
        return running.port or 0

    result = told("--endpoint", f"http://127.0.0.1:{loop.run(free())}", file=file)
    assert result.exit_code == 2
    assert "GET /v1/models: expected an answer" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not file.exists()


@pytest.mark.parametrize("url", ["localhost:8000", "nonsense", "http://"])
def test_a_url_that_is_none_is_one_line(url: str, file: Path) -> None:
    result = told("--endpoint", url, file=file)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1


def test_a_server_that_answers_nonsense_is_told_of(loop: LoopThread, file: Path) -> None:
    async def start() -> TestServer:
        async def page(_: web.Request) -> web.Response:
            return web.Response(text="<html>log in</html>", content_type="text/html")

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", page)
        running = TestServer(app)
        await running.start_server(shutdown_timeout=0.1)
        return running

    running = loop.run(start())
    try:
        result = told("--endpoint", str(running.make_url("")), "--requests", "3", file=file)
    finally:
        loop.run(running.close())
    assert result.exit_code == 1
    assert "  malformed: 3 (text/html for a stream: <html>log in</html>)" in result.stdout
    assert "lengths of prompts are estimates" in result.stderr


def test_a_file_that_is_no_workload_leaves_no_result(server: Server, file: Path) -> None:
    prompts = file.with_name("p.jsonl")
    prompts.write_text("hello\n")
    result = told("--prompts", str(prompts), file=file)
    assert result.exit_code == 2
    assert "line 1" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not file.exists()


def test_a_result_is_never_written_over(server: Server, file: Path) -> None:
    file.write_text("precious")
    result = told("--requests", "1", file=file)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert file.read_text() == "precious"
