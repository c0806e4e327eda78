"""``pd-testkit engine``: the engine as a process."""

from __future__ import annotations

import asyncio
import errno
import gc
import ipaddress
import logging
import os
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from pd_testkit.command_line import Command
from pd_testkit.engine import timing
from pd_testkit.engine.faults import KINDS, Fault, Faults, TransferFaults, parse
from pd_testkit.engine.memory import keep_freed
from pd_testkit.engine.settings import DTYPES, LAYOUTS, ROLES, TRANSPORTS, Settings
from pd_testkit.engine.shape import SHAPES
from pd_testkit.engine.timing import Profile
from pd_testkit.engine.wire import PROTOCOLS
from pd_testkit.proxy.log import Log, LogHandler

if TYPE_CHECKING:
    from pd_testkit.engine.model import Model
    from pd_testkit.engine.tokenizer import Tokenizer

DEFAULT = Settings()


def _parsed(parse_one: Callable[[str], Any]) -> Callable[..., Any]:
    """A callback that tells in one line why a value is none."""

    def convert(_: click.Context, __: click.Parameter, given: Any) -> Any:
        try:
            if isinstance(given, tuple):
                return tuple(parse_one(each) for each in given)
            return parse_one(given)
        except ValueError as wrong:
            raise click.BadParameter(str(wrong)) from None

    return convert


def _endpoint(given: str) -> str:
    host, _, port = given.removeprefix("tcp://").rpartition(":")
    if not (given.startswith("tcp://") and host and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f"{given!r}; give tcp://HOST:PORT")
    return given


def _host(given: str) -> str:
    try:
        unspecified = ipaddress.ip_address(given).is_unspecified
    except ValueError:
        unspecified = not given
    if unspecified:
        raise ValueError(f"{given!r}; give an address by which peers reach this engine")
    return given


def _key(given: str | None) -> str | None:
    if given is not None and not (given.isascii() and given.isprintable() and given.strip()):
        raise ValueError("empty, or not of printable ASCII characters")
    return given


def _option(name: str, flag: str, text: str, **settings: Any) -> Callable[..., Any]:
    """An option that is a field of `Settings`."""
    default = getattr(DEFAULT, name)
    shown = default != ""
    return click.option(flag, name, default=default, show_default=shown, help=text, **settings)


_ITEMSIZES = {"float64": 8, "float32": 4}
_COUNT = click.IntRange(min=1)
_RANKS = click.IntRange(1, 8)
_SECONDS = click.FloatRange(min=0, min_open=True)
_PORT = click.IntRange(0, 65535)


@click.command(cls=Command, name="engine")
@_option("role", "--role", "Its part in hand-offs.", type=click.Choice(ROLES))
@_option("host", "--host", "Where it serves, and peers find it.", callback=_parsed(_host))
@click.option("--port", type=_PORT, default=0, show_default=True, help="0: any that is free.")
@_option("model", "--model", f"{', '.join(SHAPES)}, or the folder of a Hugging Face causal LM.")
@_option("served_model_name", "--served-model-name", "What clients call it.  [default: the model]")
@_option("seed", "--seed", "Of the weights.", type=int)
@_option("dtype", "--dtype", "Of weights and KV.", type=click.Choice(DTYPES))
@_option("device", "--device", "As torch names it.")
@_option("tp_size", "--tp", "Tensor-parallel ranks.", type=_RANKS)
@_option("dp_size", "--dp", "Data-parallel ranks.", type=_RANKS)
@_option("block_size", "--block-size", "Tokens per block.", type=_COUNT)
@_option("num_blocks", "--num-blocks", "Of each data-parallel rank.", type=_COUNT)
@_option("layout", "--layout", "Of a block.", type=click.Choice(LAYOUTS))
@_option("max_running", "--max-running", "Requests in one step.", type=_COUNT)
@_option("max_batch_tokens", "--max-batch-tokens", "Tokens in one step.", type=_COUNT)
@_option("chunked_prefill", "--chunked-prefill/--no-chunked-prefill", "Prompts over several steps.")
@_option("prefix_caching", "--prefix-caching/--no-prefix-caching", "Keep blocks for later prompts.")
@_option("transport", "--transport", "How KV moves.", type=click.Choice(TRANSPORTS))
@click.option(
    "--mode",
    type=click.Choice(["read", "write"]),
    default="read",
    show_default=True,
    help="D reads P's memory, or P writes into D's.",
)
@_option("kv_digest", "--kv-digest", "Compare digests of what was loaded.", is_flag=True)
@_option(
    "recompute_failed",
    "--recompute-failed-loads",
    "Compute here what could not be loaded; else such a request fails.",
    is_flag=True,
)
@_option("hold_s", "--hold", "Seconds that P keeps KV for a D.", type=_SECONDS)
@_option("transfer_s", "--transfer-timeout", "Seconds of a peer's silence.", type=_SECONDS)
@_option("side_channel_port", "--side-channel-port", "Of the first rank; 0: any.", type=_PORT)
@click.option(
    "--register",
    "endpoints",
    multiple=True,
    metavar="tcp://HOST:PORT",
    callback=_parsed(_endpoint),
    help="A router to register with. May be repeated.",
)
@click.option(
    "--protocol",
    type=click.Choice(PROTOCOLS),
    default="nixl",
    show_default=True,
    help="How routers tell P and D of each other; SGLang's is always read.",
)
@click.option(
    "--heartbeat",
    type=_SECONDS,
    default=1.0,
    show_default=True,
    help="Seconds between two registrations.",
)
@click.option(
    "--timing",
    "profile",
    default="real",
    show_default=True,
    metavar=f"real|{'|'.join(timing.PROFILES)}|FILE.toml",
    callback=_parsed(timing.profile),
    help="Whose time steps and transfers take.",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="KIND[=ARG][,count=N][,probability=P][,seed=S]",
    callback=_parsed(parse),
    help=f"A fault to have: {', '.join(KINDS)}. May be repeated.",
)
@click.option(
    "--admin-key",
    envvar="PD_ENGINE_ADMIN_KEY",
    show_envvar=True,
    metavar="KEY",
    callback=_parsed(_key),
    help="Bearer token for /admin/faults, which is not there without. Rather by the environment.",
)
@click.option("--access-log", is_flag=True, help="A line on standard error for each request.")
def engine(
    port: int,
    mode: str,
    endpoints: Sequence[str],
    protocol: str,
    heartbeat: float,
    profile: Profile | None,
    faults: Sequence[Fault],
    admin_key: str | None,
    access_log: bool,
    **options: Any,
) -> None:
    """Serve a small model with a real paged KV cache over OpenAI's API.

    Says {"event": "ready", "url": ...} on standard output when it serves. Ends on SIGTERM or
    Ctrl-C.
    """
    try:
        settings = Settings(writes=mode == "write", **options)
    except ValueError as wrong:
        raise click.UsageError(str(wrong)) from None
    _check_model(settings)
    with (
        _bound(settings.host, port) as listening,
        _logging() as log,
        _apart() as out,
    ):
        keep_freed()
        with _uncollected():
            model, tokenizer = _model(settings)
            # Both import torch: what is wrong with the options is said before.
            from pd_testkit.engine.core import EngineCore
            from pd_testkit.engine.process import EngineProcess

        planned = Faults(faults)
        kv_bytes = model.shape.kv_bytes(_ITEMSIZES[settings.dtype])
        _check_memory(settings, kv_bytes)
        pace = None if profile is None else timing.Pace(profile, kv_bytes)
        core = EngineCore(
            settings, model, tokenizer, pace=pace, transfer_faults=TransferFaults(planned)
        )
        process = EngineProcess(
            settings, core, tokenizer, model.shape.max_tokens, planned, protocol, log
        )
        _run(process.serve(listening, out, endpoints, heartbeat, admin_key, access_log))


def _check_model(settings: Settings) -> None:
    """What can be said of it before torch is imported."""
    shape = SHAPES.get(settings.model)
    if shape is None:
        if not (Path(settings.model) / "config.json").is_file():
            raise click.UsageError(
                f"--model {settings.model!r}: choose of {', '.join(SHAPES)}, or name a folder with "
                "a config.json"
            )
    elif shape.heads % settings.tp_size or shape.hidden % settings.tp_size:
        raise click.UsageError(
            f"--tp {settings.tp_size}: {shape.name} has {shape.heads} heads, which cannot be shared"
        )


def _check_memory(settings: Settings, kv_bytes: int) -> None:
    """Whether the KV cache fits into this machine; ``kv_bytes`` has a token."""
    if settings.device != "cpu":
        return
    needed = settings.dp_size * settings.num_blocks * settings.block_size * kv_bytes
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise _wrong(
            f"--num-blocks {settings.num_blocks}: a KV cache of {needed / 2**30:.0f} GiB, more "
            f"than this machine's {there / 2**30:.0f}"
        )


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind)
    except OSError as problem:
        raise click.UsageError(f"--host {host}: {problem.strerror}") from None
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
    except OSError as problem:
        listening.close()
        what = f"--port {port}" if problem.errno == errno.EADDRINUSE else f"--host {host}"
        raise click.UsageError(f"{what}: {problem.strerror}; choose another") from None
    return listening


def _model(settings: Settings) -> tuple[Model, Tokenizer]:
    """
    Raises:
        click.UsageError: a package is missing, or there is no such model or device.
    """
    # For NumPy's matrix products, too, whose threads would wait for each other between the small
    # ones of a token. It is read when NumPy is imported first, which is here.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        import torch
    except ModuleNotFoundError:
        raise _wrong("pd-testkit engine needs torch: pip install 'pd-testkit[torch]'") from None
    torch.set_num_threads(1)
    try:
        torch.zeros(1, device=settings.device)
    except (AssertionError, NotImplementedError, RuntimeError) as wrong:
        raise _wrong(f"--device {settings.device}: {wrong}") from None
    how: Any = {
        "tp_size": settings.tp_size,
        "dtype": settings.dtype,
        "device": settings.device,
        "layout": settings.layout,
    }
    if settings.model in SHAPES:
        from pd_testkit.engine.model import Decoder
        from pd_testkit.engine.tokenizer import Bytes

        return Decoder(SHAPES[settings.model], seed=settings.seed, **how), Bytes()
    from pd_testkit.engine import hf

    try:
        return hf.load(settings.model, **how)
    except ValueError as wrong:
        raise _wrong(f"--model {wrong}") from None


def _wrong(reason: str) -> click.UsageError:
    return click.UsageError(reason.partition("\n")[0])


@contextmanager
def _apart() -> Iterator[BinaryIO]:
    """Standard output for ourselves: what libraries print there goes to standard error. NIXL
    does."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "wb", buffering=0) as out:
        os.dup2(2, 1)
        try:
            yield out
        finally:
            sys.stdout.flush()
            os.dup2(out.fileno(), 1)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Torch's modules are a million objects that stay; looks for cycles among them would be a
    tenth of the start, and delay tokens later."""
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def _run(serving: Coroutine[Any, Any, None]) -> None:
    """In uvloop's event loop, where there is one."""
    try:
        import uvloop
    except ModuleNotFoundError:
        asyncio.run(serving)
    else:
        uvloop.run(serving)


@contextmanager
def _logging() -> Iterator[Log]:
    """What modules log goes to standard error, as lines of JSON."""
    log = Log(sys.stderr.buffer)
    handler = _Handler(log)
    ours, root = logging.getLogger("pd_testkit"), logging.getLogger()
    level = ours.level
    root.addHandler(handler)
    ours.setLevel(logging.INFO)
    try:
        yield log
    finally:
        log.flush()
        ours.setLevel(level)
        root.removeHandler(handler)


class _Handler(LogHandler):
    """Writes each line at once: who reads the log may wait for it."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self._flush = log.flush

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        self._flush()
