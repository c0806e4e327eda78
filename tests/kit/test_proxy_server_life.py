"""The proxy's life: what it tells of itself, who comes and goes, how it ends, what it logs."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from pd_testkit.proxy.discovery import Registrar
from pd_testkit.proxy.instances import Engine
from pd_testkit.proxy.log import Log
from pd_testkit.proxy.registration import BadRegistration
from pd_testkit.proxy.settings import Settings
from tests.kit.proxy_bed import (
    ASKED,
    LAST,
    Bed,
    EngineConnection,
    Message,
    Script,
    ScriptedEngine,
    bed,
    chunk,
    decodes,
    event,
    prefills,
    refuses,
    within,
)

SECRET = b"sixteen bytes or more"


async def answers_models(connection: EngineConnection, message: Message) -> None:
    connection.answer({"object": "list", "data": [{"id": "m"}, {"id": connection_name(message)}]})


def connection_name(message: Message) -> str:
    return "at " + message.headers["host"]


# What it tells


def test_health_is_that_of_the_routing() -> None:
    async def scenario() -> None:
        async with bed() as b:
            healthy = await b.get("/health")
            assert healthy.status == 200
            expected = {"status": "ok", "mode": "pd", "prefill": 1, "decode": 1, "in_flight": 0}
            assert healthy.json() == expected
            b.server.router.registry.unregister("decode", b.decode.url)
            sick = await b.get("/health")
            assert sick.status == 503
            assert sick.headers["retry-after"] == "1"
            assert (sick.json()["status"], sick.json()["decode"]) == ("no engines", 0)
            refused = await b.post(ASKED)
            assert refused.status == 503
            assert int(refused.headers["retry-after"]) >= 1
            await b.get("/mode/aggregated", "POST")
            assert (await b.get("/health")).status == 200

    within(scenario())


def test_the_mode_is_switched_while_it_runs() -> None:
    async def scenario() -> None:
        async with bed() as b:
            assert (await b.get("/mode")).json()["mode"] == "pd"
            assert (await b.get("/mode/aggregated", "POST")).json()["mode"] == "aggregated"
            assert (await b.get("/mode")).json()["mode"] == "aggregated"
            await b.post(ASKED)
            assert len(b.prefill.requests) + len(b.decode.requests) == 1
            wrong = (await b.get("/mode/both", "POST")).json()["error"]["message"]
            assert wrong.endswith("modes are pd, ppd, adaptive, aggregated")

    within(scenario())


def test_conversations_are_listed_and_cleared() -> None:
    async def scenario() -> None:
        settings = Settings(mode="ppd", protocol="nixl")
        async with bed(settings=settings) as b:
            turn = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
            assert (await b.post(turn, "/v1/chat/completions")).status == 200
            assert (await b.get("/conversations")).json()["count"] == 1
            cleared = await b.get("/conversations/clear", "POST")
            assert cleared.json() == {"cleared": 1}
            assert (await b.get("/conversations")).json() == {"count": 0, "conversations": []}

    within(scenario())


def test_models_are_those_of_all_engines_each_once() -> None:
    async def scenario() -> None:
        async with bed(answers_models, answers_models) as b:
            listed = (await b.get("/v1/models")).json()
            ids = sorted(model["id"] for model in listed["data"])
            hosts = [engine.url.removeprefix("http://") for engine in b.engines]
            assert ids == sorted(["m", *(f"at {host}" for host in hosts)])
            assert listed["object"] == "list"

    within(scenario())


def test_an_engine_without_models_is_left_out_and_none_at_all_is_a_502() -> None:
    async def scenario() -> None:
        async with bed(answers_models, refuses) as b:
            assert len((await b.get("/v1/models")).json()["data"]) == 2
        async with bed(refuses, refuses) as b:
            assert (await b.get("/v1/models")).status == 502
        async with bed(None, None) as b:
            assert (await b.get("/v1/models")).status == 503

    within(scenario())


def held_decodes() -> tuple[Script, asyncio.Event, asyncio.Event]:
    """A D that has seen its call (the second event), and answers when the first one is set."""
    held, seen = asyncio.Event(), asyncio.Event()

    async def holds(connection: EngineConnection, message: Message) -> None:
        seen.set()
        await held.wait()
        await decodes(connection, message)

    return holds, held, seen


def test_instances_are_told_with_their_load() -> None:
    holds, held, seen = held_decodes()

    async def scenario() -> None:
        async with bed(decode=holds) as b:
            client = await b.client()
            client.ask(ASKED)
            await seen.wait()
            p, d = (await b.get("/instances")).json()["instances"]
            assert (p["role"], p["url"], p["in_flight"]) == ("prefill", b.prefill.url, 0)
            assert (d["role"], d["url"], d["in_flight"]) == ("decode", b.decode.url, 1)
            assert d["breaker"] == "closed"
            held.set()
            await client.response()

    within(scenario())


async def metrics(b: Bed) -> dict[str, dict[tuple[str, ...], float]]:
    """Values by sample name and label values."""
    answer = await b.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def test_metrics_count_and_time_what_happened() -> None:
    async def scenario() -> None:
        async with bed() as b:
            await b.post(ASKED)
            await b.post({"model": "m", "prompt": "a b c", "stream": True})
            await b.post(b"{")
            found = await metrics(b)
            requests = found["pd_proxy_requests_total"]
            assert requests == {("pd", "ok"): 2, ("none", "refused"): 1}
            for name, count in (
                ("request", 3),
                ("prefill", 2),
                ("decode", 2),
                ("time_to_first_token", 1),
                ("transfer_wait", 1),
            ):
                assert found[f"pd_proxy_{name}_seconds_count"][()] == count, name
                assert found[f"pd_proxy_{name}_seconds_bucket"][("+Inf",)] == count, name
            assert found["pd_proxy_engine_in_flight"][("decode", b.decode.url)] == 0
            assert found["pd_proxy_engine_up"][("prefill", b.prefill.url)] == 1
            assert found["pd_proxy_conversations"] == {(): 0}

    within(scenario())


def test_metrics_count_retries_cancellations_and_the_gaps_of_a_stream() -> None:
    got = asyncio.Event()

    async def slowly(connection: EngineConnection, message: Message) -> None:
        connection.begin_stream()
        for _ in range(3):
            connection.send(chunk(event("x")))
            await got.wait()
            got.clear()

    async def scenario() -> None:
        settings = Settings(protocol="nixl", retries=1)
        broken = ScriptedEngine("prefill", refuses)
        async with bed(decode=slowly, engines=(broken,), settings=settings) as b:
            for _ in range(2):
                client = await b.client()
                client.ask({**ASKED, "stream": True})
                await client.head()
                for _ in range(3):
                    await client.chunk()
                    got.set()
                await client.close()
                while b.server.in_flight:
                    await asyncio.sleep(0)
            found = await metrics(b)
            assert found["pd_proxy_cancellations_total"][()] == 2
            assert found["pd_proxy_requests_total"][("pd", "cancelled")] == 2
            assert found["pd_proxy_retries_total"][()] == 1
            assert found["pd_proxy_inter_token_latency_seconds_count"][()] == 4

    within(scenario())


# Who comes and goes


def registrar(b: Bed, engine: ScriptedEngine, secret: bytes | None = None) -> Registrar:
    assert b.server.discovery_endpoint is not None
    return Registrar(
        b.server.discovery_endpoint, Engine(engine.leg, engine.url), interval_s=0.05, secret=secret
    )


async def in_thread(call: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, call, *arguments)


def test_engines_register_and_say_goodbye() -> None:
    async def scenario() -> None:
        async with bed(None, None, discovery="tcp://127.0.0.1:0") as b:
            assert (await b.post(ASKED)).status == 503
            engines = [ScriptedEngine("prefill", prefills), ScriptedEngine("decode", decodes)]
            registrars = []
            for engine in engines:
                await engine.start()
                registrars.append(registrar(b, engine))
                assert await in_thread(registrars[-1].registered, 10)
            assert (await b.post(ASKED)).status == 200
            for one in registrars:
                await in_thread(one.close)
            while (await b.get("/health")).status == 200:
                await asyncio.sleep(0)
            assert (await b.get("/instances")).json() == {"instances": []}
            for engine in engines:
                await engine.stop()

    within(scenario())


def test_an_engine_that_falls_silent_expires() -> None:
    async def scenario() -> None:
        async with bed(settings=Settings(protocol="nixl", lifetime_s=1.0)) as b:
            silent = Engine("decode", "http://127.0.0.1:9", static=False)
            b.server.router.registry.register(silent, monotonic())
            assert (await b.get("/health")).json()["decode"] == 2
            while (await b.get("/health")).json()["decode"] == 2:
                await asyncio.sleep(0.01)
            (left,) = b.server.router.registry.engines("decode")
            assert left.url == b.decode.url

    within(scenario())


def test_who_cannot_sign_is_refused_and_told() -> None:
    async def scenario() -> None:
        async with bed(discovery="tcp://127.0.0.1:0", registration_secret=SECRET) as b:
            for secret, known in ((None, False), (b"another secret of 16", False), (SECRET, True)):
                stranger = ScriptedEngine("prefill", prefills, url="http://127.0.0.1:9")
                one = registrar(b, stranger, secret)
                if known:
                    assert await in_thread(one.registered, 10)
                else:
                    with pytest.raises(BadRegistration):
                        await in_thread(one.registered, 10)
                urls = [engine.url for engine in b.server.router.registry.engines("prefill")]
                assert (stranger.url in urls) == known
                await in_thread(one.close)

    within(scenario())


# How it ends


def test_a_drain_lets_what_is_under_way_end_and_takes_nothing_new() -> None:
    held, seen = asyncio.Event(), asyncio.Event()

    async def holds(connection: EngineConnection, message: Message) -> None:
        connection.begin_stream()
        connection.send(chunk(event("one")))
        seen.set()
        await held.wait()
        connection.send(chunk(event("two")) + LAST)

    async def scenario() -> None:
        async with bed(decode=holds) as b:
            streaming, waiting, idle = [await b.client() for _ in range(3)]
            streaming.ask({**ASKED, "stream": True})
            await streaming.head()
            await seen.wait()
            waiting.send(b"POST /v1/completions HTTP/1.1\r\nContent-Length: 30\r\n")
            stopping = asyncio.ensure_future(b.server.stop(grace_s=60))
            await idle.gone()
            with pytest.raises(OSError, match=r"refused|Connect call failed"):
                await b.client()
            assert not stopping.done()
            held.set()
            assert await streaming.chunk() == event("one")
            assert await streaming.chunk() == event("two")
            assert await streaming.chunk() == b""
            await streaming.gone()
            await stopping

    within(scenario())


def test_a_request_on_a_kept_connection_gets_503_while_it_drains() -> None:
    holds, held, seen = held_decodes()

    async def scenario() -> None:
        async with bed(decode=holds) as b:
            client = await b.client()
            client.ask(ASKED)
            await seen.wait()
            stopping = asyncio.ensure_future(b.server.stop(grace_s=60))
            while not b.server.draining:
                await asyncio.sleep(0)
            client.ask(ASKED)  # behind the one that is under way
            held.set()
            assert (await client.response()).status == 200
            late = await client.response()
            assert (late.status, late.headers["retry-after"]) == (503, "1")
            await client.gone()
            await stopping

    within(scenario())


def test_what_outlasts_the_grace_is_cut_with_an_error() -> None:
    async def holds(connection: EngineConnection, message: Message) -> None:
        connection.begin_stream()
        connection.send(chunk(event("one")))
        await connection.gone()

    async def scenario() -> None:
        async with bed(decode=holds) as b:
            client = await b.client()
            client.ask({**ASKED, "stream": True})
            await client.head()
            assert await client.chunk() == event("one")
            await b.server.stop(grace_s=0.05)
            assert b'"code":503' in await client.chunk_or_cut()
            assert await client.chunk_or_cut() == b""

    within(scenario())


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_stopped_proxy_leaves_no_socket_and_no_thread(new_loop: Any) -> None:
    def sockets() -> list[str]:
        gc.collect()
        links = (fd.readlink() for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink())
        return sorted(str(link) for link in links if str(link).startswith("socket"))

    async def scenario() -> None:
        async with bed(discovery="tcp://127.0.0.1:0") as b:
            client = await b.client()
            for stream in (False, True):
                client.ask({**ASKED, "stream": stream})
                assert (await client.response()).status == 200
            leaver = await b.client()
            leaver.ask(ASKED)

    before, threads = sockets(), set(threading.enumerate())
    loop = new_loop()
    try:
        loop.run_until_complete(asyncio.wait_for(scenario(), 10))
    finally:
        loop.close()
    assert sockets() == before
    assert set(threading.enumerate()) == threads


# What it logs


def test_a_request_is_one_line_without_anything_secret() -> None:
    stream = io.BytesIO()

    async def scenario() -> None:
        async with bed(api_key="s3cret-key", log=Log(stream)) as b:
            prompt = {"model": "m", "prompt": "PRIVATE words", "stream": True}
            await b.post(prompt, extra="Authorization: Bearer s3cret-key\r\n")
            await b.post(prompt, extra="Authorization: Bearer wr0ng-key\r\n")
            await b.post(b'{"prompt": "PRIVATE"', extra="Authorization: Bearer s3cret-key\r\n")

    within(scenario())
    written = stream.getvalue()
    for secret in (b"s3cret", b"wr0ng", b"PRIVATE", b"Bearer", b"words"):
        assert secret not in written
    good, bad = map(json.loads, written.splitlines())
    assert (good["event"], good["outcome"], good["status"]) == ("request", "ok", 200)
    assert (good["kind"], good["stream"], good["retries"]) == ("pd", True, 0)
    assert good["prefill"].startswith("http://127.0.0.1:")
    assert good["decode"].startswith("http://127.0.0.1:")
    assert len(good["request_id"]) >= 32
    assert good["total_ms"] >= good["prefill_ms"] > 0
    assert (bad["outcome"], bad["status"]) == ("refused", 400)


def test_a_defect_of_the_router_is_a_500_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()

    async def scenario() -> None:
        async with bed(log=Log(stream, "text")) as b:

            def fails(*_: Any) -> None:
                raise KeyError("PRIVATE")

            monkeypatch.setattr(b.server.router, "start", fails)
            assert (await b.post(ASKED)).status == 500
            monkeypatch.undo()
            assert (await b.post(ASKED)).status == 200

    within(scenario())
    first = stream.getvalue().decode().splitlines()[0]
    assert "defect error=KeyError" in first
    assert "PRIVATE" not in first


def test_a_log_whose_reader_is_gone_does_not_stop_the_proxy() -> None:
    class Broken(io.BytesIO):
        def write(self, data: Any) -> int:
            raise BrokenPipeError

    async def scenario() -> None:
        async with bed(log=Log(Broken())) as b:
            await b.get("/mode/ppd", "POST")
            assert (await b.post(ASKED)).status == 200

    within(scenario())
