"""``pd-testkit proxy`` as its users start it, misspell it and stop it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from click.testing import CliRunner

from pd_testkit.cli import main
from tests.kit.proxy_bed import (
    ASKED,
    LAST,
    Client,
    EngineConnection,
    Message,
    Script,
    ScriptedEngine,
    chunk,
    decodes,
    event,
    prefills,
    within,
)

ENGINES = ("--prefill", "http://127.0.0.1:8100", "--decode", "http://127.0.0.1:8200")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no engines: give --prefill URL and --decode URL, or --discovery PORT"),
        (ENGINES[:2], "no engines: give --prefill URL and --decode URL, or --discovery PORT"),
        (("--prefill", "p1"), "'p1' is no http://host:port that can be called"),
        (("--prefill", "http://p1"), "give http://HOST:PORT"),
        (("--decode", "http://d:8200/metrics"), "'http://d:8200/metrics' has more than a host"),
        (("--prefill", "http://p:8100,zmq"), "after the URL may come protocol=NAME, zmq=HOST:PORT"),
        (("--prefill", "http://p:8100,tp=2"), "after the URL may come protocol=NAME"),
        (("--decode", "http://d:8200,protocol=nccl"), "choose of nixl, p2p_nccl, moriio"),
        (("--decode", "http://d:8200,zmq=d"), "'http://d' is no http://host:port"),
        (("--decode", "http://d:8200,dp=0"), "give the number of data-parallel ranks"),
        ((*ENGINES, "--port", "123456"), "'--port': 123456 is not in the range"),
        ((*ENGINES, "--mode", "both"), "'pd', 'ppd', 'adaptive', 'aggregated'"),
        ((*ENGINES, "--read-timeout", "0"), "'--read-timeout': 0.0 is not in the range x>0"),
        ((*ENGINES, "--discovery", "ipc:///x"), "give a PORT of the loopback, or tcp://HOST:PORT"),
        ((*ENGINES, "--registration-secret", "short"), "give at least 16 bytes"),
        ((*ENGINES, "--registration-secret", "x" * 16), "needs --discovery"),
        ((*ENGINES, "--api-key", ""), "empty, or not of printable ASCII"),
        ((*ENGINES, "--prefil", "x"), "No such option"),
        ((*ENGINES, "extra"), "unexpected extra argument"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(main, ["proxy", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_help_names_all_options() -> None:
    result = CliRunner().invoke(main, ["proxy", "--help"])
    assert result.exit_code == 0
    for option in ("--prefill", "--decode", "--discovery", "--mode", "--api-key", "--seed"):
        assert option in result.stdout


def test_the_proxy_is_listed_but_not_imported_with_the_other_commands() -> None:
    script = "import sys; from pd_testkit.cli import main; main(['clauses'], standalone_mode=False)"
    script += "; assert not {'zmq', 'uvloop', 'httptools'} & set(sys.modules), sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)
    assert "proxy" in CliRunner().invoke(main, ["--help"]).stdout


class Process:
    """A running ``pd-testkit proxy``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []

    async def line(self, wanted: str) -> dict[str, Any]:
        """The next log line of that event."""
        assert self.process.stderr is not None
        while raw := await self.process.stderr.readline():
            self.lines.append(json.loads(raw))
            if self.lines[-1]["event"] == wanted:
                return self.lines[-1]
        raise AssertionError(f"no line {wanted!r} in {self.lines}")

    async def ended(self) -> int:
        assert self.process.stderr is not None
        rest = await self.process.stderr.read()
        self.lines += [json.loads(raw) for raw in rest.splitlines()]
        return await self.process.wait()


@asynccontextmanager
async def running(*arguments: str, **environment: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from pd_testkit.cli import main; main()"),
        *("proxy", "--port", "0", *arguments),
        stdout=subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    try:
        yield Process(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def engines(decode: Script = decodes) -> AsyncIterator[tuple[str, ...]]:
    """Their options."""
    p, d = ScriptedEngine("prefill", prefills), ScriptedEngine("decode", decode)
    await p.start()
    await d.start()
    yield ("--prefill", p.url, "--decode", d.url, "--protocol", "nixl")
    await p.stop()
    await d.stop()


async def connected(url: str) -> Client:
    host, _, port = url.removeprefix("http://").rpartition(":")
    return Client(*await asyncio.open_connection(host, int(port)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_told_to_end(number: signal.Signals) -> None:
    async def scenario() -> None:
        async with engines() as options, running(*options) as proxy:
            client = await connected((await proxy.line("listening"))["url"])
            client.ask(ASKED)
            assert (await client.response()).status == 200
            proxy.process.send_signal(number)
            await client.gone()
            await client.close()
            assert await proxy.ended() == 0
            events = [line["event"] for line in proxy.lines]
            assert events == ["listening", "request", "draining", "stopped"]

    within(scenario())


def test_an_engine_named_by_option_may_have_a_protocol_of_its_own() -> None:
    async def scenario() -> None:
        p, d = ScriptedEngine("prefill", prefills), ScriptedEngine("decode", decodes)
        await p.start()
        await d.start()
        options = (
            *("--prefill", f"{p.url},protocol=p2p_nccl,zmq=10.0.0.1:14580,dp=2"),
            *("--decode", f"{d.url},protocol=p2p_nccl,zmq=10.0.0.2:14579"),
        )
        async with running(*options) as proxy:
            client = await connected((await proxy.line("listening"))["url"])
            client.ask(ASKED)
            assert (await client.response()).status == 200
            await client.close()
        await p.stop()
        await d.stop()
        (asked,) = p.requests
        addresses = "___prefill_addr_10.0.0.1:14580___decode_addr_10.0.0.2:14579_"
        assert addresses in asked.headers["x-request-id"]
        assert asked.headers["x-data-parallel-rank"] == "0"

    within(scenario())


def test_what_is_under_way_is_finished_after_sigterm() -> None:
    held = asyncio.Event()

    async def holds(connection: EngineConnection, message: Message) -> None:
        connection.begin_stream()
        connection.send(chunk(event("one")))
        await held.wait()
        connection.send(chunk(event("two")) + LAST)

    async def scenario() -> None:
        async with engines(holds) as options, running(*options) as proxy:
            client = await connected((await proxy.line("listening"))["url"])
            client.ask({**ASKED, "stream": True})
            await client.head()
            assert await client.chunk() == event("one")
            proxy.process.terminate()
            assert (await proxy.line("draining"))["in_flight"] == 1
            held.set()
            assert await client.chunk() == event("two")
            assert await client.chunk() == b""
            await client.close()
            assert await proxy.ended() == 0

    within(scenario())


def test_a_second_signal_ends_the_wait() -> None:
    async def holds(connection: EngineConnection, message: Message) -> None:
        connection.begin_stream()
        await connection.gone()

    async def scenario() -> None:
        waiting = ("--drain-seconds", "3600")
        async with engines(holds) as options, running(*options, *waiting) as proxy:
            client = await connected((await proxy.line("listening"))["url"])
            client.ask({**ASKED, "stream": True})
            await client.head()
            proxy.process.send_signal(signal.SIGINT)
            await proxy.line("draining")
            proxy.process.send_signal(signal.SIGINT)
            await client.gone()
            await client.close()
            assert await proxy.ended() == 0

    within(scenario())


def test_secrets_come_by_the_environment_and_stay_out_of_the_log() -> None:
    async def scenario() -> None:
        secrets = {
            "PD_PROXY_API_KEY": "k3y-of-clients",
            "PD_PROXY_REGISTRATION_SECRET": "s3cret-of-engines",
        }
        found = ("--discovery", "0")
        async with engines() as options, running(*options, *found, **secrets) as proxy:
            listening = await proxy.line("listening")
            assert listening["discovery"].startswith("tcp://127.0.0.1:")
            client = await connected(listening["url"])
            client.ask(ASKED)
            assert (await client.response()).status == 401
            await client.close()
            client = await connected(listening["url"])
            client.ask(ASKED, extra="Authorization: Bearer k3y-of-clients\r\n")
            assert (await client.response()).status == 200
            await client.close()
            proxy.process.terminate()
            assert await proxy.ended() == 0
            assert "k3y" not in str(proxy.lines)
            assert "s3cret" not in str(proxy.lines)

    within(scenario())


@pytest.mark.parametrize("option", ["--port", "--discovery"])
def test_a_taken_port_is_one_line(option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-c", "from pd_testkit.cli import main; main()", "proxy"]
        command += [*ENGINES, "--port", "0", option, port]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: cannot listen ")
    assert port in done.stderr
    assert "ddress already in use" in done.stderr
    assert done.stderr.count("\n") == 1
