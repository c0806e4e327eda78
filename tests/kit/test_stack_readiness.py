"""Ready is what answers as it must, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from pd_testkit.stack.plan import Probe, Readiness
from pd_testkit.stack.readiness import Prober
from tests.kit.stack_plans import free_port


@asynccontextmanager
async def serving(answer: Callable[[web.Request], web.Response]) -> AsyncIterator[str]:
    app = web.Application()

    async def handle(request: web.Request) -> web.Response:
        return answer(request)

    app.router.add_get("/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def probed(answer: Callable[[web.Request], web.Response], ready: Callable[[str], Readiness]) -> str:
    """What is missing; empty if nothing."""

    async def main() -> str:
        async with serving(answer) as url, Prober() as prober:
            missing = await prober.missing(ready(url))
            return (missing or "").replace(url, "")

    return asyncio.run(main())


def names(url: str) -> Readiness:
    return Readiness((Probe(f"{url}/h"), Probe(f"{url}/n", "names[]", ("p", "d"))), 30.0)


@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        (lambda _: web.json_response({"names": ["d", "x", "p"]}), ""),
        (lambda _: web.json_response({"names": ["p"]}), "/n does not list d"),
        (lambda _: web.json_response({"other": []}), "/n has no names[]"),
        (lambda _: web.Response(text="fine"), "/n has no names[]"),
        (lambda _: web.json_response({"names": ["p", "d"]}, status=503), "/h answers 503"),
        (lambda _: web.Response(status=404), "/h answers 404"),
    ],
)
def test_any_answer_is_not_yet_the_right_one(
    answer: Callable[[web.Request], web.Response], missing: str
) -> None:
    assert probed(answer, names) == missing


def test_the_probes_headers_are_sent() -> None:
    def guarded(request: web.Request) -> web.Response:
        return web.Response(status=200 if request.headers.get("Authorization") == "key" else 401)

    def ready(url: str) -> Readiness:
        return Readiness((Probe(url),), 30.0, {"Authorization": "key"})

    assert probed(guarded, ready) == ""
    assert probed(guarded, lambda url: Readiness((Probe(url),), 30.0)) == " answers 401"


def test_what_is_waited_for_comes() -> None:
    asked = 0

    def third_time(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(status=200 if asked == 3 else 503)

    async def main() -> None:
        async with serving(third_time) as url, Prober() as prober:
            await prober.wait(Readiness((Probe(url),), 30.0))

    asyncio.run(main())
    assert asked == 3


def test_what_does_not_come_in_time_is_said_as_it_was_seen_last() -> None:
    url = f"http://127.0.0.1:{free_port()}"

    async def main() -> None:
        async with Prober() as prober:
            await prober.wait(Readiness((Probe(url),), 0.5))

    with pytest.raises(TimeoutError) as late:
        asyncio.run(main())
    assert str(late.value) == (f"not ready within 0.5 s: {url} does not answer: Connection refused")


def test_a_peer_that_breaks_off_is_not_ready() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async def main() -> str | None:
        async with Prober() as prober:
            listener = await asyncio.start_server(hang_up, "127.0.0.1", 0)
            async with listener:
                port = listener.sockets[0].getsockname()[1]
                return await prober.missing(Readiness((Probe(f"http://127.0.0.1:{port}"),), 1.0))

    assert "does not answer: Server disconnected" in (asyncio.run(main()) or "")
