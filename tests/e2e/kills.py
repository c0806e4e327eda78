"""Processes of a deployment are killed while requests are under way; engines start again."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from pd_testkit.bench.accuracy import check
from pd_testkit.bench.accuracy.command import CHECKS
from pd_testkit.bench.answers import error_message
from pd_testkit.bench.endpoint import Endpoint
from pd_testkit.bench.kv.movement import Engines, read
from pd_testkit.stack import leash
from tests.e2e.running import PATIENCE_S, started

REQUESTS = 200
AT_ONCE = 16
KILLED_AFTER = 50
"""Answers; others are under way then."""
REQUEST_S = 30.0
"""For one to end, in an answer or an error."""
CHECKED = 4
"""Of so many answers one is compared with the oracle's."""
BLOCK = 16
"""Tokens."""
LOOK_S = 0.2
_CLEAR = r"50[0234]: \S+ \S+"
"""An error that says what failed."""

Told = list[Any] | str
"""The answer's tokens, or what is said of an error."""


@dataclass(frozen=True)
class Server:
    """A process that leads a group of its own, and what starts it again."""

    role: str
    url: str
    pid: int
    command: tuple[str, ...]
    environment: Mapping[str, str]

    @classmethod
    def of_stack(cls, process: Mapping[str, Any]) -> Server:
        """One of those that ``pd-testkit up --json`` tells of, by what its leash was told to run:
        its own line in ``/proc`` may be a title by now."""
        parent = Path(f"/proc/{process['pid']}/stat").read_text().rpartition(")")[2].split()[1]
        words, variables = (
            Path(f"/proc/{parent}/{name}").read_text().removesuffix("\0").split("\0")
            for name in ("cmdline", "environ")
        )
        environment = {name: value for name, _, value in (v.partition("=") for v in variables)}
        # After the leash's file there are its line's number and its patience.
        command = words[words.index(leash.__file__) + 3 :]
        return cls(process["role"], process["url"], process["pid"], tuple(command), environment)

    def kill(self) -> None:
        """All of the group, at once."""
        os.killpg(self.pid, signal.SIGKILL)


@dataclass(frozen=True)
class Bed:
    """A deployment, and an engine that does both legs: the oracle.

    Attributes:
        url: the router's.
        servers: by name.
        oracle: its URL.
        folder: for the logs of engines that start again.
        start_s: seconds that an engine may take to start.
        request_s: to end, in an answer or an error.
        kits: they are the kit's: the engines count their blocks, and the router's errors say what
            failed.
        counts: the engines count what moves.
    """

    url: str
    servers: Mapping[str, Server]
    oracle: str
    folder: Path
    model: str = "tiny"
    start_s: float = PATIENCE_S
    request_s: float = REQUEST_S
    kits: bool = True
    counts: bool = True

    @property
    def engines(self) -> list[Server]:
        return [server for server in self.servers.values() if server.role != "router"]

    def urls(self, role: str) -> list[str]:
        return [server.url for server in self.engines if server.role == role]


def of_stack(ready: Mapping[str, Any], oracle: str, folder: Path, **more: Any) -> Bed:
    """The stack that ``pd-testkit up --json`` tells of."""
    servers = {process["name"]: Server.of_stack(process) for process in ready["processes"]}
    return Bed(ready["url"], servers, oracle, folder, model=ready["model"], **more)


def prompt(run: int, number: int) -> str:
    """From one block to several; no two begin alike."""
    return f"{run}/{number}: " + "who keeps the block that nobody reads? " * (number % 5)


async def answered(
    session: aiohttp.ClientSession, url: str, asked: str, model: str = "tiny"
) -> Told:
    """What becomes of one request. Tokens by their ids, where they are told."""
    body = {"model": model, "prompt": asked, "max_tokens": 6, "temperature": 0}
    try:
        async with session.post(
            f"{url}/v1/completions", json={**body, "return_token_ids": True}
        ) as answer:
            if answer.status != 200:
                told = await answer.read()
                return f"{answer.status}: {error_message(told) or told!r}"
            choice = (await answer.json())["choices"][0]
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError) as broken:
        return f"broken off: {broken!r}"
    return list(choice.get("token_ids") or [choice["text"]])


async def asked_all(
    session: aiohttp.ClientSession,
    url: str,
    run: int,
    numbers: range,
    kill: Callable[[], None] | None = None,
    model: str = "tiny",
) -> list[Told]:
    """What becomes of these requests, `AT_ONCE` of them at once; something is killed meanwhile."""
    places, done = asyncio.Semaphore(AT_ONCE), 0

    async def one(number: int) -> Told:
        nonlocal done
        async with places:
            told = await answered(session, url, prompt(run, number), model)
        done += 1
        if done == KILLED_AFTER and kill is not None:
            kill()
        return told

    return await asyncio.gather(*map(one, numbers))


async def block_counts(session: aiohttp.ClientSession, url: str) -> dict[str, float]:
    """Free blocks and all blocks of an engine, their share in use, and its requests that have any;
    what it does not count is not there."""
    async with session.get(f"{url}/metrics") as answer:
        text = await answer.text()
    names = (
        "pd_engine_free_blocks|pd_engine_blocks|pd_engine_held_requests|vllm:num_requests_running|"
        "vllm:kv_cache_usage_perc"
    )
    return {n: float(v) for n, v in re.findall(rf"^({names}){{.*}} (\S+)$", text, re.MULTILINE)}


def taken(counts: Mapping[str, float]) -> dict[str, float]:
    """Those of the counts that show that not all is free."""
    free = {"pd_engine_blocks", "pd_engine_free_blocks"}
    found = {name: count for name, count in counts.items() if count and name not in free}
    if counts.get("pd_engine_free_blocks") != counts.get("pd_engine_blocks"):
        found |= {name: counts[name] for name in free}
    return found


async def all_given_back(
    session: aiohttp.ClientSession, url: str, seconds: float = REQUEST_S, model: str = ""
) -> dict[str, float]:
    """The counts when all blocks are free; the last ones when they do not become so.

    Args:
        model: that is asked meanwhile: a real engine that has nothing to do takes no step, and
            counts nothing.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while True:
        if model:
            await answered(session, url, "and now?", model)
        counts = await block_counts(session, url)
        if not taken(counts) or loop.time() > end:
            return counts
        await asyncio.sleep(LOOK_S)


def kill_one_after_the_other(bed: Bed, *names: str) -> None:
    """Each during a run of requests, in which an engine starts again.

    Every request ends; answers are as the oracle's; the others serve on, and have all blocks back;
    who has started again serves, and its KV moves.
    """
    with ExitStack() as again:
        asyncio.run(_Kills(bed, again).all(names))


class _Kills:
    def __init__(self, bed: Bed, again: ExitStack) -> None:
        self._bed = bed
        self._again = again
        self._session: aiohttp.ClientSession

    async def all(self, names: tuple[str, ...]) -> None:
        limit = aiohttp.ClientTimeout(total=self._bed.request_s)
        async with aiohttp.ClientSession(timeout=limit) as self._session:
            for run, name in enumerate(names):
                server = self._bed.servers[name]
                await self._killed(run, server)
                await self._given_back([each for each in self._bed.engines if each is not server])
                if server.role != "router":
                    await self._serves_again(run, server)
                    await self._given_back(self._bed.engines)

    async def _asked(self, url: str, run: int, numbers: range, **more: Any) -> list[Told]:
        return await asked_all(self._session, url, run, numbers, model=self._bed.model, **more)

    async def _killed(self, run: int, server: Server) -> None:
        bed = self._bed

        def kill() -> None:
            server.kill()
            if server.role != "router":
                log = bed.folder / f"{server.role}-again-{run}.log"
                self._again.enter_context(started(server.command, server.environment, log))

        expected = await self._asked(bed.oracle, run, range(0, REQUESTS, CHECKED))
        seen = await self._asked(bed.url, run, range(REQUESTS), kill=kill)
        for told, wanted in zip(seen[::CHECKED], expected, strict=True):
            assert isinstance(told, str) or told == wanted
        failed = [told for told in seen if isinstance(told, str)]
        assert REQUESTS - len(failed) >= KILLED_AFTER
        last = range(REQUESTS, REQUESTS + 1)
        wanted = await self._asked(bed.oracle, run, last)
        if server.role == "router":
            assert failed
            assert all(told.startswith("broken off: ") for told in failed)
            return
        assert not bed.kits or all(re.match(_CLEAR, told) for told in failed), failed
        if len(bed.urls(server.role)) > 1:
            assert len(failed) <= AT_ONCE, failed
            assert await self._asked(bed.url, run, last) == wanted
        else:
            assert failed, f"nobody noticed that the only {server.role} engine was killed"
            for other in bed.engines:
                if other is not server:
                    assert await self._asked(other.url, run, last) == wanted, other.role

    async def _given_back(self, engines: list[Server]) -> None:
        bed = self._bed
        for engine in engines:
            asked = "" if bed.kits else bed.model
            counts = await all_given_back(self._session, engine.url, bed.request_s, asked)
            assert not taken(counts), f"{engine.role} at {engine.url}: {counts}"
            assert counts or not bed.counts
            assert counts.get("pd_engine_blocks") or not bed.kits

    async def _serves_again(self, run: int, server: Server) -> None:
        """Soon: the router has to notice, and who meets it anew may lose a request (HSK-036)."""
        bed, loop = self._bed, asyncio.get_running_loop()
        end, numbers = loop.time() + bed.start_s, range(REQUESTS, REQUESTS)
        missing: Any = "it does not answer"
        while True:
            if await self._get(server, "/health") is not None:
                numbers = range(numbers.stop, numbers.stop + AT_ONCE)
                told = await self._asked(bed.url, run, numbers)
                missing = [each for each in told if isinstance(each, str)]
                if not missing and await self._has_served(server):
                    assert told == await self._asked(bed.oracle, run, numbers)
                    missing = await self._not_moved(run * 10_000 + numbers.stop)
                    if missing is None:
                        return
            assert loop.time() < end, f"{server.role} at {server.url}: {missing or 'no request'}"
            await asyncio.sleep(LOOK_S)

    async def _not_moved(self, seed: int) -> check.Result | None:
        """What shows that prompts' KV did not come from P; None: it did, or nobody counts it.

        Args:
            seed: a new one each time, as what D has cached does not move again.
        """
        bed, session = self._bed, self._session
        if not bed.counts:
            return None
        engines = ([Endpoint(session, u) for u in bed.urls(r)] for r in ("prefill", "decode"))
        deployment = check.Deployment(
            Endpoint(session, bed.url, bed.model),
            engines=Engines(*engines),
            block_sizes=(BLOCK,),
            seed=seed,
        )
        (result,) = [each async for each in check.run([CHECKS["kv-moved"]], deployment)]
        return None if result.outcome is check.Outcome.KEPT else result

    async def _has_served(self, server: Server) -> bool:
        """It has counted from 0 since it started again; a D what came from P."""
        if not self._bed.counts:
            return True
        counters = read([await self._get(server, "/metrics") or ""])
        if server.role == "decode":
            return bool(counters.external_hits) and counters.transfer_bytes != 0
        return bool(counters.prompt_tokens)

    async def _get(self, server: Server, path: str) -> str | None:
        """None: nobody answers there."""
        try:
            async with self._session.get(server.url + path) as answer:
                return await answer.text() if answer.status == 200 else None
        except aiohttp.ClientConnectionError:
            return None
