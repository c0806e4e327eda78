"""``pd-testkit bench`` next to aiperf, guidellm and ``vllm bench serve``: the same load in turn.

    pd-testkit up --prefill-args '--timing FILE' --decode-args '--timing FILE' \
        --then 'python benchmarks/against_clients.py --clients ENVIRONMENT [--vllm ENVIRONMENT]'

ENVIRONMENT is a virtual environment that has them (`python -m tests.targets clients` makes one). A
stack whose steps take a stated time (``--timing``) says the same to each of them; one that computes
as fast as it can says what else the machine did. The clients' tokenizer is the CPU engine's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE_S = 400
MEASURES = ("ttft mean", "ttft p50", "tpot mean", "e2e mean", "e2e p50", "requests/s", "tokens")
VLLM = (
    "import argparse; from vllm.benchmarks.serve import add_cli_args, main; "
    "options = argparse.ArgumentParser(); add_cli_args(options); main(options.parse_args())"
)
"""`vllm bench serve` without the server's modules, which a build for no device does not have."""


@dataclass(frozen=True)
class Load:
    url: str
    model: str
    requests: int
    concurrency: int
    prompt: int
    answer: int
    folder: Path

    @property
    def tokenizer(self) -> Path:
        return self.folder / "tokenizer"


def write_tokenizer(folder: Path) -> None:
    """One token per byte, by the letters that GPT-2 has for bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(each) for each in shown] + [chr(256 + i) for i in range(256 - len(shown))]
    vocabulary = {letter: id_ for id_, letter in enumerate(sorted(letters))} | {"</s>": 256}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": 256,
                "content": "</s>",
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
        ],
        "normalizer": None,
        "pre_tokenizer": {**level, "use_regex": True},
        "post_processor": None,
        "decoder": {**level, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "</s>",
        "model_max_length": 4096,
    }
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(document), "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(about), "utf-8")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}), "utf-8")


def ours(load: Load, _: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "pd_testkit", "bench", "--endpoint", load.url, "--chat"),
        *("--model", load.model, "--requests", str(load.requests)),
        *("--concurrency", str(load.concurrency), "--prompt-tokens", str(load.prompt)),
        *("--max-tokens", str(load.answer), "--output", str(load.folder / "ours.jsonl")),
    ]


def read_ours(load: Load) -> dict[str, float]:
    lines = (load.folder / "ours.jsonl").read_text().splitlines()
    told = json.loads(lines[-1])["summary"]
    (load.folder / "ours.jsonl").unlink()
    return {
        "ttft mean": told["ttft"]["mean"] * 1e3,
        "ttft p50": told["ttft"]["p50"] * 1e3,
        "tpot mean": told["tpot"]["mean"] * 1e3,
        "e2e mean": told["e2e"]["mean"] * 1e3,
        "e2e p50": told["e2e"]["p50"] * 1e3,
        "requests/s": told["requests_per_s"],
        "tokens": told["output_tokens"] / told["completed"],
    }


def aiperf(load: Load, binaries: Path) -> list[str]:
    return [
        *(str(binaries / "aiperf"), "profile", "--model", load.model, "--url", load.url),
        *("--tokenizer", str(load.tokenizer), "--endpoint-type", "chat", "--streaming"),
        *("--concurrency", str(load.concurrency), "--request-count", str(load.requests)),
        *("--isl", str(load.prompt), "--osl", str(load.answer), "--ui", "none"),
        *("--extra-inputs", "ignore_eos:true", "--extra-inputs", f"min_tokens:{load.answer}"),
        *("--no-gpu-telemetry", "--no-server-metrics"),
        *("--output-artifact-dir", str(load.folder / "aiperf")),
    ]


def read_aiperf(load: Load) -> dict[str, float]:
    file = next((load.folder / "aiperf").rglob("profile_export_aiperf.json"))
    told: dict[str, Any] = json.loads(file.read_text())
    return {
        "ttft mean": told["time_to_first_token"]["avg"],
        "ttft p50": told["time_to_first_token"]["p50"],
        "tpot mean": told["inter_token_latency"]["avg"],  # per request, as others' TPOT
        "e2e mean": told["request_latency"]["avg"],
        "e2e p50": told["request_latency"]["p50"],
        "requests/s": told["request_throughput"]["avg"],
        "tokens": told["output_sequence_length"]["avg"],
    }


def guidellm(load: Load, binaries: Path) -> list[str]:
    sizes = f"prompt_tokens={load.prompt},output_tokens={load.answer}"
    return [
        *(str(binaries / "guidellm"), "run"),
        *("--backend", f"kind=openai_http,target={load.url},model={load.model}"),
        *("--tokenizer", f"kind=huggingface_auto,model={load.tokenizer}"),
        *("--data", f"kind=synthetic_text,{sizes}"),
        *("--profile", f"kind=concurrent,streams={load.concurrency}"),
        *("--constraint", f"kind=max_requests,count={load.requests}"),
        *("--output", f"kind=json,path={load.folder / 'guidellm.json'}"),
    ]


def read_guidellm(load: Load) -> dict[str, float]:
    told = json.loads((load.folder / "guidellm.json").read_text())["benchmarks"][0]["metrics"]

    def of(name: str, which: str) -> float:
        return float(told[name]["successful"][which])

    return {
        "ttft mean": of("time_to_first_token_ms", "mean"),
        "ttft p50": of("time_to_first_token_ms", "median"),
        "tpot mean": of("inter_token_latency_ms", "mean"),  # without the first token
        "e2e mean": of("request_latency", "mean") * 1e3,
        "e2e p50": of("request_latency", "median") * 1e3,
        "requests/s": of("requests_per_second", "mean"),
        "tokens": of("output_token_count", "mean"),
    }


def vllm(load: Load, binaries: Path) -> list[str]:
    return [
        *(str(binaries / "python"), "-c", VLLM, "--backend", "openai-chat", "--model", load.model),
        *("--base-url", load.url, "--endpoint", "/v1/chat/completions"),
        *("--tokenizer", str(load.tokenizer), "--dataset-name", "random", "--ignore-eos"),
        *("--random-input-len", str(load.prompt), "--random-output-len", str(load.answer)),
        *("--num-prompts", str(load.requests), "--max-concurrency", str(load.concurrency)),
        *("--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,99"),
        *("--save-result", "--result-dir", str(load.folder), "--result-filename", "vllm.json"),
    ]


def read_vllm(load: Load) -> dict[str, float]:
    told = json.loads((load.folder / "vllm.json").read_text())
    return {
        "ttft mean": told["mean_ttft_ms"],
        "ttft p50": told["median_ttft_ms"],
        "tpot mean": told["mean_tpot_ms"],
        "e2e mean": told["mean_e2el_ms"],
        "e2e p50": told["median_e2el_ms"],
        "requests/s": told["request_throughput"],
        "tokens": told["total_output_tokens"] / told["completed"],
    }


Row = tuple[str, dict[str, float]]


def measured(
    name: str,
    command: Callable[[Load, Path], list[str]],
    read: Callable[[Load], dict[str, float]],
    load: Load,
    binaries: Path,
    offline: str | None = "1",
) -> Row | None:
    """None, and the end of what it said, where the client fails."""
    environment = {each: os.environ[each] for each in os.environ if each != "HF_HUB_OFFLINE"}
    if offline:
        environment["HF_HUB_OFFLINE"] = offline
    ended = subprocess.run(
        command(load, binaries),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=load.folder,
        env=environment,
        timeout=PATIENCE_S,
    )
    if ended.returncode:
        print(f"{name}: exit status {ended.returncode}: {ended.stdout[-1500:]}", file=sys.stderr)
        return None
    return name, read(load)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--endpoint", default=os.environ.get("PD_ENDPOINT"))
    options.add_argument("--model", default=os.environ.get("PD_MODEL"))
    options.add_argument("--clients", type=Path, required=True, help="has aiperf and guidellm")
    options.add_argument("--vllm", type=Path, help="has vLLM")
    options.add_argument("--requests", type=int, default=60)
    options.add_argument("--concurrency", type=int, default=4)
    options.add_argument("--prompt-tokens", type=int, default=64)
    options.add_argument("--max-tokens", type=int, default=16)
    told = options.parse_args()
    sizes = (told.requests, told.concurrency, told.prompt_tokens, told.max_tokens)
    with tempfile.TemporaryDirectory() as folder:
        load = Load(told.endpoint, told.model, *sizes, Path(folder))
        write_tokenizer(load.tokenizer)
        binaries = told.clients / "bin"
        rows = [
            measured("pd-testkit bench", ours, read_ours, load, binaries),
            measured("aiperf", aiperf, read_aiperf, load, binaries, offline=None),
            measured("guidellm", guidellm, read_guidellm, load, binaries),
        ]
        if told.vllm:
            rows.append(measured("vllm bench serve", vllm, read_vllm, load, told.vllm / "bin"))
        rows.append(measured("pd-testkit bench", ours, read_ours, load, binaries))
    print("| ms | " + " | ".join(MEASURES) + " |")
    print("|---" * (len(MEASURES) + 1) + "|")
    for name, values in filter(None, rows):
        print(f"| {name} | " + " | ".join(f"{values[each]:.1f}" for each in MEASURES) + " |")
    return int(not all(rows))


if __name__ == "__main__":
    sys.exit(main())
