"""Engines placed over the nodes of a Ray cluster, on a cluster of this machine."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.kit.stack_plans import within

ROOT = Path(__file__).parents[2]
HEAD, OTHER = "127.0.0.2", "127.0.0.3"
PATIENCE_S = 120.0
OWN_PORTS = [
    word
    for name in ("router", "prefill", "decode", "prefill-side", "decode-side")
    for word in (f"--{name}-port", "0")
]


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Ray keeps its sockets, whose paths must be short, and a token in folders of their own."""
    short = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    yield {
        **os.environ,
        "HOME": str(tmp_path),
        "XDG_STATE_HOME": str(tmp_path),
        "RAY_TMPDIR": short,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    shutil.rmtree(short)


class Process:
    """Talks by lines."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self.log = log

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        return line.strip()

    def told(self, text: str) -> bool:
        return within(lambda: text in self.log.read_text(), PATIENCE_S)


@contextmanager
def running(name: str, environment: dict[str, str], *arguments: str) -> Iterator[Process]:
    log = Path(environment["HOME"]) / f"{name}.log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        try:
            yield Process(process, log)
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(PATIENCE_S) == 0, log.read_text()
        finally:
            process.kill()


def listens(url: str) -> bool:
    parts = urlsplit(url)
    with socket.socket() as probe:
        return probe.connect_ex((parts.hostname or "", parts.port or 0)) == 0


def completion(url: str) -> dict[str, Any]:
    body = json.dumps({"model": "tiny", "prompt": "over two nodes", "max_tokens": 4}).encode()
    request = urllib.request.Request(f"{url}/v1/completions", body)
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        told: dict[str, Any] = json.load(answer)
    return told


@pytest.mark.timeout(4 * PATIENCE_S)
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="not applicable: ray is not installed"
)
def test_engines_serve_from_nodes_and_end_with_them(environment: dict[str, str]) -> None:
    options = ["--runner", "ray", "--host", HEAD, "--transport", "zmq", "--ray-resource", "engine"]
    with running("nodes", environment, "tests.kit.ray_nodes", HEAD, OTHER) as cluster:
        options += ["--ray-address", cluster.line(), *OWN_PORTS, "--json"]
        with running("up", environment, "pd_testkit", "up", *options) as up:
            said = json.loads(up.line())
            (prefill,), (decode,) = said["prefill"], said["decode"]
            on = {str(urlsplit(url).hostname): url for url in (prefill, decode)}
            assert set(on) == {HEAD, OTHER}
            assert completion(said["url"])["usage"]["completion_tokens"] == 4

            assert cluster.process.stdin is not None
            print("kill", file=cluster.process.stdin, flush=True)
            assert cluster.line() == "killed"
            name = "prefill-0" if on[OTHER] == prefill else "decode-0"
            assert up.told(f"{name} ended with signal SIGKILL")
            assert up.told(f"  | its log is lost with its node, {OTHER}")
            assert within(lambda: not listens(on[OTHER]))
            assert listens(on[HEAD])

            up.process.send_signal(signal.SIGINT)
            up.process.wait(PATIENCE_S)
        assert not listens(on[HEAD])
        assert not listens(said["url"])
