"""``pd-testkit compare``: the same conversations under several modes of routing."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import click

from pd_testkit.bench import interrupts, options
from pd_testkit.bench.endpoint import Unexpected
from pd_testkit.bench.options import Reached, Where
from pd_testkit.bench.recording import Recording, begun, progress
from pd_testkit.bench.texts import Texts
from pd_testkit.bench.trace.options import TraceWanted, trace, traced
from pd_testkit.bench.turns.compare import Comparison, Order, schedule
from pd_testkit.bench.turns.compare import compare as compared
from pd_testkit.bench.turns.compare_table import tables
from pd_testkit.bench.turns.conversation import Form, Lengths, Partner, Stage, script
from pd_testkit.bench.turns.multiturn_command import kv_bytes_per_token as kv_bytes_of
from pd_testkit.bench.turns.multiturn_command import talk
from pd_testkit.bench.turns.routing import NoModes, Routing
from pd_testkit.command_line import Command

MODES = ("pd", "ppd", "adaptive", "aggregated")


def _named(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    named = {}
    for each in given:
        mode, equals, url = each.partition("=")
        if not (mode and equals and url):
            raise click.BadParameter(f"{each!r}; give MODE=URL")
        named[mode] = url
    return named


def _listed(_: click.Context, __: click.Parameter, given: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(mode.strip() for mode in given.split(",") if mode.strip()))


@dataclass(frozen=True)
class _Wanted:
    """What the options say of the comparison."""

    modes: tuple[str, ...]
    endpoints: Mapping[str, str]
    lengths: Lengths
    form: Form
    kv_bytes_per_token: float | None
    repeats: int
    order: Order
    seed: int

    @property
    def routed(self) -> tuple[str, ...]:
        """The modes that the router is switched to."""
        return tuple(mode for mode in self.modes if mode not in self.endpoints)


@click.command(cls=Command)
@options.where(required=False)
@click.option(
    "--modes",
    default="",
    metavar="MODE[,MODE]...",
    callback=_listed,
    help="What the first is compared with.  "
    f"[default: {','.join(MODES)}; or those of --endpoint-of]",
)
@click.option(
    "--endpoint-of",
    "endpoints",
    multiple=True,
    metavar="MODE=URL",
    callback=_named,
    help="A deployment of its own for a mode, which is asked there and not switched to. May be "
    "repeated.",
)
@talk(output_tokens=30)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Conversations that each mode holds, one at a time.",
)
@click.option(
    "--order",
    type=click.Choice(["interleaved", "in-turn"]),
    default="interleaved",
    show_default=True,
    help="A conversation goes through all modes before the next one; or a mode holds all of them.",
)
@options.seed()
@options.output()
@options.label()
@trace()
def compare(
    where: Where,
    modes: tuple[str, ...],
    endpoints: Mapping[str, str],
    turns: int,
    input_tokens: int,
    output_tokens: int,
    form: Form,
    kv_bytes_per_token: float | None,
    repeats: int,
    order: Order,
    seed: int,
    output: Path | None,
    label: str,
    trace: TraceWanted | None,
) -> None:
    """The same conversations under several modes of routing, and whether they differ.

    The modes are those of pd-testkit proxy, which is told of each before its conversations and gets
    its old one back at the end; or deployments that run side by side (--endpoint-of). Each mode
    holds one conversation before any is measured. Asks nothing else of the deployment meanwhile:
    others' requests would be counted as well.

    Exit code: 0 if it was measured, 1 if a mode held no conversation to its end, 2 if it could not
    be measured, 130 if stopped.
    """
    where = replace(where, endpoint=where.endpoint or next(iter(endpoints.values()), ""))
    if not where.endpoint:
        raise click.UsageError("which router? Give --endpoint, or --endpoint-of for each mode")
    modes = modes or tuple(endpoints) or MODES
    if len(modes) < 2:
        raise click.UsageError("to compare takes two modes or more: --modes pd,ppd")
    if unknown := [mode for mode in endpoints if mode not in modes]:
        raise click.UsageError(f"--endpoint-of {unknown[0]}: that is none of {', '.join(modes)}")
    lengths = Lengths(turns, input_tokens, output_tokens)
    wanted = _Wanted(modes, endpoints, lengths, form, kv_bytes_per_token, repeats, order, seed)
    try:
        status = interrupts.run(_measured(where, wanted, output, label, trace))
    except (NoModes, Unexpected, OSError) as problem:
        click.echo(str(problem), err=True)
        status = 2
    sys.exit(status)


async def _measured(
    where: Where,
    wanted: _Wanted,
    output: Path | None,
    label: str,
    trace: TraceWanted | None,
) -> int:
    """The exit status."""
    configuration = {
        **wanted.lengths.told(),
        "format": wanted.form,
        "modes": wanted.modes,
        "endpoint_of": wanted.endpoints,
        "repeats": wanted.repeats,
        "order": wanted.order,
    }
    seed = wanted.seed
    async with AsyncExitStack() as stack:
        found = await stack.enter_async_context(options.reached(where))
        await found.engines.snapshot()
        models = await _models(found, wanted)
        if wanted.routed:
            await Routing(found.endpoint).mode(wanted.routed)
        recording = await stack.enter_async_context(
            begun("compare", found, where, configuration, seed=seed, label=label, output=output)
        )
        async with traced(recording, trace):
            await recording.carry_out(_hold(recording, models, wanted))
        result = compared(
            wanted.modes,
            wanted.lengths.turns,
            recording.requests,
            recording.counted,
            seed,
            kv_bytes_of(wanted.kv_bytes_per_token, recording),
        )
        recording.end(result.told())
    _show(recording, result, wanted)
    held = {each.mode for each in result.modes if each.whole}
    return recording.status(failed=held != set(wanted.modes))


async def _hold(recording: Recording, models: Mapping[str, str], wanted: _Wanted) -> None:
    """All conversations.

    Args:
        models: as each mode's endpoint calls it.
    """
    found, seed = recording.found, wanted.seed
    routing = Routing(found.endpoint)
    stage = Stage(found.engines, wanted.form, wanted.lengths.output_tokens, recording.note)
    partners = {
        mode: Partner(recording.client(wanted.endpoints.get(mode, found.endpoint.url)), model)
        for mode, model in models.items()
    }

    async def hold(mode: str, number: int, *, warm_up: bool = False) -> None:
        kind = "warm-up" if warm_up else "measured"
        words = random.Random(f"{seed}/{kind}/{number}")
        nonce = random.Random(f"{recording.run.id}/{kind}/{number}/{mode}")
        said = script(texts, wanted.lengths, words, nonce)
        if mode in wanted.routed:
            await routing.switch(mode)
        await stage.play(partners[mode], [said], mode=mode, first=number, warm_up=warm_up)

    async with AsyncExitStack() as borrowed:
        if wanted.routed:
            await borrowed.enter_async_context(routing.borrowed(wanted.routed))
        texts = await Texts.of(found.endpoint, *found.engines.prefill, *found.engines.decode)
        for mode in wanted.modes:
            progress(f"{mode}: warm-up")
            await hold(mode, 0, warm_up=True)
        for mode, number in schedule(wanted.modes, wanted.repeats, wanted.order, seed):
            progress(f"{mode}: conversation {number + 1} of {wanted.repeats}")
            await hold(mode, number)


async def _models(found: Reached, wanted: _Wanted) -> dict[str, str]:
    """What each mode's endpoint calls the model.

    Raises:
        Unexpected: it cannot be reached, or serves none.
    """
    models = dict.fromkeys(wanted.modes, found.endpoint.model)
    for mode, url in wanted.endpoints.items():
        if url != found.endpoint.url:
            models[mode] = await options.first_model(found.at(url))
    return models


def _show(recording: Recording, found: Comparison, wanted: _Wanted) -> None:
    if found.modes:
        click.echo("\n".join(tables(found, routed=not wanted.endpoints)))
    for problem in {f"{each.error}: {each.detail}" for each in recording.requests if each.error}:
        click.echo(f"failed: {problem}", err=True)
    if recording.problem:
        click.echo(recording.problem, err=True)
    click.echo(f"{recording.path}")
