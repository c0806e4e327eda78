"""``pd-testkit bandwidth``: how fast the KV moves from P to D, and whether that can be."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from pd_testkit.bench import client, interrupts, options, recording
from pd_testkit.bench.accuracy.oracle import cpu_engine
from pd_testkit.bench.client import Client, Planned
from pd_testkit.bench.endpoint import Endpoint, Unexpected
from pd_testkit.bench.kv import bandwidth as sums
from pd_testkit.bench.kv import links
from pd_testkit.bench.kv import size as kv_size
from pd_testkit.bench.kv.bandwidth import Sample, Source
from pd_testkit.bench.kv.links import LINKS, Link
from pd_testkit.bench.kv.movement import Counters
from pd_testkit.bench.kv.several import Several, SeveralCommand
from pd_testkit.bench.kv.size import KvShape, NoShape
from pd_testkit.bench.options import Where
from pd_testkit.bench.recording import Recording, progress
from pd_testkit.bench.results import Counted, Request
from pd_testkit.bench.texts import Texts
from pd_testkit.bench.trace.options import TraceWanted, trace, traced

_LINK_NAMES = {name.lower(): name for name in LINKS}
PD, DIRECT = "pd", "direct"
"""Modes of the requests."""


@dataclass(frozen=True)
class _Plan:
    """What is measured, as the options say it."""

    lengths: tuple[int, ...]
    iterations: int
    warm_up: int
    direct: tuple[str, ...]
    link: Link | None
    bytes_per_token: int
    seed: int


@click.command(cls=SeveralCommand)
@options.where()
@click.option(
    "--prompt-lengths",
    "lengths",
    cls=Several,
    default=(100, 500, 1000),
    show_default="100 500 1000",
    help="Tokens of the prompts.",
)
@click.option(
    "--iterations",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Prompts of each length.",
)
@click.option(
    "--warm-up",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="Prompts of each length before, which do not count: handshakes, and pages that are new.",
)
@click.option(
    "--direct",
    multiple=True,
    metavar="URL",
    help="An engine that is asked without P, to know the time of the computation alone. May be "
    "repeated.  [default: the decode engines]",
)
@click.option("--no-direct", is_flag=True, help="Ask none of them.")
@click.option(
    "--link",
    type=click.Choice(list(_LINK_NAMES.values()), case_sensitive=False),
    help="Over which the KV should go.  [default: say which ones fit]",
)
@click.option(
    "--kv-bytes-per-token",
    type=click.IntRange(min=1),
    help="As pd-testkit kv-size says it.  [default: by the model's name, or the kit's engine]",
)
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The model's config.json, for its shape.",
)
@click.option(
    "--kv-dtype",
    type=click.Choice([*kv_size.ITEM_BYTES]),
    help="Of the KV cache, if not the model's.",
)
@click.option(
    "--tp",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Tensor-parallel ranks of a decode engine: what several of them take counts as often.",
)
@options.seed()
@options.output()
@options.label()
@trace()
def bandwidth(
    where: Where,
    lengths: tuple[int, ...],
    iterations: int,
    warm_up: int,
    direct: tuple[str, ...],
    no_direct: bool,
    link: str | None,
    kv_bytes_per_token: int | None,
    config: Path | None,
    kv_dtype: str | None,
    tp: int,
    seed: int,
    output: Path | None,
    label: str,
    trace: TraceWanted | None,
) -> None:
    """Measure how fast the KV moves from prefill to decode.

    Asks for one token of prompts that no cache has, of several lengths, one after another. Nobody
    else should ask the deployment meanwhile. What is calculated, and what it is worth, is in
    docs/bandwidth.md.

    Exit code: 0 measured, 1 measured but no KV moved or all requests failed, 2 could not be, 130
    stopped.
    """
    engines = () if no_direct else direct or where.decode
    told = {
        "prompt_lengths": list(lengths),
        "iterations": iterations,
        "warm_up": warm_up,
        "direct": list(engines),
        "link": link,
        "kv_dtype": kv_dtype,
        "tp": tp,
    }

    async def go() -> int:
        async with options.reached(where) as found:
            ask = (*found.engines.decode, *found.engines.prefill, found.endpoint)[0]
            per_token = kv_bytes_per_token
            if per_token is None:
                shape = await _shape(ask, found.endpoint.model, config)
                per_token = tp * shape.bytes_per_token(kv_dtype or "", tp)
            known = LINKS[link] if link else None
            plan = _Plan(lengths, iterations, warm_up, engines, known, per_token, seed)
            async with recording.begun(
                "bandwidth", found, where, told, seed=seed, label=label, output=output
            ) as run:
                return await _measured(run, plan, trace)

    try:
        sys.exit(interrupts.run(go()))
    except (Unexpected, OSError, NoShape) as problem:
        click.echo(str(problem), err=True)
        sys.exit(2)


async def _shape(engine: Endpoint, model: str, config: Path | None) -> KvShape:
    """Of the model that is served.

    Raises:
        NoShape: nobody knows it.
    """
    if config is not None:
        return kv_size.read(config)
    ours = await cpu_engine(engine)
    if ours is None:
        return kv_size.find(model)
    local = Path(ours.model_path) / "config.json"
    shape = kv_size.read(local) if local.is_file() else kv_size.find(ours.model_path)
    return replace(shape, dtype=ours.dtype)


class _Prober:
    """Asks for prompts, one after another, and sees what the engines count of each."""

    def __init__(self, run: Recording, plan: _Plan) -> None:
        self.samples: list[Sample] = []
        self.warnings: list[str] = []
        self._run = run
        self._plan = plan
        self._texts = Texts.estimated()
        self._order = random.Random(plan.seed)
        # Another run with that seed must not find its prompts in a cache.
        self._draw = random.Random(f"{plan.seed}/{run.run.id}")
        self._over = run.client(run.found.endpoint.url)
        self._direct = [run.client(url) for url in plan.direct]
        self._index = 0

    async def go(self) -> None:
        """
        Raises:
            Unexpected: an engine does not give its metrics.
        """
        found = self._run.found
        direct = [found.at(url, found.endpoint.model) for url in self._plan.direct]
        self._texts = await Texts.of(found.endpoint, *found.engines.decode, *direct)
        if not self._texts.exact:
            told = "prompts have about as many tokens as were asked for"
            self.warnings.append(f"no tokenizer answers: {told}")
        for turn in range(self._plan.warm_up + self._plan.iterations):
            warm_up = turn < self._plan.warm_up
            progress(f"{'warm-up' if warm_up else 'prompts'}: {turn + 1}")
            for tokens in self._order.sample(self._plan.lengths, len(self._plan.lengths)):
                await self._both(tokens, turn, warm_up)

    async def _both(self, tokens: int, turn: int, warm_up: bool) -> None:
        """A prompt over P and D, and another of that length directly; either may be the first."""
        direct = self._direct[turn % len(self._direct)] if self._direct else None
        alone: Request | None = None
        if direct is not None and turn % 2:
            alone = await self._ask(direct, DIRECT, tokens, warm_up)
        over, sides = await self._over_both(tokens, warm_up)
        if direct is not None and alone is None:
            alone = await self._ask(direct, DIRECT, tokens, warm_up)
        if not warm_up:
            self.samples.append(
                Sample(
                    tokens,
                    (over.prompt_tokens or tokens) * self._plan.bytes_per_token,
                    _ttft(over),
                    _ttft(alone),
                    _of_both(sides, "transfer_bytes"),
                    _of_both(sides, "transfer_seconds"),
                    (sides[1].local_hits or 0.0) if sides else 0.0,
                )
            )

    async def _over_both(
        self, tokens: int, warm_up: bool
    ) -> tuple[Request, tuple[Counters, Counters] | None]:
        engines = self._run.found.engines
        if not engines.any:
            return await self._ask(self._over, PD, tokens, warm_up), None
        before = await engines.snapshot()
        seen = await self._ask(self._over, PD, tokens, warm_up)
        after = await engines.settled(before, seen.prompt_tokens or 0)
        sides = after.prefill.since(before.prefill), after.decode.since(before.decode)
        if not warm_up:
            counts = [side.counts() for side in sides]
            self._run.note(
                Counted(
                    began=seen.due,
                    ended=self._over.clock(),
                    prefill=counts[0],
                    decode=counts[1],
                    mode=PD,
                )
            )
        return seen, sides

    async def _ask(self, whom: Client, mode: str, tokens: int, warm_up: bool) -> Request:
        prompt = self._texts.prompt(tokens, self._draw)
        ask = client.completion(self._run.found.endpoint.model, prompt, 1)
        plan = Planned(self._index, ask, prompt_tokens=tokens, warm_up=warm_up, mode=mode)
        self._index += 1
        seen = (await whom.carry_out(plan)).request
        self._run.note(seen)
        return seen


def _ttft(request: Request | None) -> float | None:
    """One token is asked for: where its text is half a character, it is there when all is."""
    if request is None or request.error:
        return None
    return (request.pieces[0] if request.pieces else request.ended) - request.due


def _of_both(sides: tuple[Counters, Counters] | None, name: str) -> float | None:
    """A side that writes counts what it wrote."""
    counted = [getattr(side, name) for side in sides or ()]
    known = [count for count in counted if count is not None]
    return sum(known) if known else None


async def _measured(run: Recording, plan: _Plan, trace: TraceWanted | None) -> int:
    async with traced(run, trace):
        probe = _Prober(run, plan)
        await run.carry_out(probe.go())
    against = sums.not_moved(probe.samples)
    nothing = _nothing_moved(probe.samples)
    warnings = [*([against] if against else []), *probe.warnings]
    failed = [request for request in run.requests if request.error]
    if failed:
        detail = " ".join(failed[0].detail.split())
        warnings.append(f"{len(failed)} requests failed, {failed[0].error} first: {detail}")
    estimates = sums.bandwidths(probe.samples)
    said = sums.verdict(estimates, plan.link, nothing)
    run.end(_summary(probe.samples, plan, estimates, said), tuple(warnings))
    click.echo(_shown(probe.samples, plan, estimates, said))
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    if run.problem:
        click.echo(run.problem, err=True)
    click.echo(f"result: {run.path}")
    answered = any(sample.ttft_s is not None for sample in probe.samples)
    return run.status(failed=nothing or not answered)


def _nothing_moved(samples: Sequence[Sample]) -> bool:
    counted = [sample.moved for sample in samples if sample.moved is not None]
    return bool(counted) and not any(counted)


def _summary(
    samples: Sequence[Sample],
    plan: _Plan,
    estimates: dict[Source, sums.Bandwidth],
    said: str,
) -> dict[str, Any]:
    apparent = estimates.get(Source.DIRECT) or estimates.get(Source.TTFT)
    counted = estimates.get(Source.METRICS)
    return {
        "kv_bytes_per_token": plan.bytes_per_token,
        "points": [point.told() for point in sums.points(samples)],
        "apparent_bytes_per_s": apparent.value if apparent else None,
        "transfer_bytes_per_s": counted.value if counted else None,
        "link": plan.link.name if plan.link else "",
        "verdict": said,
    }


_ABOUT = {
    Source.METRICS: "bytes and seconds that the engines counted",
    Source.DIRECT: "free of the computation, if both engines are equally fast",
    Source.TTFT: "a lower bound, P's computation is in it",
}


def _shown(
    samples: Sequence[Sample],
    plan: _Plan,
    estimates: dict[Source, sums.Bandwidth],
    said: str,
) -> str:
    head = ["tokens", "KV MiB", "TTFT ms", "direct ms", "transfer ms", "transfer"]
    rows = [head] + [
        [
            f"{point.prompt_tokens}",
            f"{point.bytes / 2**20:.2f}",
            _milliseconds(point.ttft_s),
            _milliseconds(point.direct_ttft_s),
            _milliseconds(point.transfer_s),
            links.told(point.bytes_per_s) if point.bytes_per_s else "-",
        ]
        for point in sums.points(samples)
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"KV: {plan.bytes_per_token} B/token; medians of {plan.iterations}"]
    lines += [
        "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    lines += [
        f"{source.value:16}  {estimates[source]}: {_ABOUT[source]}"
        for source in Source
        if source in estimates
    ]
    if plan.link is not None:
        low, high = map(links.told, plan.link.practical)
        practical = high if low == high else f"{low} to {high}"
        theory = f"at most {links.told(plan.link.theoretical)}, " if plan.link.theoretical else ""
        name = plan.link.name
        lines.append(f"{name:16}  {theory}in practice {practical} ({plan.link.about})")
    return "\n".join([*lines, f"verdict: {said}"])


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.2f}"
