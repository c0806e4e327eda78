"""``pd-testkit accuracy``: is what an endpoint answers right, and did the KV move."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console

from pd_testkit.bench import options
from pd_testkit.bench.accuracy import expectations, oracle
from pd_testkit.bench.accuracy.api import API_CHECKS
from pd_testkit.bench.accuracy.check import Check, Deployment, Outcome, Result, run, succeeded
from pd_testkit.bench.accuracy.detector import DETECTOR_CHECKS
from pd_testkit.bench.accuracy.kv import KV_CHECKS
from pd_testkit.bench.accuracy.report import document, show
from pd_testkit.bench.accuracy.tokens import TOKEN_CHECKS
from pd_testkit.bench.endpoint import Unexpected
from pd_testkit.bench.kv.movement import DEFAULT_BLOCK_SIZE, Engines
from pd_testkit.bench.options import Where
from pd_testkit.command_line import Command

CHECKS = {check.name: check for check in (*API_CHECKS, *TOKEN_CHECKS, *KV_CHECKS)}
_SELF_TEST = {check.name: check for check in DETECTOR_CHECKS}


_PREFILL = "prefill"
"""As the oracle: the first P."""


@dataclass(frozen=True)
class _Told:
    """The command's options, as far as the deployment is made of them."""

    where: Where
    oracle: str
    dataset: Path | None
    expect: float | None
    band: float
    block_sizes: tuple[int, ...]
    kv_check: bool
    seed: int
    admin_key: str


@click.command(cls=Command)
@options.where()
@click.option(
    "--oracle",
    "oracle_url",
    default="",
    metavar="URL",
    help="An aggregated endpoint of the same model, whose tokens are right; or 'prefill': the "
    "first P, asked to answer by itself, which hands nothing over.  "
    "[default: for CPU engines, one that is started]",
)
@click.option(
    "--dataset",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Questions as in gsm8k, a JSON object with question and answer per line.",
)
@click.option(
    "--expect",
    type=click.FloatRange(0, 1),
    help="Share of them that is answered right.  [default: as known of the model, on gsm8k]",
)
@click.option(
    "--band",
    type=click.FloatRange(0, 1),
    default=expectations.BAND,
    show_default=True,
    help="How far from that the share may be, up and down.",
)
@click.option(
    "--block-size",
    "block_sizes",
    type=click.IntRange(min=1),
    multiple=True,
    help="Tokens of a block of the KV cache; P's and D's, where they differ.  "
    f"[default: as the engines' metrics say, or {DEFAULT_BLOCK_SIZE}]",
)
@click.option(
    "--kv-check/--no-kv-check",
    default=True,
    help="Whether the engines' counters must show that the KV moved.",
)
@click.option(
    "--check",
    "names",
    type=click.Choice([*CHECKS, *_SELF_TEST]),
    multiple=True,
    metavar="NAME",
    help="Make this check only. May be repeated.",
)
@click.option(
    "--self-test",
    is_flag=True,
    help="Also corrupt one byte of KV in flight, which must be noticed; needs the admin key.",
)
@options.seed()
@click.option(
    "--admin-key",
    envvar="PD_ENGINE_ADMIN_KEY",
    show_envvar=True,
    default="",
    metavar="KEY",
    help="Of the engines, for --self-test. Rather by the environment.",
)
@click.option(
    "--json",
    "file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write what was seen to this file.",
)
def accuracy(
    where: Where,
    oracle_url: str,
    dataset: Path | None,
    expect: float | None,
    band: float,
    block_sizes: tuple[int, ...],
    kv_check: bool,
    names: tuple[str, ...],
    self_test: bool,
    seed: int,
    admin_key: str,
    file: Path | None,
) -> None:
    """Check what an OpenAI endpoint answers, and that prefill's KV got to decode.

    Answers are compared with an oracle's, token by token: --oracle, or for CPU engines one that is
    started with the same model and seed; or questions are asked (--dataset). Asks nothing else of
    the deployment meanwhile: others' requests would be counted as well.

    Exit code: 0 if all is right, 1 if something is not, 2 if it could not be checked.
    """
    left_out = {
        *([] if self_test else _SELF_TEST),
        *([] if dataset is not None else ["questions"]),
    }
    if self_test and not admin_key:
        raise click.UsageError("--self-test needs the engines' admin key: PD_ENGINE_ADMIN_KEY")
    chosen = [
        check
        for name, check in (CHECKS | _SELF_TEST).items()
        if (name in names if names else name not in left_out)
    ]
    told = _Told(
        where=where,
        oracle=oracle_url,
        dataset=dataset,
        expect=expect,
        band=band,
        block_sizes=block_sizes,
        kv_check=kv_check,
        seed=seed,
        admin_key=admin_key,
    )
    console = Console()
    try:
        results = asyncio.run(_checked(told, chosen))
    except (Unexpected, ValueError) as problem:
        click.echo(str(problem), err=True)
        sys.exit(2)
    if file is not None:
        about = {"endpoint": where.endpoint, "seed": seed}
        file.write_text(json.dumps(document(results, **about), indent=1) + "\n", "utf-8")
    show(console, results, seed)
    sys.exit(not succeeded(results))


async def _checked(told: _Told, checks: list[Check]) -> list[Result]:
    results = []
    async with _deployment(told) as deployment:
        if deployment.oracle is None and not deployment.questions:
            results.append(_nothing_to_compare_with())
        async for result in run(checks, deployment):
            results.append(result)
            if sys.stderr.isatty():
                click.echo(f"{result.name}: {result.outcome.value}", err=True)
    return results


def _nothing_to_compare_with() -> Result:
    """An endpoint of which nobody says what it should answer is not accurate."""
    return Result(
        "expectation",
        "it is stated what the model should answer",
        Outcome.FAILED,
        0.0,
        asked="what the answers are compared with",
        expected="--oracle URL, --oracle prefill, or --dataset FILE",
        got="nothing",
    )


@asynccontextmanager
async def _deployment(told: _Told) -> AsyncIterator[Deployment]:
    """
    Raises:
        Unexpected: it cannot be reached.
        ValueError: the file has no questions.
    """
    questions = () if told.dataset is None else tuple(expectations.questions(told.dataset))
    async with options.reached(told.where) as found, AsyncExitStack() as stack:
        endpoint, engines = found.endpoint, found.engines
        right, exact = _oracle_url(told.oracle, engines), False
        if not right and not questions:
            one = engines.prefill[0] if engines.prefill else endpoint
            if (known := await oracle.cpu_engine(one)) is not None:
                right, exact = await stack.enter_async_context(oracle.alone(known)), True
        yield Deployment(
            endpoint,
            found.at(right, await options.first_model(found.at(right))) if right else None,
            exact,
            engines,
            told.block_sizes or await _block_sizes(engines),
            told.seed,
            told.kv_check,
            questions,
            _band(told, endpoint.model),
            told.admin_key,
        )


def _oracle_url(told: str, engines: Engines) -> str:
    """
    Raises:
        ValueError: it is to be P, and nobody said where P is.
    """
    if told != _PREFILL:
        return told
    if not engines.prefill:
        raise ValueError("--oracle prefill: say where P is by --prefill-endpoint URL")
    return engines.prefill[0].url


async def _block_sizes(engines: Engines) -> tuple[int, ...]:
    if not engines.known:
        return (DEFAULT_BLOCK_SIZE,)
    sides = await engines.snapshot()
    return tuple({size for side in sides for size in side.block_sizes}) or (DEFAULT_BLOCK_SIZE,)


def _band(told: _Told, model: str) -> expectations.Band | None:
    expected = expectations.KNOWN.get(model) if told.expect is None else told.expect
    return None if expected is None else expectations.Band(expected, told.band)
