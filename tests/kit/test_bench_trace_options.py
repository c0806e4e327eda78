"""What a command does that was asked for a trace."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner

from pd_testkit.bench import results
from pd_testkit.bench.endpoint import Endpoint
from pd_testkit.bench.kv.movement import Engines
from pd_testkit.bench.load.command import bench
from pd_testkit.bench.options import Reached
from pd_testkit.bench.recording import Recording
from pd_testkit.bench.results import Writer
from pd_testkit.bench.trace.options import TraceWanted, traced
from pd_testkit.bench.trace.tracing import TracedClient
from tests.kit.trace_checker import check
from tests.kit.trace_lives import REQUEST

NOWHERE = "http://127.0.0.1:9"


def record(folder: Path, wanted: TraceWanted | None, requests: int) -> Recording:
    """So many requests, to a deployment that tells nothing."""

    async def main() -> Recording:
        run = results.begin("bench", {}, {}, 0)
        with Writer(folder / "result.jsonl", run) as writer:
            async with aiohttp.ClientSession() as session:
                found = Reached(session, Endpoint(session, NOWHERE), Engines([], []))
                recording = Recording(found, "", run, writer)
                async with traced(recording, wanted):
                    for _ in range(requests):
                        recording.note(REQUEST)
                return recording

    return asyncio.run(main())


def test_what_is_recorded_is_written_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "trace.json"
    recording = record(tmp_path, TraceWanted(path), 1)
    document = json.loads(path.read_bytes())
    check(document)
    assert [e["name"] for e in document["traceEvents"] if e["ph"] == "X"] == [
        "request 0",
        "late",
        "until the first token",
        "tokens",
    ]
    said = capsys.readouterr()
    assert said.out.startswith("Where 1 requests waited")
    assert said.out.endswith(f"trace: {path}\n")
    assert said.err.startswith("not in the trace: proxy (ClientConnectorError")
    assert recording.client_kind is TracedClient


def test_without_a_wish_nothing_is_traced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = record(tmp_path, None, 1)
    assert recording.client_kind is not TracedClient
    assert capsys.readouterr().out == ""


def test_a_collector_s_file_that_is_none_costs_only_its_spans(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spans = tmp_path / "spans.json"
    spans.write_text("{")
    record(tmp_path, TraceWanted(tmp_path / "trace.json", otlp=spans), 1)
    said = capsys.readouterr()
    assert "not in the trace: spans (" in said.err
    assert "line 1: no OTLP in JSON" in said.err
    assert "trace: " in said.out


def test_a_trace_that_cannot_be_written_is_known_before_anything_is_measured(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        record(tmp_path, TraceWanted(tmp_path / "file" / "trace.json"), 0)


@pytest.mark.parametrize("option", [("--otlp-port", "4318"), ("--otlp", "spans.json")])
def test_spans_without_a_trace_are_refused(option: tuple[str, str]) -> None:
    ended = CliRunner().invoke(bench, ["--endpoint", NOWHERE, "--requests", "1", *option])
    assert ended.exit_code == 2
    assert "spans are for a trace: --trace FILE" in ended.output
