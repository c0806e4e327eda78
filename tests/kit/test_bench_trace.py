"""What belongs to which request, over real HTTP and clocks that are off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from msgspec.structs import asdict, replace

from pd_testkit.bench.client import Planned, completion
from pd_testkit.bench.endpoint import Endpoint
from pd_testkit.bench.kv.movement import Engines
from pd_testkit.bench.options import Reached
from pd_testkit.bench.trace.spans import Span
from pd_testkit.bench.trace.timelines import Answer, Source, owner
from pd_testkit.bench.trace.tracing import TracedClient, lives, trace_id, traceparent, tracing
from tests.kit.trace_checker import check
from tests.kit.trace_lives import DECODE, EPOCH, HOLD, PASSAGE, PREFILL, REQUEST, later

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(**handlers: Handler) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """A server of these, by their paths' last words, and a session."""
    app = web.Application()
    for name, handler in handlers.items():
        app.router.add_route("*", f"/{name}", handler)
        app.router.add_route("*", f"/v1/{name}", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    async with aiohttp.ClientSession() as session:
        yield session, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


class Told:
    """A component with a timeline, whose clock is ahead."""

    def __init__(self, component: str, ahead: float = 0.0, page: int = 1000) -> None:
        self.component = component
        self.ahead = ahead
        self.page = page
        self.now = 1000.0
        self.forgotten = 0
        self.asked: list[int] = []
        self.asks: Callable[[], object] = object
        self.entries: list[Any] = []

    async def timeline(self, http: web.Request) -> web.StreamResponse:
        since = int(http.query["since"])
        self.asked.append(since)
        self.asks()
        begin = min(max(since, self.forgotten), len(self.entries))
        given = self.entries[begin : begin + self.page]
        return web.json_response(
            {
                "component": self.component,
                "now": self.now + self.ahead,
                "first": self.forgotten,
                "next": begin + len(given),
                "entries": [
                    {"event": "hold" if "held_at" in told else "answer", **told}
                    for entry in given
                    for told in (asdict(later(entry, self.ahead)),)
                ],
            }
        )


def run(scenario: Callable[[aiohttp.ClientSession, str], Awaitable[None]], **at: Handler) -> None:
    async def main() -> None:
        async with serving(**at) as (session, url):
            await asyncio.wait_for(scenario(session, url), 30)

    asyncio.run(main())


class Ticks:
    """A clock that shows these times, one after the other."""

    def __init__(self, *times: float) -> None:
        self._times = list(times)

    def __call__(self) -> float:
        return self._times.pop(0) if len(self._times) > 1 else self._times[0]


# Timelines


def test_entries_are_fetched_page_by_page_and_each_once() -> None:
    told = Told("engine", page=2)
    told.entries = [replace(PREFILL, id=str(number)) for number in range(5)]

    async def scenario(session: aiohttp.ClientSession, url: str) -> None:
        source = Source(Endpoint(session, url), "prefill 0", lambda: 1000.0)
        await source.fetch()
        told.entries.append(HOLD)
        await source.fetch()
        found = source.entries()
        assert [entry.id for entry in found] == ["0", "1", "2", "3", "4", HOLD.id]
        assert found[0] == replace(PREFILL, id="0")
        assert found[5] == HOLD
        assert told.asked == [0, 2, 4, 5, 5, 6]

    run(scenario, timeline=told.timeline)


def test_who_fetches_at_once_gets_each_entry_once() -> None:
    told = Told("engine")
    told.entries = [PREFILL]

    async def scenario(session: aiohttp.ClientSession, url: str) -> None:
        source = Source(Endpoint(session, url), "prefill 0", lambda: 1000.0)
        await asyncio.gather(source.fetch(), source.fetch())
        assert source.entries() == [PREFILL]

    run(scenario, timeline=told.timeline)


def test_a_clock_that_is_ahead_is_set_right_by_half_the_round_trip() -> None:
    told = Told("engine", ahead=7.0)
    told.entries = [DECODE]

    async def scenario(session: aiohttp.ClientSession, url: str) -> None:
        # Asked at 999.75 and answered at 1000.25, it read 1007 at 1000, give or take 0.25.
        source = Source(Endpoint(session, url), "decode 0", Ticks(999.75, 1000.25, 1000.0, 1001.0))
        await source.fetch()
        assert (source.offset, source.error) == (7.0, 0.25)
        assert source.entries() == [DECODE]

    run(scenario, timeline=told.timeline)


def test_the_quickest_round_trip_tells_the_time_best() -> None:
    told = Told("engine", ahead=7.0)
    told.entries = [DECODE]

    async def scenario(session: aiohttp.ClientSession, url: str) -> None:
        # The first answer took 3 seconds on its way back, the second one 0.5 in all.
        source = Source(Endpoint(session, url), "decode 0", Ticks(1000.0, 1003.0, 999.75, 1000.25))
        await source.fetch()
        assert (source.offset, source.error) == (7.0, 0.25)

    run(scenario, timeline=told.timeline)


def test_less_than_can_be_measured_is_no_offset() -> None:
    told = Told("engine", ahead=0.2)

    async def scenario(session: aiohttp.ClientSession, url: str) -> None:
        source = Source(Endpoint(session, url), "decode 0", Ticks(999.75, 1000.25))
        await source.fetch()
        assert source.offset == 0.0

    run(scenario, timeline=told.timeline)


def test_what_was_forgotten_before_it_was_asked_for_is_counted() -> None:
    told = Told("engine")
    told.entries = [replace(PREFILL, id=str(number)) for number in range(5)]
    told.forgotten = 3

    async def scenario(session: aiohttp.ClientSession, url: str) -> None:
        source = Source(Endpoint(session, url), "prefill 0")
        await source.fetch()
        assert (source.lost, len(source.entries())) == (3, 2)

    run(scenario, timeline=told.timeline)


def test_an_engine_that_begins_anew_is_asked_from_its_begin() -> None:
    told = Told("engine")
    told.entries = [replace(PREFILL, id="old")] * 3

    async def scenario(session: aiohttp.ClientSession, url: str) -> None:
        source = Source(Endpoint(session, url), "prefill 0")
        await source.fetch()
        told.entries = [replace(PREFILL, id="new")]
        await source.fetch()
        assert [entry.id for entry in source.entries()] == ["old", "old", "old", "new"]

    run(scenario, timeline=told.timeline)


@pytest.mark.parametrize(
    "body", [b"<html>", b'{"component":"\xe9","now":1,"first":0,"next":0,"entries":[]}']
)
def test_who_has_no_timeline_says_so_once(body: bytes) -> None:
    async def nonsense(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body)

    async def scenario(session: aiohttp.ClientSession, url: str) -> None:
        without = Source(Endpoint(session, f"{url}/nothing"), "proxy")
        odd = Source(Endpoint(session, url), "prefill 0")
        for source in (without, odd):
            await source.fetch()
            assert source.entries() == []
        assert without.missing == "GET /timeline is answered with 404"
        assert odd.missing.startswith("GET /timeline: ")

    run(scenario, timeline=nonsense)


# Ids


def test_what_routers_and_engines_put_around_an_id_is_taken_off() -> None:
    ids = {"run-1", "run-17"}
    assert owner("run-17", ids) == "run-17"
    assert owner("run-17-0123abcd", ids) == "run-17"
    assert owner("cmpl-run-1-0123abcd-0", ids) == "run-1"
    assert owner("chatcmpl-run-17", ids) == "run-17"
    p2p = "run-1___prefill_addr_10.0.0.1:5___decode_addr_10.0.0.2:6_0123abcd"
    assert owner(p2p, ids) == "run-1"
    for other in ("run-2", "run", "other-run-1", "0123abcd", "", "run-170"):
        assert owner(other, ids) == ""


def test_a_traceparent_has_the_w3c_s_form_and_the_request_s_trace() -> None:
    version, trace, parent, flags = traceparent("run-1").split("-")
    assert (version, flags, trace) == ("00", "01", trace_id("run-1"))
    assert (len(trace), len(parent)) == (32, 16)
    assert int(trace, 16) != 0 != int(parent, 16)
    assert trace_id("run-1") != trace_id("run-2")


# Whose is what


def test_a_request_has_its_last_attempt_s_engines() -> None:
    first = later(replace(PREFILL, id="first", request_id="run-0-lost"), -1.0)
    other = replace(DECODE, request_id="other-1")
    (life,) = lives([REQUEST], EPOCH, [first, PASSAGE, DECODE, HOLD, other, PREFILL])
    assert (life.passage, life.prefill, life.decode, life.hold) == (PASSAGE, PREFILL, DECODE, HOLD)
    assert life.others == (first,)


def test_without_the_proxy_s_word_ids_and_parts_tell() -> None:
    (life,) = lives([REQUEST], EPOCH, [DECODE, PREFILL])
    assert (life.passage, life.prefill, life.decode) == (None, PREFILL, DECODE)


def span(trace: str, began: float, tokens: int, **said: Any) -> Span:
    told = {
        "gen_ai.usage.completion_tokens": tokens,
        "gen_ai.usage.prompt_tokens": 8,
        "gen_ai.latency.time_to_first_token": 5.0,
        "gen_ai.latency.time_in_model_prefill": 3.0,
        "gen_ai.latency.time_in_model_decode": 2.0,
        "gen_ai.latency.e2e": 7.5,
        **said,
    }
    return Span(trace, "s", "llm_request", "vllm", began, began + 8.0, told)


def test_spans_are_found_by_their_trace_or_by_the_request_s_id() -> None:
    p = span(trace_id("run-0"), 1004.0, 1)
    d = span("f" * 32, 1013.0, 3, **{"gen_ai.request.id": "cmpl-run-0-abc-0"})
    foreign = span("e" * 32, 1013.0, 3)
    (life,) = lives([REQUEST], EPOCH, [], [d, foreign, p])
    assert life.prefill is not None
    assert life.decode is not None
    assert life.prefill.arrived_at == 1004.0
    assert life.decode == Answer(
        id="s",
        request_id="cmpl-run-0-abc-0",
        part="span",
        prompt_tokens=8,
        tokens=3,
        arrived_at=1013.0,
        began_at=1015.0,  # the first token at 1018, of which prefill took 3
        first_token_at=1018.0,
        last_token_at=1020.0,
        ended_at=1020.5,
        component="vllm",
    )


# All of it


def test_a_client_s_requests_are_followed_into_a_file(tmp_path: Path) -> None:
    headers: list[Any] = []
    proxy = Told("proxy")

    async def completions(http: web.Request) -> web.StreamResponse:
        headers.append(http.headers)
        proxy.entries.append(replace(PASSAGE, client_id=http.headers["X-Request-Id"]))
        return web.json_response(
            {
                "choices": [{"text": "a", "finish_reason": "length"}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1},
            }
        )

    async def scenario(session: aiohttp.ClientSession, url: str) -> None:
        endpoint = Endpoint(session, url)
        engines = Engines([Endpoint(session, f"{url}/none")], [])
        client = TracedClient(session, url, lambda: 0.0)
        async with tracing(Reached(session, endpoint, engines), lambda: 0.0) as trace:
            ask = completion("m", "hi", 1, stream=False)
            named = Planned(0, ask, headers={"X-Request-Id": "run-0"})
            requests = [
                (await client.carry_out(planned)).request for planned in (named, Planned(1, ask))
            ]
            told = await trace.write(tmp_path / "new" / "trace.json", requests)
        assert headers[0]["X-Request-Id"] == "run-0"
        assert headers[0]["traceparent"] == traceparent("run-0")
        assert requests[1].request_id == headers[1]["X-Request-Id"] != ""
        assert told.table.startswith("Where 2 requests waited")
        assert told.unknown == ("prefill 0 (GET /timeline is answered with 404)",)
        document = json.loads((tmp_path / "new" / "trace.json").read_bytes())
        check(document)
        assert [clock["component"] for clock in document["otherData"]["clocks"]] == [
            "proxy",
            "prefill 0",
        ]
        ways = [e for e in document["traceEvents"] if e.get("args", {}).get("client_id") == "run-0"]
        assert len(ways) == 1

    run(scenario, completions=completions, timeline=proxy.timeline)


def test_spans_that_an_exporter_still_gathers_are_waited_for(tmp_path: Path) -> None:
    proxy = Told("proxy")

    async def scenario(session: aiohttp.ClientSession, url: str) -> None:
        reached = Reached(session, Endpoint(session, url), Engines([], []))
        async with tracing(reached, lambda: 0.0) as trace:
            trace.awaited = 1
            proxy.asks = lambda: (
                len(proxy.asked) == 4 and trace.spans.append(span(trace_id("run-0"), 1.0, 3))
            )
            await trace.write(tmp_path / "trace.json", [REQUEST])
        assert [each.trace_id for each in trace.spans] == [trace_id("run-0")]
        assert len(proxy.asked) == 4

    run(scenario, timeline=proxy.timeline)
