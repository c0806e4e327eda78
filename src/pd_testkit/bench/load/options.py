"""The options that describe a load, and the `Load` that they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from pd_testkit.bench.load import lengths
from pd_testkit.bench.load.lengths import Length
from pd_testkit.bench.load.load import ARRIVALS, CLOSED, TRACE, Load
from pd_testkit.bench.load.workload import Prefixes
from pd_testkit.bench.measures import Objectives

DEFAULT_REQUESTS = 100
DEFAULT_CONCURRENCY = 16
_OBJECTIVES = {"ttft": "ttft", "tpot": "tpot", "e2el": "e2e"}
"""vLLM's names, and ours."""

_above_0 = click.FloatRange(min=0, min_open=True)
_count = click.IntRange(min=1)
_file = click.Path(exists=True, dir_okay=False, path_type=Path)


def _length(_: click.Context, __: click.Parameter, text: str) -> Length:
    try:
        return lengths.parse(text)
    except ValueError as wrong:
        raise click.BadParameter(str(wrong)) from None


def _objectives(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> Objectives:
    told: dict[str, float] = {}
    for word in " ".join(given).split():
        name, _colon, value = word.partition(":")
        try:
            if name not in _OBJECTIVES:
                raise ValueError
            told[_OBJECTIVES[name]] = float(value) / 1e3
        except ValueError:
            raise click.BadParameter(
                f"{word!r} is none of {', '.join(_OBJECTIVES)}, a colon and milliseconds"
            ) from None
    return Objectives(**told)


def _tags(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    tags = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not (name and equals):
            raise click.BadParameter(f"{each!r} is no NAME=VALUE")
        tags[name] = value
    return tags


_OPTIONS = (
    click.option(
        "--requests", type=_count, help=f"To measure.  [default: {DEFAULT_REQUESTS}, or a trace's]"
    ),
    click.option(
        "--duration",
        "duration_s",
        type=_above_0,
        metavar="SECONDS",
        help="Send requests for so long, and wait for their answers.",
    ),
    click.option(
        "--concurrency",
        type=_count,
        help="Closed loop: users, each of whom asks again once answered.  "
        f"[default: {DEFAULT_CONCURRENCY}]",
    ),
    click.option(
        "--rate", type=_above_0, help="Open loop: requests per second, whatever is answered."
    ),
    click.option(
        "--arrivals",
        type=click.Choice(ARRIVALS),
        help="How requests of a --rate arrive.  [default: poisson]",
    ),
    click.option(
        "--burst", type=_count, default=8, show_default=True, help="Requests at once of a burst."
    ),
    click.option(
        "--ramp-from",
        type=click.FloatRange(min=0),
        default=0.0,
        show_default=True,
        help="Requests per second at a ramp's begin; --rate is that at its end.",
    ),
    click.option(
        "--ramp-seconds",
        "ramp_s",
        type=_above_0,
        default=30.0,
        show_default=True,
        help="How long the ramp takes.",
    ),
    click.option(
        "--prompt-tokens",
        metavar="TOKENS",
        callback=_length,
        default="64",
        show_default=True,
        help=f"Of a prompt: {lengths.FORMS}.",
    ),
    click.option(
        "--max-tokens",
        metavar="TOKENS",
        callback=_length,
        default="128",
        show_default=True,
        help="Of an answer, likewise.",
    ),
    click.option(
        "--prefix-tokens", type=_count, help="So many of each prompt's tokens are its group's."
    ),
    click.option(
        "--prefix-groups",
        type=_count,
        default=1,
        show_default=True,
        help="Groups of prompts with the same --prefix-tokens.",
    ),
    click.option(
        "--prompts", type=_file, help="JSON lines with prompt or messages, and max_tokens."
    ),
    click.option(
        "--replay",
        type=_file,
        help="A trace, in Mooncake's form or with at, prompt_tokens and max_tokens.",
    ),
    click.option(
        "--warm-up",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Requests before the measured ones.",
    ),
    click.option("--chat", is_flag=True, help="Ask /v1/chat/completions."),
    click.option("--stream/--no-stream", default=True, help="Whether answers come token by token."),
    click.option(
        "--exact/--model-ends",
        default=True,
        help="Answers of exactly --max-tokens (ignore_eos), or as the model ends them.",
    ),
)


def load() -> Callable[[Any], Any]:
    """The options of a `Load`, which the command gets by their names; see `made`."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(_OPTIONS):
            command = option(command)
        return command

    return decorate


def goodput() -> Callable[[Any], Any]:
    """The option ``--goodput``, as `Objectives`."""
    return click.option(
        "--goodput",
        "objectives",
        multiple=True,
        callback=_objectives,
        metavar="KEY:MS",
        help="An objective: ttft, tpot or e2el, and milliseconds. May be repeated.",
    )


def tags() -> Callable[[Any], Any]:
    """The option ``--tag``, as a dict."""
    return click.option(
        "--tag",
        "tags",
        multiple=True,
        callback=_tags,
        metavar="NAME=VALUE",
        help="To tell this run from others. May be repeated.",
    )


def made(options: Mapping[str, Any]) -> Load:
    """
    Raises:
        click.UsageError: they do not go together.
    """
    told = dict(options)
    groups, tokens = told.pop("prefix_groups"), told.pop("prefix_tokens")
    rate, arrivals, replay = told["rate"], told.pop("arrivals"), told["replay"]
    prompts, requests, concurrency = told["prompts"], told["requests"], told["concurrency"]
    sources = [bool(prompts), bool(replay), bool(tokens)]
    maximum: Length = told["prompt_tokens"]
    for wrong, because in (
        (concurrency and rate, "--concurrency is of a closed loop, --rate of an open one"),
        (arrivals and not rate, "--arrivals needs a --rate"),
        (replay and (rate or concurrency), "--replay has its own times: no --rate, --concurrency"),
        (sum(sources) > 1, "choose one of --prompts, --replay and --prefix-tokens"),
        (requests and told["duration_s"] and not replay, "choose --requests or --duration"),
        (
            tokens and tokens >= maximum.mean,
            f"--prefix-tokens {tokens} leaves nothing of --prompt-tokens {maximum}",
        ),
    ):
        if wrong:
            raise click.UsageError(because)
    if replay:
        told["arrivals"] = TRACE
    elif rate:
        told["arrivals"] = arrivals or "poisson"
    else:
        told |= {"arrivals": CLOSED, "concurrency": concurrency or DEFAULT_CONCURRENCY}
    if not (requests or told["duration_s"] or replay):
        told["requests"] = DEFAULT_REQUESTS
    told["prefixes"] = Prefixes(tokens, groups) if tokens else None
    return Load(**told)
