"""Is the proxy's mode `adaptive` ever much worse than the better one of `pd` and `ppd`?

    python benchmarks/adaptive.py [--profile a100] [--seeds 2] [--check]
    python benchmarks/adaptive.py --real

Simulated, on a virtual clock (`simulated_stack`): the proxy's own router before P and D engines
that take an A100's or an H100's time with Llama-3.1-8B. The grid: P and D engines; tokens that each
of 5 turns adds to a conversation's prompt (``mixed``: each turn another number); bandwidth from P
to D; conversations at once, each with answers of 64 tokens and half a second until its next turn.
All modes get the same conversations. Each figure is a mean over all turns of all seeds, and a ratio
is that of adaptive to the smaller one of the others': below 1 it is the best of the three.

The bound is one on the mean latency from end to end. For the mean time to first token there is
none: `pd` and `ppd` trade one for the other, and the mode looks to the former.

``--real``: a part of the grid on the CPU engine: ``pd-testkit up`` with ``--timing`` of a machine
eight times as slow as an A100, so that what this machine needs itself counts for little; beside
what the simulation says of the same. To be seen in kind: a ratio is of one or two dozen turns.

``--check`` exits with 1 if a simulated ratio of latencies is above 1.1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import count, product
from pathlib import Path
from typing import NamedTuple

import aiohttp
from simulated_stack import Ask, Deployment, Ended, Simulation, Workload, asks

from pd_testkit.bench.client import Client, Planned, completion
from pd_testkit.bench.measures import timing
from pd_testkit.engine.timing import PROFILES, Profile

MODES = ("pd", "ppd", "adaptive")
BOUND = 1.1
MIXED = (32, 128, 512, 2048)
DEPLOYMENTS = ((1, 1), (3, 1), (1, 2))
TOKENS = ((32,), (128,), (512,), (2048,), MIXED)
BANDWIDTHS = (0.1e9, 1e9, 10e9, 50e9)
CLIENTS = (1, 4, 16)

SLOWER = 8
REAL_TOKENS = ((32,), (256,))
REAL_BANDWIDTHS = (0.0125e9, 1.25e9)
"""An eighth of 0.1 and of 10 GB/s."""
REAL_CLIENTS = (1, 6)


class Means(NamedTuple):
    """Of one mode; seconds."""

    ttft_s: float
    e2e_s: float
    direct: float | None
    """The share of turns that went straight to D; None where nobody tells."""


def means(turns: Sequence[Ended]) -> Means:
    return Means(
        statistics.mean(turn.ttft_s for turn in turns),
        statistics.mean(turn.e2e_s for turn in turns),
        sum(turn.kind == "direct" for turn in turns) / len(turns) if turns[0].kind else None,
    )


@dataclass(frozen=True)
class Cell:
    """One cell of the grid."""

    deployment: Deployment
    workload: Workload
    seeds: int = 1

    def __str__(self) -> str:
        tokens = self.workload.tokens
        return (
            f"{self.deployment.prefill}P{self.deployment.decode}D "
            f"{'mixed' if len(tokens) > 1 else tokens[0]:>5} "
            f"{self.deployment.profile.bandwidth / 1e9:6g} {self.workload.clients:3}"
        )

    def simulated(self, mode: str) -> Means:
        runs = (
            Simulation(self.deployment, replace(self.workload, seed=seed), mode).run()
            for seed in range(self.seeds)
        )
        return means([turn for run in runs for turn in run])


class Row(NamedTuple):
    """A cell, measured under each of `MODES`."""

    cell: Cell
    modes: tuple[Means, ...]

    @property
    def ttft(self) -> float:
        """Adaptive to the better one of the others."""
        *others, adaptive = self.modes
        return adaptive.ttft_s / min(other.ttft_s for other in others)

    @property
    def e2e(self) -> float:
        return self.against_better()[-1]

    def against_better(self) -> list[float]:
        """Each mode's latency to that of the better one of `pd` and `ppd`."""
        better = min(mode.e2e_s for mode in self.modes[:-1])
        return [mode.e2e_s / better for mode in self.modes]

    def __str__(self) -> str:
        times = " | ".join(f"{m.ttft_s * 1e3:7.0f} {m.e2e_s * 1e3:7.0f}" for m in self.modes)
        direct = self.modes[-1].direct
        share = "" if direct is None else f"{direct:.0%}"
        return f"{self.cell} | {times} | {share:>6} | {self.ttft:5.2f} {self.e2e:5.2f}"


HEAD = (
    f"{'':4} {'':5} {'':6} {'':3} | "
    + " | ".join(f"{mode + ': TTFT, E2E':>15}" for mode in ("pd", "ppd", "adapt."))
    + " | direct | adaptive / best\n"
    + f"{'':4} {'new':>5} {'GB/s':>6} {'at':>3} | {'ms':>15} | {'ms':>15} | {'ms':>15} | "
    + f"{'':6} | {'TTFT':>5} {'E2E':>5}"
)


def row_of(cell: Cell) -> Row:
    return Row(cell, tuple(cell.simulated(mode) for mode in MODES))


def grid(profile: Profile, seeds: int) -> Iterator[Cell]:
    axes = product(DEPLOYMENTS, TOKENS, BANDWIDTHS, CLIENTS)
    for (prefill, decode), tokens, bandwidth, clients in axes:
        deployment = Deployment(replace(profile, bandwidth=bandwidth), prefill, decode)
        yield Cell(deployment, Workload(clients, tokens), seeds)


def summary(rows: Sequence[Row]) -> str:
    """The worst of each bandwidth and load: each mode to the better one of `pd` and `ppd`."""
    lines = [
        "\nE2E of each mode / the better one of pd and ppd: the worst over lengths and engines"
    ]
    lines += [f"{'GB/s':>6} {'at':>3} | {'pd':>6} {'ppd':>6} {'adaptive':>8}"]
    for bandwidth, clients in product(BANDWIDTHS, CLIENTS):
        found = [
            row.against_better()
            for row in rows
            if row.cell.deployment.profile.bandwidth == bandwidth
            and row.cell.workload.clients == clients
        ]
        pd, ppd, adaptive = (max(ratios) for ratios in zip(*found, strict=True))
        lines.append(f"{bandwidth / 1e9:6g} {clients:3} | {pd:6.2f} {ppd:6.2f} {adaptive:8.2f}")
    for name, ratios in (("E2E", [r.e2e for r in rows]), ("TTFT", [r.ttft for r in rows])):
        lines.append(
            f"{name}: adaptive / better one: mean {statistics.mean(ratios):.2f}, worst "
            f"{max(ratios):.2f}, best {min(ratios):.2f}; {len(ratios)} cells"
        )
    return "\n".join(lines)


# -- on the CPU engine


def real_cells(bandwidth: float) -> list[Cell]:
    fast = PROFILES["a100"]
    slow = replace(
        fast,
        base_s=fast.base_s * SLOWER,
        prompt_token_s=fast.prompt_token_s * SLOWER,
        inter_token_s=fast.inter_token_s * SLOWER,
        latency_s=fast.latency_s * SLOWER,
        bandwidth=bandwidth,
    )
    return [
        Cell(Deployment(slow), Workload(clients, tokens, turns=4, answer=8, conversations=1))
        for tokens, clients in product(REAL_TOKENS, REAL_CLIENTS)
    ]


async def measured(cells: Sequence[Cell]) -> list[list[list[Ended]]]:
    """By cell and mode, against the stack of the environment."""
    url, model = os.environ["PD_ENDPOINT"], os.environ["PD_MODEL"]
    salts = count(1)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session:
        client = Client(session, url)

        async def under(mode: str, workload: Workload) -> list[Ended]:
            async with session.post(f"{url}/mode/{mode}") as answer:
                answer.raise_for_status()
            salt = next(salts)
            users = [asks(workload, user, salt) for user in range(workload.clients)]
            ended = await asyncio.gather(*map(converse, users))
            return [turn for each in ended for turn in each]

        async def converse(user: Iterator[Ask]) -> list[Ended]:
            ended = []
            for index, ask in enumerate(user):
                await asyncio.sleep(ask.think_s)
                wanted = completion(model, ask.prompt, ask.answer)
                request, _ = await client.carry_out(Planned(index, wanted))
                if request.error:
                    raise SystemExit(f"{request.error}: {request.detail}")
                times = timing(request)
                assert times.ttft is not None
                ended.append(Ended("", times.ttft, times.e2e))
            return ended

        return [[await under(mode, cell.workload) for mode in MODES] for cell in cells]


def on_the_engine(bandwidth: float) -> list[Row]:
    """The cells with that bandwidth, on a stack that is brought up for them."""
    cells = real_cells(bandwidth)
    profile = cells[0].deployment.profile
    up = [
        str(Path(sys.executable).parent / "pd-testkit"),
        "up",
        "--name",
        f"adaptive-{os.getpid()}",
    ]
    for port in ("router", "prefill", "decode", "prefill-side", "decode-side", "discovery"):
        up += [f"--{port}-port", "0"]
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write("".join(f"{name} = {value}\n" for name, value in asdict(profile).items()))
        file.flush()
        for leg in ("prefill", "decode"):
            up += [f"--{leg}-args", f"--timing {file.name}"]
        here = [sys.executable, __file__, "--measure", str(bandwidth)]
        done = subprocess.run(
            [*up, "--then", shlex.join(here)], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise SystemExit(done.stderr.strip())
    told = json.loads(done.stdout.splitlines()[-1])
    return [
        Row(cell, tuple(means([Ended(*turn) for turn in turns]) for turns in modes))
        for cell, modes in zip(cells, told, strict=True)
    ]


def compare_in_kind() -> None:
    print("on the CPU engine, and the ratios that the simulation has for the same")
    print(HEAD)
    for bandwidth in REAL_BANDWIDTHS:
        for row in on_the_engine(bandwidth):
            alike = row_of(replace(row.cell, seeds=1))
            print(f"{row} | simulated {alike.ttft:5.2f} {alike.e2e:5.2f}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", choices=PROFILES, default="a100")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--check", action="store_true", help=f"fail above {BOUND}")
    parser.add_argument("--real", action="store_true", help="on the CPU engine")
    parser.add_argument("--measure", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(asyncio.run(measured(real_cells(options.measure)))))
        return 0
    if options.real:
        compare_in_kind()
        return 0
    print(f"simulated: {options.profile}, seeds 0 to {options.seeds - 1}")
    print(HEAD)
    rows = []
    with ProcessPoolExecutor() as pool:
        for row in pool.map(row_of, grid(PROFILES[options.profile], options.seeds)):
            print(row, flush=True)
            rows.append(row)
    print(summary(rows))
    return int(options.check and max(row.e2e for row in rows) > BOUND)


if __name__ == "__main__":
    raise SystemExit(main())
