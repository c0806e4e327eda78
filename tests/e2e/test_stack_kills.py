"""Whichever process is killed, every request ends, survivors serve on, and no block is lost."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.running import FREE_PORTS, KIT, PATIENCE_S, engine, stack
from tests.kit.stack_plans import alive

REQUESTS = 200
AT_ONCE = 16
KILLED_AFTER = 50
"""Answers; others are under way then."""
REQUEST_S = 30.0
"""For one to end, in an answer or an error."""
CHECKED = 4
"""Of so many answers one is compared with the oracle's."""
PREFILL = "--hold 1 --transfer-timeout 4"
"""Seconds that P keeps KV for a D that does not come, and for one that has come."""


def prompt(run: int, number: int) -> str:
    """From one block to several; no two begin alike."""
    return f"{run}/{number}: " + "who keeps the block that nobody reads? " * (number % 5)


async def answered(session: aiohttp.ClientSession, url: str, asked: str) -> list[int] | str:
    """The answer's tokens, or what is said of an error."""
    body = {"model": "tiny", "prompt": asked, "max_tokens": 6, "temperature": 0}
    try:
        async with session.post(
            f"{url}/v1/completions", json={**body, "return_token_ids": True}
        ) as answer:
            told = await answer.json()
    except (aiohttp.ClientConnectionError, ConnectionError) as broken:
        return f"broken off: {broken!r}"
    if answer.status == 200:
        return list(told["choices"][0]["token_ids"])
    return f"{answer.status}: {told['error']['message']}"


async def asked_all(
    session: aiohttp.ClientSession, url: str, run: int, numbers: range, victim: int | None = None
) -> list[list[int] | str]:
    """What becomes of these requests, `AT_ONCE` of them at once; a victim is killed meanwhile."""
    places, done = asyncio.Semaphore(AT_ONCE), 0

    async def one(number: int) -> list[int] | str:
        nonlocal done
        async with places:
            told = await answered(session, url, prompt(run, number))
        done += 1
        if done == KILLED_AFTER and victim is not None:
            os.kill(victim, signal.SIGKILL)
        return told

    return await asyncio.gather(*map(one, numbers))


async def block_counts(session: aiohttp.ClientSession, url: str) -> dict[str, float]:
    """Free blocks and all blocks of an engine, and its requests that have any."""
    async with session.get(f"{url}/metrics") as answer:
        text = await answer.text()
    names = (
        "pd_engine_free_blocks|pd_engine_blocks|pd_engine_held_requests|vllm:num_requests_running"
    )
    return {n: float(v) for n, v in re.findall(rf"^({names}){{.*}} (\S+)$", text, re.MULTILINE)}


async def all_given_back(session: aiohttp.ClientSession, url: str) -> dict[str, float]:
    """The counts when all blocks are free; the last ones when they do not become so."""
    end = asyncio.get_running_loop().time() + REQUEST_S
    while True:
        counts = await block_counts(session, url)
        free = counts["pd_engine_free_blocks"] == counts["pd_engine_blocks"]
        if free or asyncio.get_running_loop().time() > end:
            return counts
        await asyncio.sleep(0.1)


def unclear(told: list[int] | str) -> bool:
    """Neither an answer nor an error that says what failed."""
    return isinstance(told, str) and not re.match(r"50[0234]: \S+ \S+", told)


async def kill_one_after_the_other(said: dict[str, Any], oracle: str) -> None:
    processes = {process["name"]: process for process in said["processes"]}
    limit = aiohttp.ClientTimeout(total=REQUEST_S)
    async with aiohttp.ClientSession(timeout=limit) as session:
        survivors = ["prefill-0", "prefill-1", "decode-0", "decode-1"]
        for run, name in enumerate(("prefill-1", "decode-1", "router")):
            expected = await asked_all(session, oracle, run, range(0, REQUESTS, CHECKED))
            victim = processes[name]["pid"]
            seen = await asked_all(session, said["url"], run, range(REQUESTS), victim)
            for told, wanted in zip(seen[::CHECKED], expected, strict=True):
                assert isinstance(told, str) or told == wanted
            failed = [told for told in seen if isinstance(told, str)]
            if name == "router":
                assert all(told.startswith("broken off: ") for told in failed)
                assert KILLED_AFTER <= REQUESTS - len(failed) < REQUESTS
            else:
                assert not [told for told in failed if unclear(told)]
                assert len(failed) <= AT_ONCE
                survivors.remove(name)
                again = await answered(session, said["url"], prompt(run, REQUESTS))
                assert again == await answered(session, oracle, prompt(run, REQUESTS))
            for survivor in survivors:
                counts = await all_given_back(session, processes[survivor]["url"])
                left = f"{survivor} after {name} was killed: {counts}"
                assert counts["pd_engine_free_blocks"] == counts["pd_engine_blocks"] > 0, left
                assert counts["pd_engine_held_requests"] == 0, left
                assert counts["vllm:num_requests_running"] == 0, left


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.timeout(4 * PATIENCE_S)
def test_a_killed_process_costs_no_more_than_the_requests_that_it_had(folder: Path) -> None:
    """A prefill engine, then a decode engine, then the router, each during a run of requests."""
    options = ("--prefill", "2", "--decode", "2", "--prefill-args", PREFILL)
    with engine(folder, "oracle", "--role", "both") as oracle, stack(folder, *options) as starting:
        said = starting.ready()
        assert 0 < said["seconds"] < PATIENCE_S
        asyncio.run(kill_one_after_the_other(said, oracle.ready()["url"]))
        told = (folder / "up.log").read_text()
        for name in ("prefill-1", "decode-1", "router"):
            assert f"{name} ended with signal SIGKILL" in told
        assert '  | {"event":"ready"' in told
    assert not any(alive(process["pid"]) for process in said["processes"])


def test_an_engine_that_fails_ends_the_start_with_its_log(folder: Path) -> None:
    command = [*KIT, "up", *FREE_PORTS, "--decode-args", "--num-blocks none", "--name", "failing"]
    ended = subprocess.run(
        [*command, "--log-dir", str(folder / "failing")],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert "  | Error: Invalid value for '--num-blocks': 'none' is not a valid" in ended.stderr
    assert "decode-0 ended with exit status 2" in ended.stderr
    assert "prefill-0: ended" in ended.stderr
