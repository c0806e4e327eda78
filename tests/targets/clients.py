"""Real clients through the proxy: what they count must be what the engines have done."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.targets.behind_proxy import MODEL, Ledger, behind_proxy
from tests.targets.environments import ENVIRONMENTS, install

REQUESTS = 20
TOKENS = 8
_LIMIT_S = 180.0
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Count:
    """What a client says."""

    successful: int
    tokens: float
    """Of all answers."""


@dataclass(frozen=True)
class Client:
    """One of them: its command for a proxy's URL and a folder, and how its result is read."""

    name: str
    command: Callable[[str, Path], list[str]]
    read: Callable[[Path, str], Count]
    offline: bool = True
    """It loads its tokenizer with HF_HUB_OFFLINE; aiperf takes that for a missing one."""


def _aiperf(url: str, folder: Path) -> list[str]:
    return [
        *("aiperf", "profile", "--model", MODEL, "--tokenizer", str(folder / "tokenizer")),
        *("--url", url, "--endpoint-type", "chat", "--streaming", "--concurrency", "4"),
        *("--request-count", str(REQUESTS), "--isl", "64", "--osl", str(TOKENS), "--ui", "none"),
        *("--no-gpu-telemetry", "--no-server-metrics"),
        *("--output-artifact-dir", str(folder / "aiperf")),
    ]


def _read_aiperf(folder: Path, _: str) -> Count:
    found = json.loads(next((folder / "aiperf").rglob("profile_export_aiperf.json")).read_text())
    requests = int(found["request_count"]["avg"])
    return Count(requests, found["output_sequence_length"]["avg"] * requests)


def _guidellm(url: str, folder: Path) -> list[str]:
    tokenizer = folder / "tokenizer"
    return [
        *("guidellm", "run", "--backend", f"kind=openai_http,target={url},model={MODEL}"),
        *("--tokenizer", f"kind=huggingface_auto,model={tokenizer}"),
        *("--data", f"kind=synthetic_text,prompt_tokens=64,output_tokens={TOKENS}"),
        *("--profile", "kind=constant,rate=10"),
        *("--constraint", f"kind=max_requests,count={REQUESTS}"),
        *("--output", f"kind=json,path={folder / 'guidellm.json'}"),
    ]


def _read_guidellm(folder: Path, _: str) -> Count:
    found = json.loads((folder / "guidellm.json").read_text())["benchmarks"][0]["metrics"]
    tokens = found["output_token_count"]["successful"]
    return Count(found["request_totals"]["successful"], tokens["total_sum"])


def _openai(url: str, _: Path) -> list[str]:
    return ["python", str(_HERE / "openai_client.py"), url, str(REQUESTS), str(TOKENS)]


def _read_openai(_: Path, said: str) -> Count:
    found = json.loads(said.splitlines()[-1])
    return Count(found["requests"], found["tokens"])


CLIENTS = (
    Client("openai", _openai, _read_openai),
    Client("aiperf", _aiperf, _read_aiperf, offline=False),
    Client("guidellm", _guidellm, _read_guidellm),
)


def check(folder: Path, say: Callable[[str], None]) -> list[str]:
    """Run each client; gives what is wrong, one line each.

    Raises:
        InstallError: their environment cannot be made.
    """
    python = install(ENVIRONMENTS["clients"], say)
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [str(python), str(_HERE / "tiny_tokenizer.py"), str(folder / "tokenizer")],
        check=True,
        timeout=_LIMIT_S,
    )
    problems = []
    for client in CLIENTS:
        began = time.monotonic()
        with behind_proxy() as (url, ledger):
            wrong = _run(client, url, folder, python.parent, ledger)
        seconds = time.monotonic() - began
        say(f"{client.name}: {'FAILED' if wrong else 'as it should'}, {seconds:.0f} s")
        problems += [f"{client.name}: {line}" for line in wrong]
    return problems


def _run(client: Client, url: str, folder: Path, binaries: Path, ledger: Ledger) -> list[str]:
    log = folder / f"{client.name}.log"
    with log.open("w") as output:
        try:
            ended = subprocess.run(
                client.command(url, folder),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                cwd=folder,
                env=_environment(binaries, client.offline),
                timeout=_LIMIT_S,
            )
        except subprocess.TimeoutExpired:
            return [f"not done in {_LIMIT_S:.0f} s ({log})"]
        output.write(ended.stdout)
    if ended.returncode:
        return [f"exit status {ended.returncode} ({log})"]
    count = client.read(folder, ended.stdout)
    return [
        line
        for line, wrong in (
            (f"counts {count.successful} answers, not {REQUESTS}", count.successful != REQUESTS),
            (f"counts {count.tokens:g} tokens", round(count.tokens) != REQUESTS * TOKENS),
            (f"D took {len(ledger.taken)} hand-offs", len(ledger.taken) != REQUESTS),
            (f"P's KV of {len(ledger.handed_off)} was never taken", bool(ledger.handed_off)),
            (f"{ledger.problems[:3]}", bool(ledger.problems)),
        )
        if wrong
    ]


def _environment(binaries: Path, offline: bool) -> Mapping[str, str]:
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment["PATH"] = os.pathsep.join([str(binaries), environment.get("PATH", "")])
    return environment | ({"HF_HUB_OFFLINE": "1"} if offline else {})
