"""``pd-testkit proxy``: the proxy as a process."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import secrets
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import click
import uvloop

from pd_testkit.command_line import Command
from pd_testkit.proxy.discovery import DEFAULT_ENDPOINT
from pd_testkit.proxy.instances import Engine, Leg
from pd_testkit.proxy.log import Log, LogHandler
from pd_testkit.proxy.registration import BadRegistration, engine_url
from pd_testkit.proxy.router import Router
from pd_testkit.proxy.server import ProxyServer
from pd_testkit.proxy.settings import MODES, POLICIES, PROTOCOLS, Settings
from pd_testkit.proxy.signature import MIN_SECRET_BYTES

DEFAULT = Settings()
LOOPBACK = ("127.0.0.1", "::1", "localhost")
GC_THRESHOLD = 50_000
"""Objects between two looks for cycles: requests leave none behind."""


def _engines(leg: Leg) -> Callable[..., list[Engine]]:
    def convert(_: click.Context, __: click.Parameter, urls: tuple[str, ...]) -> list[Engine]:
        try:
            return [_engine(leg, *url.split(",")) for url in urls]
        except BadRegistration as wrong:
            raise click.BadParameter(f"{wrong}; give http://HOST:PORT") from None

    return convert


def _engine(leg: Leg, url: str, *details: str) -> Engine:
    """Of ``URL[,NAME=VALUE]...``: what a registration would say of the engine."""
    said = dict(detail.partition("=")[::2] for detail in details)
    unknown = said.keys() - {"protocol", "zmq", "dp"}
    protocol, zmq, dp = said.get("protocol", ""), said.get("zmq", ""), said.get("dp", "1")
    if unknown or len(said) < len(details) or "" in said.values():
        raise click.BadParameter(f"{','.join(details)!r}; after the URL may come {_DETAILS}")
    if protocol not in ("", *PROTOCOLS):
        raise click.BadParameter(f"protocol {protocol!r}; choose of {', '.join(PROTOCOLS)}")
    if not (dp.isdecimal() and int(dp) > 0):
        raise click.BadParameter(f"dp {dp!r}; give the number of data-parallel ranks")
    if zmq:
        engine_url(f"http://{zmq}")
    return Engine(
        leg, engine_url(url), protocol=protocol, zmq_address=zmq, dp_size=int(dp), static=True
    )


def _endpoint(_: click.Context, __: click.Parameter, given: str | None) -> str | None:
    if given is None:
        return None
    endpoint = f"tcp://127.0.0.1:{given}" if given.isdecimal() else given
    port = endpoint.rpartition(":")[2]
    known = endpoint.startswith("tcp://") and _host(endpoint) and port.isdecimal()
    if not known or int(port) > 65535:
        raise click.BadParameter(f"{given!r}; give a PORT of the loopback, or tcp://HOST:PORT")
    return endpoint


def _host(endpoint: str) -> str:
    """Of ``tcp://host:port``."""
    return endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")


def _secret(_: click.Context, __: click.Parameter, given: str | None) -> bytes | None:
    if given is None:
        return None
    secret = given.encode()
    if len(secret) < MIN_SECRET_BYTES:
        raise click.BadParameter(f"too short; give at least {MIN_SECRET_BYTES} bytes")
    return secret


def _key(_: click.Context, __: click.Parameter, given: str | None) -> str | None:
    if given is not None and not (given.isascii() and given.isprintable() and given.strip()):
        raise click.BadParameter("empty, or not of printable ASCII characters")
    return given


def _setting(name: str, text: str, kind: click.ParamType[Any]) -> Callable[..., Any]:
    """An option that is a field of `Settings`."""
    flag = f"--{name.removesuffix('_s').replace('_', '-')}"
    default = getattr(DEFAULT, name)
    return click.option(flag, name, type=kind, default=default, show_default=True, help=text)


_DETAILS = "protocol=NAME, zmq=HOST:PORT (of a p2p_nccl connector), dp=RANKS"

_SECONDS = click.FloatRange(min=0, min_open=True)
_PAUSE = click.FloatRange(min=0)
_COUNT = click.IntRange(min=1)


@click.command(cls=Command, name="proxy")
@click.option(
    "--prefill",
    "prefillers",
    multiple=True,
    metavar="URL[,NAME=VALUE]",
    callback=_engines("prefill"),
    help=f"A prefill engine. May be repeated. After the URL: {_DETAILS}.",
)
@click.option(
    "--decode",
    "decoders",
    multiple=True,
    metavar="URL[,NAME=VALUE]",
    callback=_engines("decode"),
    help="A decode engine, in the same form.",
)
@click.option(
    "--discovery",
    metavar="PORT|tcp://HOST:PORT",
    callback=_endpoint,
    help=f"Let engines register over ZMQ; ATOM's port is {DEFAULT_ENDPOINT.rpartition(':')[2]}, "
    "vLLM's examples have 30001.",
)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=10001, show_default=True)
@_setting("mode", "Which way requests go; can be switched later.", click.Choice(MODES))
@_setting("policy", "Which engine gets a request.", click.Choice(POLICIES))
@click.option(
    "--protocol",
    type=click.Choice(PROTOCOLS),
    help="How KV gets from P to D, for engines that do not say theirs.  [default: found out]",
)
@_setting("connect_timeout_s", "Seconds.", _SECONDS)
@_setting("read_timeout_s", "Seconds of an engine's silence.", _SECONDS)
@_setting("retries", "Further attempts, until something was passed on.", click.IntRange(min=0))
@_setting("breaker_threshold", "Failures in a row; then an engine is left alone.", _COUNT)
@_setting("breaker_cool_down_s", "Seconds that it is; then one request tries it.", _PAUSE)
@_setting("health_interval_s", "Seconds between two health checks of an engine; 0: none.", _PAUSE)
@_setting("lifetime_s", "Seconds after its last heartbeat that an engine is kept.", _SECONDS)
@_setting("max_in_flight", "Requests under way; more get 429.", _COUNT)
@_setting("max_in_flight_per_engine", "Running or queued there; then 503.", _COUNT)
@_setting("max_body_bytes", "Of a request; a larger one gets 413.", _COUNT)
@_setting("kv_bytes_per_token", "Of the model, for adaptive mode.", _COUNT)
@click.option(
    "--api-key",
    envvar="PD_PROXY_API_KEY",
    show_envvar=True,
    metavar="KEY",
    callback=_key,
    help="What clients must send as bearer token. Rather by the environment: others see options.",
)
@click.option(
    "--registration-secret",
    envvar="PD_PROXY_REGISTRATION_SECRET",
    show_envvar=True,
    metavar="SECRET",
    callback=_secret,
    help="What registrations must be signed with. Rather by the environment.",
)
@click.option("--seed", type=int, help="Of what is drawn.  [default: any]")
@click.option(
    "--log-format",
    type=click.Choice(["json", "text"]),
    default="json",
    show_default=True,
    help="Lines on standard error.",
)
@click.option(
    "--drain-seconds",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="What is under way may take so long after SIGTERM or Ctrl-C.",
)
def proxy(
    prefillers: list[Engine],
    decoders: list[Engine],
    discovery: str | None,
    host: str,
    port: int,
    protocol: str | None,
    api_key: str | None,
    registration_secret: bytes | None,
    seed: int | None,
    log_format: Any,
    drain_seconds: float,
    **settings: Any,
) -> None:
    """Route completions over prefill and decode engines.

    OpenAI's /v1/completions and /v1/chat/completions, streaming or not; and /health, /readiness,
    /liveness, /metrics, /instances, /mode, /conversations. Ends on SIGTERM or Ctrl-C when what is
    under way is done.
    """
    one_leg = not (prefillers and decoders) and settings["mode"] != "aggregated"
    if discovery is None and (one_leg or not (prefillers or decoders)):
        raise click.UsageError(
            "no engines: give --prefill URL and --decode URL, or --discovery PORT"
        )
    if registration_secret is not None and discovery is None:
        raise click.UsageError("a registration secret needs --discovery")
    rng = random.Random(secrets.randbits(64) if seed is None else seed)
    router = Router(Settings(protocol=protocol or "", **settings), rng)
    try:
        for engine in (*prefillers, *decoders):
            router.registry.register(engine, time.monotonic())
    except ValueError as wrong:
        raise click.UsageError(str(wrong)) from None
    log = Log(sys.stderr.buffer, log_format)
    server = ProxyServer(
        router,
        api_key=api_key,
        discovery=discovery,
        registration_secret=registration_secret,
        log=log,
    )
    warnings = []
    if host not in LOOPBACK and api_key is None:
        warnings.append(f"no API key: whoever reaches {host} may ask")
    if discovery and _host(discovery) not in LOOPBACK and registration_secret is None:
        warnings.append(f"no registration secret: whoever reaches {discovery} gets requests")
    handler = LogHandler(log)
    logger = logging.getLogger("pd_testkit.proxy")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        uvloop.run(_serve(server, host, port, drain_seconds, warnings))
    except OSError as problem:
        raise click.ClickException(f"{problem.strerror}; choose another") from None
    finally:
        logger.removeHandler(handler)


async def _serve(
    server: ProxyServer, host: str, port: int, drain_s: float, warnings: list[str]
) -> None:
    """Until a signal says to end; a second one ends the wait for what is under way."""
    ended = asyncio.Event()

    def end() -> None:
        if ended.is_set():
            server.hurry()
        ended.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    loop.set_exception_handler(lambda _, context: _report(server, context))
    await server.start(host, port)
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    settings = server.router.settings
    server.event(
        "listening",
        url=f"http://{f'[{host}]' if ':' in host else host}:{server.port}",
        discovery=server.discovery_endpoint,
        mode=settings.mode,
        policy=settings.policy,
        engines=[instance["url"] for instance in server.router.instances(server.now())],
    )
    for warning in warnings:
        server.event("warning", message=warning)
    await ended.wait()
    server.event("draining", in_flight=server.in_flight, seconds=drain_s)
    await server.stop(drain_s)
    server.event("stopped")


def _report(server: ProxyServer, context: dict[str, Any]) -> None:
    """What went wrong in a callback, as a line of the log in place of a traceback."""
    problem = context.get("exception")
    if isinstance(problem, Exception):
        server.defect(problem, "")
    else:
        server.event("defect", message=context["message"])
