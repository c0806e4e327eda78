"""Real engines and the kit's proxy as processes, each until it is healthy."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

from pd_testkit.hardware import kfd
from pd_testkit.hardware.visible import only
from tests.e2e import running

START_S = 600.0
"""To load a model and to capture its graphs."""
_SHOWN = 4000
"""Last characters of a log."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Served(NamedTuple):
    """A process that leads a group of its own, and what starts it again."""

    url: str
    pid: int
    command: Sequence[str]
    environment: Mapping[str, str]


@contextmanager
def served(
    folder: Path,
    name: str,
    command: Sequence[str],
    port: int,
    environment: Mapping[str, str],
    path: str = "/health",
) -> Iterator[Served]:
    """What the command serves at that port, once it answers at that path."""
    url, log = f"http://127.0.0.1:{port}", folder / f"{name}.log"
    with running.started(command, environment, log) as process:

        def goes_on() -> None:
            told = log.read_text("utf-8", "replace")[-_SHOWN:]
            assert process.poll() is None, f"{name} ended with {process.returncode}: {told}"

        until(url + path, goes_on)
        yield Served(url, process.pid, command, environment)


def until(url: str, meanwhile: Callable[[], None] = lambda: None) -> None:
    """It answers with 200; nobody tells when, so it is asked twice a second."""
    end = time.monotonic() + START_S
    while not _answers(url):
        meanwhile()
        assert time.monotonic() < end, f"{url} does not answer after {START_S:g} s"
        threading.Event().wait(0.5)


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5.0) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def on_gpu(number: int) -> dict[str, str]:
    """The process sees that one only of those that this one sees, CUDA's or ROCm's."""
    return only("rocm" if kfd.gpus() else "cuda", number, os.environ)


@contextmanager
def vllm_alone(folder: Path, model: str, gpu: int, share: float) -> Iterator[str]:
    """A vLLM that does both legs, with so much of the GPU's memory: the oracle."""
    port = free_port()
    command = [
        *(str(Path(sys.executable).parent / "vllm"), "serve", model, "--enforce-eager"),
        *("--host", "127.0.0.1", "--port", str(port), "--gpu-memory-utilization", str(share)),
    ]
    with served(folder, "oracle", command, port, on_gpu(gpu)) as oracle:
        yield oracle.url


@contextmanager
def atom(
    folder: Path,
    source: str,
    model: str,
    name: str,
    gpu: int,
    port: int,
    transfer: Mapping[str, object],
) -> Iterator[Served]:
    """ATOM's server of that checkout, with this ``--kv-transfer-config``; none: it does both."""
    command = [
        *(sys.executable, "-m", "atom.entrypoints.openai_server", "--model", model),
        *("--block-size", "16", "-tp", "1", "--server-port", str(port), "--enforce-eager"),
    ]
    if transfer:
        command += ["--kv-transfer-config", json.dumps(transfer)]
    paths = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH", ""))))
    environment = {"PYTHONPATH": paths, **on_gpu(gpu)}
    with served(folder, name, command, port, environment) as engine:
        yield engine


@contextmanager
def proxy(folder: Path, *arguments: str) -> Iterator[str]:
    """The kit's, which may have no engines yet."""
    port = free_port()
    command = [*running.KIT, "proxy", "--port", str(port), *arguments]
    with served(folder, "proxy", command, port, {}, "/liveness") as router:
        yield router.url
