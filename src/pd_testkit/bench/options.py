"""The options that say which deployment a command asks, and the deployment that they lead to."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import click

from pd_testkit.bench.endpoint import Endpoint, Unexpected, models
from pd_testkit.bench.kv.movement import Engines

Decorator = Callable[[Any], Any]


@dataclass(frozen=True)
class Where:
    """What the options say.

    Attributes:
        endpoint: the router's URL.
        prefill, decode: the engines', for their metrics; empty where nobody said.
        model: empty: the first that the endpoint lists.
        api_key: sent as bearer token; empty: none is.
        timeout_s: of one request.
    """

    endpoint: str
    prefill: tuple[str, ...] = ()
    decode: tuple[str, ...] = ()
    model: str = ""
    api_key: str = ""
    timeout_s: float = 120.0

    def told(self) -> dict[str, Any]:
        """For a result file: all but the key."""
        return {
            "endpoint": self.endpoint,
            "prefill": list(self.prefill),
            "decode": list(self.decode),
            "timeout_s": self.timeout_s,
        }


@dataclass(frozen=True)
class Reached:
    """A deployment that answers.

    Attributes:
        session: of all requests, with as many connections as there are requests at once.
        endpoint: with the model's name.
        engines: behind it, as far as they are known.
    """

    session: aiohttp.ClientSession
    endpoint: Endpoint
    engines: Engines

    def at(self, url: str, model: str = "") -> Endpoint:
        """Another endpoint, asked in the same way."""
        return self.endpoint.elsewhere(url, model)


def where(required: bool = True) -> Decorator:
    """The options ``--endpoint``, ``--prefill-endpoint``, ``--decode-endpoint``, ``--model``,
    ``--api-key`` and ``--timeout``, which the command gets as one `Where` by the name ``where``."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        def gathered(**options: Any) -> Any:
            told = {name: options.pop(name) for name in Where.__dataclass_fields__}
            return command(where=Where(**told), **options)

        gathered.__doc__ = command.__doc__
        gathered.__name__ = command.__name__
        gathered.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
        for option in reversed(_options(required)):
            gathered = option(gathered)
        return gathered

    return decorate


def _options(required: bool) -> list[Decorator]:
    necessary: dict[str, Any] = {"required": True} if required else {"default": ""}
    return [
        click.option(
            "--endpoint",
            envvar="PD_ENDPOINT",
            show_envvar=True,
            **necessary,
            metavar="URL",
            help="Of the router, or of whatever is to be asked.",
        ),
        _engines("prefill"),
        _engines("decode"),
        click.option(
            "--model",
            envvar="PD_MODEL",
            show_envvar=True,
            default="",
            help="As the endpoint calls it.  [default: the first that it lists]",
        ),
        click.option(
            "--api-key",
            envvar="OPENAI_API_KEY",
            show_envvar=True,
            default="",
            metavar="KEY",
            help="Sent as bearer token. Rather by the environment: others see options.",
        ),
        click.option(
            "--timeout",
            "timeout_s",
            type=click.FloatRange(min=0, min_open=True),
            default=120.0,
            show_default=True,
            help="Seconds for one request.",
        ),
    ]


def _urls(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Each may be several, with commas between them."""
    return tuple(url.strip() for each in given for url in each.split(",") if url.strip())


def _engines(role: str) -> Decorator:
    return click.option(
        f"--{role}-endpoint",
        f"{role}",
        multiple=True,
        envvar=f"PD_{role.upper()}_ENDPOINTS",
        show_envvar=True,
        metavar="URL[,URL]...",
        callback=_urls,
        help=f"A {role} engine's, for its metrics. May be repeated.",
    )


def seed() -> Decorator:
    """The option ``--seed``; any number where it is not given."""
    return click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=lambda: secrets.randbits(32),
        help="Of all that is random.  [default: any]",
    )


def output() -> Decorator:
    """The option ``--output``, a `Path` or None."""
    return click.option(
        "--output",
        type=click.Path(dir_okay=False, path_type=Path),
        help="The result file.  [default: one below pd-results]",
    )


def label() -> Decorator:
    """The option ``--label``."""
    return click.option(
        "--label", default="", help="What to call the run in tables and plots.", metavar="TEXT"
    )


@asynccontextmanager
async def reached(told: Where) -> AsyncIterator[Reached]:
    """
    Raises:
        Unexpected: it cannot be reached, or serves no model.
    """
    timeout = aiohttp.ClientTimeout(total=told.timeout_s)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:

        def at(url: str) -> Endpoint:
            return Endpoint(session, url, "", told.api_key)

        listed = at(told.endpoint)
        model = told.model or await first_model(listed)
        engines = Engines([*map(at, told.prefill)], [*map(at, told.decode)])
        yield Reached(session, listed.elsewhere(told.endpoint, model), engines)


async def first_model(endpoint: Endpoint) -> str:
    """
    Raises:
        Unexpected: it lists none.
    """
    listed = list(await models(endpoint))
    if not listed:
        raise Unexpected(f"GET {endpoint.url}/v1/models", "a model", "none")
    return listed[0]
