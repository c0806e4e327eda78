"""Spans of real engines, as OpenTelemetry has them on the wire and in files."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from pd_testkit.bench.trace.events import Foreign
from pd_testkit.bench.trace.spans import (
    NoSpans,
    Span,
    answers,
    foreign,
    of_file,
    of_json,
    receiving,
)
from pd_testkit.bench.trace.timelines import Answer

pytest.importorskip("opentelemetry.proto")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

TRACE, OTHER = "0af7651916cd43dd8448eb211c80319c", "f" * 32
SPAN = "b7ad6b7169203331"

LATENCIES = {
    "time_in_queue": 0.5,
    "time_to_first_token": 1.5,
    "time_in_model_prefill": 0.75,
    "time_in_model_decode": 2.0,
    "e2e": 4.0,
}
"""By the names that vLLM 0.33 has in ``vllm/tracing/utils.py``."""

DOCUMENT = {
    "resourceSpans": [
        {
            "resource": {
                "attributes": [
                    {"key": "service.name", "value": {"stringValue": "prefill"}},
                    {"key": "vllm.process_id", "value": {"stringValue": "77"}},
                ]
            },
            "scopeSpans": [
                {
                    "scope": {"name": "vllm.llm_engine"},
                    "spans": [
                        {
                            "traceId": TRACE,
                            "spanId": SPAN,
                            "parentSpanId": "00f067aa0ba902b7",
                            "name": "llm_request",
                            "kind": 2,
                            "startTimeUnixNano": "1700000000500000000",
                            "endTimeUnixNano": "1700000004600000000",
                            "attributes": [
                                *(
                                    {
                                        "key": f"gen_ai.latency.{name}",
                                        "value": {"doubleValue": value},
                                    }
                                    for name, value in LATENCIES.items()
                                ),
                                {
                                    "key": "gen_ai.usage.completion_tokens",
                                    "value": {"intValue": "1"},
                                },
                                {
                                    "key": "gen_ai.usage.prompt_tokens",
                                    "value": {"intValue": "9"},
                                },
                                {
                                    "key": "gen_ai.request.id",
                                    "value": {"stringValue": "cmpl-run-0-abc-0"},
                                },
                                {"key": "odd", "value": {"arrayValue": {"values": []}}},
                            ],
                        }
                    ],
                }
            ],
        }
    ]
}
"""An export as the collector's file exporter writes it."""

EXPECTED = Answer(
    id=SPAN,
    request_id="cmpl-run-0-abc-0",
    part="span",
    prompt_tokens=9,
    tokens=1,
    arrived_at=1700000000.5,
    began_at=1700000001.25,  # the first token after 1.5, of which prefill took 0.75
    first_token_at=1700000002.0,
    last_token_at=1700000004.0,
    ended_at=1700000004.5,
    component="prefill (77)",
)


def protobuf() -> bytes:
    """The same export."""
    export = ExportTraceServiceRequest()
    of_resource = export.resource_spans.add()
    for key, said in (("service.name", "prefill"), ("vllm.process_id", "77")):
        of_resource.resource.attributes.add(key=key).value.string_value = said
    span = of_resource.scope_spans.add().spans.add(
        trace_id=bytes.fromhex(TRACE),
        span_id=bytes.fromhex(SPAN),
        name="llm_request",
        start_time_unix_nano=1700000000500000000,
        end_time_unix_nano=1700000004600000000,
    )
    for name, value in LATENCIES.items():
        span.attributes.add(key=f"gen_ai.latency.{name}").value.double_value = value
    span.attributes.add(key="gen_ai.usage.completion_tokens").value.int_value = 1
    span.attributes.add(key="gen_ai.usage.prompt_tokens").value.int_value = 9
    span.attributes.add(key="gen_ai.request.id").value.string_value = "cmpl-run-0-abc-0"
    span.attributes.add(key="odd").value.array_value.values.add().int_value = 1
    return bytes(export.SerializeToString())


def run(scenario: Callable[[aiohttp.ClientSession, str, list[Span]], Awaitable[None]]) -> None:
    """The scenario, with a receiver and what it takes."""

    async def main() -> None:
        taken: list[Span] = []
        async with receiving(taken.extend, 0) as url, aiohttp.ClientSession() as session:
            await asyncio.wait_for(scenario(session, url, taken), 30)

    asyncio.run(main())


@pytest.mark.parametrize("packed", [False, True])
def test_an_exporter_s_protobuf_is_taken(packed: bool) -> None:
    async def scenario(session: aiohttp.ClientSession, url: str, taken: list[Span]) -> None:
        data, headers = protobuf(), {"Content-Type": "application/x-protobuf"}
        if packed:
            data, headers = gzip.compress(data), {**headers, "Content-Encoding": "gzip"}
        async with session.post(url, data=data, headers=headers) as response:
            assert (response.status, response.content_type) == (200, "application/x-protobuf")
            assert not ExportTraceServiceResponse.FromString(
                await response.read()
            ).partial_success.rejected_spans
        ((span, answer),) = answers(taken)
        assert span.trace_id == TRACE
        assert answer == EXPECTED

    run(scenario)


def test_an_exporter_s_json_is_taken() -> None:
    async def scenario(session: aiohttp.ClientSession, url: str, taken: list[Span]) -> None:
        async with session.post(url, json=DOCUMENT) as response:
            assert (response.status, await response.json()) == (200, {})
        assert [answer for _, answer in answers(taken)] == [EXPECTED]

    run(scenario)


def test_what_is_no_export_is_refused() -> None:
    async def scenario(session: aiohttp.ClientSession, url: str, taken: list[Span]) -> None:
        for kind in ("application/x-protobuf", "application/json"):
            async with session.post(url, data=b"\xff\xff", headers={"Content-Type": kind}) as got:
                assert got.status == 400
                assert (await got.text()).startswith("no OTLP in ")
        assert taken == []

    run(scenario)


def test_the_receiver_is_on_the_loopback() -> None:
    async def scenario(_: aiohttp.ClientSession, url: str, __: list[Span]) -> None:
        assert url.startswith("http://127.0.0.1:")
        assert url.endswith("/v1/traces")

    run(scenario)


def test_a_collector_s_file_has_an_export_per_line(tmp_path: Path) -> None:
    file = tmp_path / "spans.json"
    file.write_text(f"{json.dumps(DOCUMENT)}\n\n{json.dumps(DOCUMENT)}\n")
    assert [answer for _, answer in answers(of_file(file))] == [EXPECTED, EXPECTED]
    file.write_text(f"{json.dumps(DOCUMENT)}\n{{\n")
    with pytest.raises(NoSpans, match="line 2"):
        of_file(file)


def test_latencies_that_are_not_told_are_not_known() -> None:
    span = Span(TRACE, SPAN, "llm_request", "vllm", 10.0, 12.0, {})
    ((_, answer),) = answers([span])
    assert (answer.arrived_at, answer.ended_at) == (10.0, 12.0)
    assert (answer.began_at, answer.first_token_at, answer.last_token_at) == (None, None, None)


def test_other_spans_of_our_traces_are_shown_as_they_are() -> None:
    ours = Span(TRACE, SPAN, "POST /v1/completions", "gateway", 1.0, 2.0, {"http.status": 200})
    request = ours._replace(name="llm_request")
    theirs = ours._replace(trace_id=OTHER)
    assert list(foreign([ours, request, theirs], {TRACE})) == [
        Foreign("gateway", "POST /v1/completions", 1.0, 2.0, {"http.status": 200})
    ]


@pytest.mark.parametrize("text", [b"[]", b"{", b'{"resourceSpans": [{"scopeSpans": 1}]}'])
def test_json_that_is_no_export_is_none(text: bytes) -> None:
    with pytest.raises(NoSpans):
        of_json(text)
