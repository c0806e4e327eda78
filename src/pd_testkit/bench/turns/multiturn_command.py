"""``pd-testkit multiturn``: what each turn of a conversation costs."""

from __future__ import annotations

import random
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import click

from pd_testkit.bench import interrupts, options
from pd_testkit.bench.endpoint import Unexpected
from pd_testkit.bench.kv.size import NoShape, find
from pd_testkit.bench.options import Decorator, Where
from pd_testkit.bench.recording import Recording, begun
from pd_testkit.bench.texts import Texts
from pd_testkit.bench.trace.options import TraceWanted, trace, traced
from pd_testkit.bench.turns.conversation import Form, Lengths, Partner, Stage, script
from pd_testkit.bench.turns.table import percent, table
from pd_testkit.bench.turns.turns import Movement, Turn, measured_kv_bytes, turns
from pd_testkit.command_line import Command


def talk(output_tokens: int) -> Decorator:
    """The options that say what is talked about, as the seed's test has them."""
    chosen = [
        click.option(
            "--turns", type=click.IntRange(min=1), default=5, show_default=True, help="Of the user."
        ),
        click.option(
            "--input-tokens",
            type=click.IntRange(min=1),
            default=100,
            show_default=True,
            help="That the user adds at each turn.",
        ),
        click.option(
            "--output-tokens",
            type=click.IntRange(min=1),
            default=output_tokens,
            show_default=True,
            help="Of each answer.",
        ),
        click.option(
            "--format",
            "form",
            type=click.Choice(["completion", "chat"]),
            default="completion",
            show_default=True,
            help="Of the requests.",
        ),
        click.option(
            "--kv-bytes-per-token",
            type=click.FloatRange(min=0, min_open=True),
            help="Of the model.  [default: as pd-testkit kv-size has it, or as was moved]",
        ),
    ]

    def decorate(command: Any) -> Any:
        for option in reversed(chosen):
            command = option(command)
        return command

    return decorate


def kv_bytes_per_token(given: float | None, recording: Recording) -> float | None:
    """As given, as the model's shape has it, or as the engines moved it."""
    if given is not None:
        return given
    try:
        return find(recording.found.endpoint.model).bytes_per_token()
    except NoShape:
        return measured_kv_bytes(recording.counted)


@click.command(cls=Command)
@options.where()
@talk(output_tokens=50)
@click.option(
    "--conversations",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="At once.",
)
@options.seed()
@options.output()
@options.label()
@trace()
def multiturn(
    where: Where,
    turns: int,
    input_tokens: int,
    output_tokens: int,
    form: Form,
    kv_bytes_per_token: float | None,
    conversations: int,
    seed: int,
    output: Path | None,
    label: str,
    trace: TraceWanted | None,
) -> None:
    """What each turn of a conversation costs, and where its KV comes from.

    Turn n sends all that was said so far, the engine's own answers included, and new words. All
    conversations do one turn; then the engines' counters are read; then comes the next.

    Exit code: 0 if it was measured, 1 if a conversation broke off, 2 if it could not be measured,
    130 if stopped.
    """
    lengths = Lengths(turns, input_tokens, output_tokens)
    try:
        sys.exit(
            interrupts.run(
                _measured(
                    where,
                    lengths,
                    form,
                    kv_bytes_per_token,
                    conversations,
                    seed,
                    output,
                    label,
                    trace,
                )
            )
        )
    except (Unexpected, OSError) as problem:
        click.echo(str(problem), err=True)
        sys.exit(2)


async def _measured(
    where: Where,
    lengths: Lengths,
    form: Form,
    kv_bytes: float | None,
    conversations: int,
    seed: int,
    output: Path | None,
    label: str,
    trace: TraceWanted | None,
) -> int:
    """The exit status."""
    configuration = {**lengths.told(), "format": form, "conversations": conversations}
    warnings: list[str] = []
    async with AsyncExitStack() as stack:
        found = await stack.enter_async_context(options.reached(where))
        await found.engines.snapshot()
        recording = await stack.enter_async_context(
            begun("multiturn", found, where, configuration, seed=seed, label=label, output=output)
        )

        async def work() -> None:
            engines = (*found.engines.prefill, *found.engines.decode)
            texts = await Texts.of(found.endpoint, *engines)
            if not texts.exact:
                warnings.append("nobody counts tokens: the prompts' lengths are estimates")
            words, nonce = random.Random(f"{seed}/words"), random.Random(f"{recording.run.id}")
            scripts = [script(texts, lengths, words, nonce) for _ in range(conversations)]
            stage = Stage(found.engines, form, lengths.output_tokens, recording.note)
            partner = Partner(recording.client(found.endpoint.url), found.endpoint.model)
            await stage.play(partner, scripts)

        async with traced(recording, trace):
            await recording.carry_out(work())
        each = kv_bytes_per_token(kv_bytes, recording)
        measured = turns(recording.requests, recording.counted, each)
        summary = {"kv_bytes_per_token": each, "turns": [turn.told() for turn in measured]}
        recording.end(summary, tuple(warnings))
    _show(recording, measured, warnings)
    broken = len([turn for turn in measured if turn.failed])
    return recording.status(failed=bool(broken) or not measured)


def _show(recording: Recording, measured: list[Turn], warnings: list[str]) -> None:
    if measured:
        click.echo("\n".join(table(measured)))
    if recording.counted:
        whole, tokens = Movement.of(recording.counted), sum(turn.prompt_tokens for turn in measured)
        click.echo(
            f"of all prompts' tokens D had {percent(whole.local_rate(tokens))}, and "
            f"{percent(whole.external_rate(tokens))} came from P"
        )
    for problem in {f"{each.error}: {each.detail}" for each in recording.requests if each.error}:
        click.echo(f"failed: {problem}", err=True)
    for warning in (*warnings, recording.problem):
        if warning:
            click.echo(warning, err=True)
    click.echo(f"{recording.path}")
