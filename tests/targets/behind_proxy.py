"""A P and a D engine behind the proxy, all real servers on the loopback, for real clients.

The engines are the reference's OpenAI server over a core that counts: P hands each prompt off under
an id of its own, D takes a hand-off once, and generates as many tokens as it is asked for.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from pd_testkit.reference.server import Piece, application
from pd_testkit.targets.loop_thread import LoopThread

MODEL = "m"
TOKEN = "x"
"""One token of `tests.targets.tiny_tokenizer`, also beside others: aiperf counts for itself."""
_SECONDS = 30.0


@dataclass
class Ledger:
    """What P handed off, and what D took, by transfer id."""

    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    handed_off: dict[int, str] = field(default_factory=dict)
    taken: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class _Prefill:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def generate(
        self, prompt: str, *, max_tokens: int, params: Mapping[str, Any] | None
    ) -> AsyncIterator[Piece]:
        if max_tokens != 1:
            self._ledger.problems.append(f"P was asked for {max_tokens} tokens")
        number = next(self._ledger.numbers)
        self._ledger.handed_off[number] = prompt
        yield Piece(
            TOKEN,
            "length",
            {
                "do_remote_prefill": True,
                "do_remote_decode": False,
                "remote_engine_id": "prefill-0",
                "remote_block_ids": [number],
                "remote_host": "127.0.0.1",
                "remote_port": 5600,
            },
        )

    def count(self, prompt: str) -> int:
        return max(1, len(prompt.split()))


class _Decode:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def generate(
        self, prompt: str, *, max_tokens: int, params: Mapping[str, Any] | None
    ) -> AsyncIterator[Piece]:
        number = ((params or {}).get("remote_block_ids") or [0])[0]
        if self._ledger.handed_off.pop(number, None) != prompt:
            self._ledger.problems.append(f"D got {params} for {prompt[:40]!r}")
        self._ledger.taken.append(number)
        for place in range(1, max_tokens + 1):
            yield Piece(TOKEN, "length" if place == max_tokens else None)
            await asyncio.sleep(0)

    def count(self, prompt: str) -> int:
        return max(1, len(prompt.split()))


@contextmanager
def behind_proxy() -> Iterator[tuple[str, Ledger]]:
    """The proxy's URL, and the ledger of the engines behind it.

    Raises:
        RuntimeError: the proxy does not come up.
    """
    ledger = Ledger()
    loop = LoopThread("pd-engines", _SECONDS)
    runners = [
        web.AppRunner(application(core, MODEL), access_log=None)
        for core in (_Prefill(ledger), _Decode(ledger))
    ]

    async def start() -> list[str]:
        for runner in runners:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
        return [f"http://127.0.0.1:{runner.addresses[0][1]}" for runner in runners]

    async def stop() -> None:
        for runner in runners:
            await runner.cleanup()

    try:
        prefill, decode = loop.run(start())
        command = [sys.executable, "-m", "pd_testkit", "proxy", "--port", "0"]
        command += ["--prefill", prefill, "--decode", decode]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as proxy:
            try:
                yield _url_of(proxy), ledger
            finally:
                proxy.terminate()
                loop.run(stop())
    finally:
        loop.close()


def _url_of(proxy: subprocess.Popen[str]) -> str:
    assert proxy.stderr is not None
    for line in proxy.stderr:
        told = json.loads(line)
        if told["event"] == "listening":
            return str(told["url"])
    raise RuntimeError(f"pd-testkit proxy ended with {proxy.wait()}")
