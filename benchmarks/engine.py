"""What a token of the CPU engine's tiny model costs: in the model, in the core, and over HTTP.

    python benchmarks/engine.py [--rounds 5] [--tokens 100] [--check]

Contexts begin at 200 tokens; 1 answer at a time, and 16 together. Milliseconds per token, from each
answer's first token on: of the clock, the rounds' median and the least round; and of the processor
time of the process that computes, the rounds' median.

Other work on the machine makes all of them longer. So there are ratios of processor times, each
taken within a round, of one answer at a time: the model's step by the pass over the same context
that has no cache; the core's by the model's; that over HTTP by the core's. ``--check`` exits with 1
if one is above its limit.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as the engine's process has it, for NumPy

import numpy as np
import torch

from pd_testkit.engine.attention import Batch
from pd_testkit.engine.core import EngineCore
from pd_testkit.engine.generation import Generation, Sampling
from pd_testkit.engine.memory import keep_freed
from pd_testkit.engine.model import Decoder
from pd_testkit.engine.monolith import Monolith
from pd_testkit.engine.settings import Settings
from pd_testkit.engine.shape import SHAPES
from pd_testkit.engine.tokenizer import Bytes

CONTEXT = 200
TOGETHER = (1, 16)
SHAPE = SHAPES["tiny"]
TICK_S = 1 / os.sysconf("SC_CLK_TCK")

LIMITS = {"model": 0.25, "core": 3.0, "HTTP": 2.0}
"""Of the ratios."""


@dataclass
class Row:
    """One way to have tokens; milliseconds per token, one of each round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, wall_s: float, cpu_s: float, tokens: int) -> None:
        self.wall.append(wall_s / tokens * 1e3)
        self.cpu.append(cpu_s / tokens * 1e3)


def prompt(index: int) -> list[int]:
    """Unlike the others from its first block on, so that nothing is found in the prefix cache."""
    return [32 + (index * 89 + at * 7 + index // 90 * 31 + at // 16) % 95 for at in range(CONTEXT)]


def timed(row: Row, count: int, action: Callable[[], object]) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        action()
    row.add(time.perf_counter() - wall, time.process_time() - cpu, count)


def model_step(decoder: Decoder) -> Callable[[], object]:
    """One token of the model by itself."""
    size = (16, Settings().block_size, SHAPE.kv_heads, SHAPE.cache_dim)
    names = [f"{layer}.{kind}" for layer in range(SHAPE.layers) for kind in "kv"]
    caches = [{name: np.ones(size) for name in names}]
    batch = Batch([[65]], [CONTEXT], [list(range(16))], [True])
    return lambda: decoder.forward(batch, caches)


async def follow(
    row: Row, answers: Sequence[AsyncIterator[object]], cpu: Callable[[], float]
) -> None:
    """All answers to their ends, from when each of them has its first token."""
    await asyncio.gather(*map(anext, answers))
    wall, used = time.perf_counter(), cpu()
    tokens = await asyncio.gather(*map(count, answers))
    row.add(time.perf_counter() - wall, cpu() - used, sum(tokens))


async def count(answer: AsyncIterator[object]) -> int:
    return sum([1 async for _ in answer])


class Core:
    """The engine's core in this process."""

    def __init__(self, core: EngineCore) -> None:
        self._core = core
        self._asked = 0

    async def measure(self, row: Row, together: int, tokens: int) -> None:
        answers = [self._answer(tokens) for _ in range(together)]
        await follow(row, answers, time.process_time)

    def _answer(self, tokens: int) -> AsyncIterator[object]:
        self._asked += 1
        sampling = Sampling(max_tokens=tokens, ignore_eos=True)
        name = f"r{self._asked}"
        return self._core.generate(Generation(name, tuple(prompt(self._asked)), sampling))


class Served:
    """An engine in a process of its own."""

    def __init__(self, url: str, pid: int) -> None:
        self._host, port = url.removeprefix("http://").split(":")
        self._port = int(port)
        self._stat = Path(f"/proc/{pid}/stat")
        self._asked = 0

    async def measure(self, row: Row, together: int, tokens: int) -> None:
        answers = [self._answer(tokens) for _ in range(together)]
        await follow(row, answers, self._cpu_s)

    async def _answer(self, tokens: int) -> AsyncIterator[object]:
        self._asked += 1
        asked = {"prompt": prompt(self._asked), "max_tokens": tokens, "temperature": 0}
        body = json.dumps({**asked, "ignore_eos": True, "stream": True}).encode()
        reader, writer = await asyncio.open_connection(self._host, self._port)
        head = "POST /v1/completions HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        try:
            while (line := await reader.readline()) and b"[DONE]" not in line:
                if line.startswith(b"data: "):
                    yield line
        finally:
            writer.close()
            await writer.wait_closed()

    def _cpu_s(self) -> float:
        fields = self._stat.read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) * TICK_S


@contextlib.contextmanager
def served() -> Iterator[tuple[Served, float]]:
    """And the seconds that it took to start."""
    command = [sys.executable, "-c", "from pd_testkit.cli import main; main()", "engine"]
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        ready = json.loads(process.stdout.readline() or "{}")
        if "url" not in ready:
            raise SystemExit("the engine does not start")
        yield Served(ready["url"], process.pid), time.monotonic() - began
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()


async def measure(rounds: int, tokens: int) -> tuple[dict[str, Row], dict[str, float], float]:
    anew, rows = Row(), {"model, 1": Row()}
    rows |= {f"{where}, {many}": Row() for where in ("core", "HTTP") for many in TOGETHER}
    decoder, monolith = Decoder(SHAPE, seed=0), Monolith(SHAPE, seed=0)
    core, step = EngineCore(Settings(), decoder, Bytes()), model_step(decoder)
    with served() as (engine, start_s):
        core.start()
        try:
            ours = Core(core)
            for way in (ours, engine):
                await way.measure(Row(), max(TOGETHER), 4)  # warm
            for _ in range(rounds):
                timed(anew, max(1, tokens // 10), lambda: monolith.logits(prompt(0)))
                timed(rows["model, 1"], tokens, step)
                for where, way in (("core", ours), ("HTTP", engine)):
                    for many in TOGETHER:
                        await way.measure(rows[f"{where}, {many}"], many, tokens)
        finally:
            core.close()
    ratios = {
        "model": _ratio(rows["model, 1"].cpu, anew.cpu),
        "core": _ratio(rows["core, 1"].cpu, rows["model, 1"].cpu),
        "HTTP": _ratio(rows["HTTP, 1"].cpu, rows["core, 1"].cpu),
    }
    return rows, ratios, start_s


def _ratio(ones: Sequence[float], others: Sequence[float]) -> float:
    return statistics.median(one / other for one, other in zip(ones, others, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=100, help="of each answer")
    parser.add_argument("--check", action="store_true", help="exit with 1 above a limit")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed()
    rows, ratios, start_s = asyncio.run(measure(options.rounds, options.tokens))
    print(f"{'ms per token':12}{'median':>10}{'least':>10}{'CPU':>10}")
    for name, row in rows.items():
        told = (statistics.median(row.wall), min(row.wall), statistics.median(row.cpu))
        print(f"{name:12}" + "".join(f"{value:10.3f}" for value in told))
    print(f"the engine's start: {start_s:.1f} s")
    told_by = {"model": "a pass without a cache", "core": "the model", "HTTP": "the core"}
    for name, ratio in ratios.items():
        print(f"CPU of {name} by {told_by[name]}: {ratio:.2f} (limit {LIMITS[name]:g})")
    above = [name for name, ratio in ratios.items() if ratio > LIMITS[name]]
    for name in above:
        print(f"above its limit: {name}")
    return int(options.check and bool(above))


if __name__ == "__main__":
    sys.exit(main())
