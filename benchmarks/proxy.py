"""What the proxy costs, next to a classic one on Quart and to vllm-router where that is installed.

    python benchmarks/proxy.py [--rounds 5] [--seconds 2] [--vllm-router PATH] [--check]

All contenders run at the same time, over the same two engines (of fixed answers, in one process),
and take turns in each round. Every request goes P then D, with a prompt of 495 bytes, round robin.
Figures are medians over the rounds; ratios are taken within a round, so that what else the machine
does falls on both sides.

* CPU: processor time of the contender's processes per request (its engines' and clients' not),
  without streaming, at concurrency 32; per event with streaming, at concurrency 8.
* added latency: the median at concurrency 1, less that of the D engine asked directly.

``--check`` exits with 1 unless the proxy takes no more CPU per request than vllm-router (where it
is installed) and answers at least 6 times the classic proxy's requests per second.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
EVENTS = 64
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
START_S = 60

AIM_CPU = 1.0
"""Of vllm-router's CPU per request, at most."""
AIM_THROUGHPUT = 6.0
"""Times the classic proxy's requests per second, at least."""

UNITS = {
    "cpu_us": ("CPU per request, us", min),
    "rps": ("requests/s, concurrency 32", max),
    "added_ms": ("added p50 at concurrency 1, ms", min),
    "event_us": ("CPU per SSE event, us", min),
    "eps": ("SSE events/s, concurrency 8", max),
}


@dataclass
class Contender:
    name: str
    command: list[str]
    port: int
    group: int = 0
    """Its process group."""
    figures: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in UNITS})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def median(self, name: str) -> float:
        return statistics.median(self.figures[name])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


@contextlib.contextmanager
def started(command: list[str], output: object) -> Iterator[subprocess.Popen[str]]:
    """In a process group of its own, which is ended at last."""
    process = subprocess.Popen(
        command, stdout=output, stderr=output, text=True, cwd=HERE, start_new_session=True
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def processor_seconds(group: int) -> float:
    """Of all processes in the group, their ended children included."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == group:
            ticks += sum(map(int, fields[11:15]))
    return ticks * TICK_S


def load(url: str, concurrency: int, seconds: float, events: int = 0) -> dict[str, float]:
    command = [sys.executable, "-m", "proxy_bench.load", url]
    command += ["--concurrency", str(concurrency), "--seconds", str(seconds)]
    command += ["--events", str(events)]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.strip() or f"the load on {url} failed")
    return json.loads(done.stdout)


def await_answer(contender: Contender, process: subprocess.Popen[str], log: Path) -> None:
    body = json.dumps({"model": "m", "prompt": "x", "max_tokens": 1}).encode()
    asked = urllib.request.Request(
        contender.url + "/v1/completions", body, {"Content-Type": "application/json"}
    )
    deadline = time.monotonic() + START_S
    while True:
        try:
            with urllib.request.urlopen(asked, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError) as problem:
            if process.poll() is not None or time.monotonic() > deadline:
                text = log.read_text()[-2000:]
                raise SystemExit(f"{contender.name} does not start: {problem}\n{text}") from None
            time.sleep(0.2)


def contenders(prefill: str, decode: str, router: str | None) -> list[Contender]:
    port = free_port()
    command = [sys.executable, "-c", "from pd_testkit.cli import main; main()", "proxy"]
    command += ["--prefill", prefill, "--decode", decode, "--protocol", "nixl"]
    found = [Contender("pd-testkit proxy", [*command, "--port", str(port)], port)]
    missing = [m for m in ("quart", "hypercorn", "aiohttp") if not importlib.util.find_spec(m)]
    if missing:
        print(f"not compared with the classic proxy: {', '.join(missing)} not installed")
    else:
        port = free_port()
        command = [sys.executable, "-m", "proxy_bench.classic", str(port), prefill, decode]
        found.append(Contender("classic", command, port))
    if router is None:
        print("not compared with vllm-router: not installed (--vllm-router PATH)")
    else:
        port = free_port()
        command = [router, "--vllm-pd-disaggregation", "--prefill", prefill, "--decode", decode]
        command += ["--policy", "round_robin", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--prometheus-port", str(free_port()), "--log-level", "error"]
        found.append(Contender("vllm-router", command, port))
    return found


def measure(contender: Contender, direct_ms: float, seconds: float) -> None:
    def cpu(count: str, concurrency: int, events: int = 0) -> tuple[dict[str, float], float]:
        before = processor_seconds(contender.group)
        done = load(contender.url, concurrency, seconds, events)
        used = processor_seconds(contender.group) - before
        return done, used / done[f"all_{count}"] * 1e6

    figures = contender.figures
    alone = load(contender.url, 1, seconds / 2)
    figures["added_ms"].append(alone["p50_ms"] - direct_ms)
    done, used = cpu("requests", 32)
    figures["cpu_us"].append(used)
    figures["rps"].append(done["requests"] / done["seconds"])
    done, used = cpu("events", 8, EVENTS)
    figures["event_us"].append(used)
    figures["eps"].append(done["events"] / done["seconds"])


def report(ran: list[Contender]) -> None:
    width = max(len(text) for text, _ in UNITS.values())
    print(f"{'':{width}}" + "".join(f"  {c.name:>16}" for c in ran))
    for name, (text, _) in UNITS.items():
        print(f"{text:{width}}" + "".join(f"  {c.median(name):16.{_digits(name)}f}" for c in ran))
    ours = ran[0]
    for other in ran[1:]:
        print(f"pd-testkit proxy over {other.name}:")
        for name, (text, better) in UNITS.items():
            wanted = "less" if better is min else "more"
            print(f"  {text:{width}}  {ratio(ours, other, name):6.2f}  ({wanted} is better)")


def _digits(name: str) -> int:
    return {"added_ms": 2, "event_us": 1}.get(name, 0)


def ratio(one: Contender, other: Contender, name: str) -> float:
    """The median of the rounds' ratios."""
    pairs = zip(one.figures[name], other.figures[name], strict=True)
    return statistics.median(a / b for a, b in pairs)


def failed_aims(ran: list[Contender]) -> list[str]:
    ours, *others = ran
    failed = []
    for other in others:
        if other.name == "vllm-router" and (found := ratio(ours, other, "cpu_us")) > AIM_CPU:
            failed.append(f"CPU per request is {found:.2f} of vllm-router's, not {AIM_CPU} or less")
        if other.name == "classic" and (found := ratio(ours, other, "rps")) < AIM_THROUGHPUT:
            failed.append(f"requests/s are {found:.1f} times the classic's, not {AIM_THROUGHPUT}")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="per measurement")
    parser.add_argument("--vllm-router", default=shutil.which("vllm-router"), metavar="PATH")
    parser.add_argument("--check", action="store_true", help="exit with 1 unless the aims hold")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engine = stack.enter_context(
            started([sys.executable, "-m", "proxy_bench.engine"], subprocess.PIPE)
        )
        assert engine.stdout is not None
        stack.callback(engine.stdout.close)
        prefill, decode = engine.stdout.readline().split()
        ran = contenders(prefill, decode, options.vllm_router)
        for contender in ran:
            log = folder / contender.name
            process = stack.enter_context(
                started(contender.command, stack.enter_context(log.open("w")))
            )
            contender.group = process.pid
            await_answer(contender, process, log)
        for number in range(options.rounds):
            direct = load(decode, 1, options.seconds / 2)["p50_ms"]
            turns = ran[number % len(ran) :] + ran[: number % len(ran)]
            for contender in turns:
                measure(contender, direct, options.seconds)
    print(f"{options.rounds} rounds of {options.seconds} s, medians; {os.cpu_count()} processors")
    report(ran)
    failed = failed_aims(ran)
    for line in failed:
        print(f"aim missed: {line}")
    return int(options.check and bool(failed))


if __name__ == "__main__":
    sys.exit(main())
