"""OpenTelemetry spans of real engines: taken over HTTP as they export them, or from a file.

OTLP, https://opentelemetry.io/docs/specs/otlp/, as protobuf and as JSON; the file is one of the
collector's file exporter, an export request in JSON per line. What vLLM's span ``llm_request`` says
of its request (``vllm/tracing``, ``OutputProcessor.do_tracing``) becomes an `Answer`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from pd_testkit.bench.trace.events import Foreign
from pd_testkit.bench.trace.timelines import Answer

PATH = "/v1/traces"
REQUEST = "llm_request"
"""vLLM's span of a whole request."""

_PROTOBUF, _JSON = "application/x-protobuf", "application/json"
_MAX_BYTES = 64 << 20


class NoSpans(ValueError):
    """What was sent, or a file, is no OTLP."""


class Span(NamedTuple):
    """Times are Unix seconds, ids hexadecimal digits.

    Attributes:
        service: the process that it is of.
    """

    trace_id: str
    span_id: str
    name: str
    service: str
    began: float
    ended: float
    attributes: dict[str, Any]


class _Value(msgspec.Struct, rename="camel"):
    string_value: str | None = None
    int_value: int | str | None = None
    double_value: float | str | None = None
    bool_value: bool | None = None

    def plain(self) -> Any:
        if self.int_value is not None:
            return int(self.int_value)
        if self.double_value is not None:
            return float(self.double_value)
        return self.string_value if self.string_value is not None else self.bool_value


class _Attribute(msgspec.Struct):
    key: str
    value: _Value = msgspec.field(default_factory=_Value)


class _Span(msgspec.Struct, rename="camel"):
    trace_id: str
    span_id: str
    name: str = ""
    start_time_unix_nano: int | str = 0
    end_time_unix_nano: int | str = 0
    attributes: list[_Attribute] = []


class _Scope(msgspec.Struct):
    spans: list[_Span] = []


class _Resource(msgspec.Struct):
    attributes: list[_Attribute] = []


class _OfResource(msgspec.Struct, rename="camel"):
    resource: _Resource = msgspec.field(default_factory=_Resource)
    scope_spans: list[_Scope] = []


class _Export(msgspec.Struct, rename="camel"):
    resource_spans: list[_OfResource] = []


def of_json(text: bytes) -> list[Span]:
    """One export request.

    Raises:
        NoSpans: it is none.
    """
    try:
        export = msgspec.json.decode(text, type=_Export)
        return [
            Span(
                span.trace_id.lower(),
                span.span_id.lower(),
                span.name,
                service,
                int(span.start_time_unix_nano) / 1e9,
                int(span.end_time_unix_nano) / 1e9,
                {each.key: each.value.plain() for each in span.attributes},
            )
            for of_resource in export.resource_spans
            for service in (_service(of_resource.resource.attributes),)
            for scope in of_resource.scope_spans
            for span in scope.spans
        ]
    except ValueError as problem:
        raise NoSpans(f"no OTLP in JSON: {problem}") from None


def _service(attributes: Sequence[_Attribute]) -> str:
    return _process({each.key: each.value.plain() for each in attributes})


def _process(said: dict[str, Any]) -> str:
    """Engines of one service are told apart by their processes."""
    process = said.get("vllm.process_id") or said.get("process.pid")
    name = said.get("service.name") or "spans"
    return f"{name} ({process})" if process else str(name)


def of_protobuf(data: bytes) -> list[Span]:
    """One export request.

    Raises:
        NoSpans: it is none.
        ModuleNotFoundError: opentelemetry-proto is not installed.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    try:
        export = ExportTraceServiceRequest.FromString(data)
    except DecodeError as problem:
        raise NoSpans(f"no OTLP in protobuf: {problem}") from None
    return [
        Span(
            span.trace_id.hex(),
            span.span_id.hex(),
            span.name,
            service,
            span.start_time_unix_nano / 1e9,
            span.end_time_unix_nano / 1e9,
            _plain(span.attributes),
        )
        for of_resource in export.resource_spans
        for service in (_process(_plain(of_resource.resource.attributes)),)
        for scope in of_resource.scope_spans
        for span in scope.spans
    ]


def _plain(attributes: Iterable[Any]) -> dict[str, Any]:
    return {
        each.key: getattr(each.value, kind)
        for each in attributes
        if (kind := each.value.WhichOneof("value")) is not None
        and kind not in ("array_value", "kvlist_value", "bytes_value")
    }


def of_file(path: Path) -> list[Span]:
    """What the collector's file exporter wrote.

    Raises:
        NoSpans: something else is in it.
        OSError: it cannot be read.
    """
    found: list[Span] = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if line.strip():
            try:
                found += of_json(line)
            except NoSpans as problem:
                raise NoSpans(f"{path}, line {number}: {problem}") from None
    return found


@asynccontextmanager
async def receiving(
    take: Callable[[list[Span]], None], port: int, host: str = "127.0.0.1"
) -> AsyncIterator[str]:
    """Takes what exporters send to the URL that it gives, in protobuf or JSON.

    Raises:
        OSError: the port cannot be had.
        ModuleNotFoundError: opentelemetry-proto is not installed.
    """
    import opentelemetry.proto.collector.trace.v1.trace_service_pb2  # noqa: F401

    async def export(http: web.Request) -> web.Response:
        read = of_json if http.content_type == _JSON else of_protobuf
        try:
            take(read(await http.read()))
        except NoSpans as problem:
            return web.Response(status=400, text=str(problem))
        if http.content_type == _JSON:
            return web.Response(body=b"{}", content_type=_JSON)
        return web.Response(body=b"", content_type=_PROTOBUF)

    app = web.Application(client_max_size=_MAX_BYTES)
    app.router.add_post(PATH, export)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        bound = runner.addresses[0][1]
        yield f"http://{f'[{host}]' if ':' in host else host}:{bound}{PATH}"
    finally:
        await runner.cleanup()


def answers(spans: Iterable[Span]) -> Iterator[tuple[Span, Answer]]:
    """What vLLM's requests say of themselves."""
    for span in spans:
        if span.name == REQUEST:
            yield span, _answer(span)


def _answer(span: Span) -> Answer:
    """Latencies count from the span's begin, which is when the request arrived at the server."""
    said = span.attributes

    def seconds(name: str) -> float | None:
        value = said.get(f"gen_ai.latency.{name}")
        return float(value) if isinstance(value, (int, float)) and value >= 0 else None

    to_first, prefill = seconds("time_to_first_token"), seconds("time_in_model_prefill")
    decode, whole = seconds("time_in_model_decode"), seconds("e2e")
    first = None if to_first is None else span.began + to_first
    return Answer(
        id=span.span_id,
        request_id=str(said.get("gen_ai.request.id", "")),
        part="span",
        prompt_tokens=_number(said.get("gen_ai.usage.prompt_tokens")),
        tokens=_number(said.get("gen_ai.usage.completion_tokens")),
        arrived_at=span.began,
        began_at=None if first is None or prefill is None else first - prefill,
        first_token_at=first,
        last_token_at=None if first is None or decode is None else first + decode,
        ended_at=span.ended if whole is None else span.began + whole,
        component=span.service,
    )


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def foreign(spans: Iterable[Span], traces: Collection[str]) -> Iterator[Foreign]:
    """The other spans of these traces."""
    for span in spans:
        if span.name != REQUEST and span.trace_id in traces:
            yield Foreign(span.service, span.name, span.began, span.ended, span.attributes)
