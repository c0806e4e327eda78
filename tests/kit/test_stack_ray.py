"""Engines placed over the nodes of a Ray cluster, on a cluster of this machine."""

from __future__ import annotations

import asyncio
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
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.kit.stack_plans import server, within

ROOT = Path(__file__).parents[2]
HEAD, OTHER = "127.0.0.2", "127.0.0.3"
PATIENCE_S = 120.0
OWN_PORTS = [
    word
    for name in ("router", "prefill", "decode", "prefill-side", "decode-side")
    for word in (f"--{name}-port", "0")
]

pytestmark = [
    pytest.mark.timeout(4 * PATIENCE_S),
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="not applicable: ray is not installed"
    ),
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


def test_an_engine_that_its_node_cannot_start_ends_the_start(environment: dict[str, str]) -> None:
    """Here for its log, in whose place there is a folder. The reason is said in a line."""
    logs = Path(environment["HOME"]) / "logs"
    (logs / "prefill-0.log").mkdir(parents=True)
    options = ["--runner", "ray", "--host", HEAD, "--transport", "zmq", *OWN_PORTS]
    options += ["--log-dir", str(logs)]
    with running("nodes", environment, "tests.kit.ray_nodes", HEAD, OTHER) as cluster:
        up = subprocess.run(
            [sys.executable, "-m", "pd_testkit", "up", *options, "--ray-address", cluster.line()],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
    assert up.returncode == 1
    told = up.stderr.splitlines()
    assert "prefill-0 ended with exit status 127" in told
    reason = f"[Errno 21] Is a directory: '{logs}/prefill-0.log'"
    why = [line for line in told if line.startswith("  | ")]
    assert why in ([f"  | {node}: {reason}"] for node in (HEAD, OTHER))


class OutOfMemory:
    """An actor, and each of its methods: it is asked, and its node has no memory left."""

    def __init__(self, *started: str) -> None:
        self._started = started

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *_: self._answer(name))

    async def _answer(self, name: str) -> None:
        from ray.exceptions import OutOfMemoryError

        if name not in self._started:
            raise OutOfMemoryError("the node runs low on memory\nmany more lines")


@pytest.mark.parametrize(("started", "status"), [((), 127), (("start",), -signal.SIGKILL)])
def test_why_ray_has_ended_an_engine_is_told(started: tuple[str, ...], status: int) -> None:
    from pd_testkit.stack.ray import Far

    async def scenario() -> None:
        seat: Any = SimpleNamespace(host=OTHER)
        engine = Far(OutOfMemory(*started), seat, server("prefill-0", "prefill"), Path("log"))
        assert await asyncio.wait_for(engine.pids, PATIENCE_S) == ()
        assert await engine.stop() == status
        assert await engine.tail() == [f"{OTHER}: the node runs low on memory"]

    asyncio.run(scenario())
