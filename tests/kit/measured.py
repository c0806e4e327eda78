"""Results of runs that nobody made, for plots and reports: seeded, or with values set by hand."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pd_testkit.bench.measures import Distribution, summarise
from pd_testkit.bench.results import End, Request, Run, Writer

ENVIRONMENT = {"pd_testkit": "0.1.0", "commit": "abc123def456", "python": "3.11.9", "cores": 2}


def run_of(command: str = "bench", label: str = "", seed: int = 7, **configuration: Any) -> Run:
    return Run(
        schema=1,
        id=f"{command}-{label}-{sorted(configuration.items())}",
        command=command,
        began=1_700_000_000.0,
        seed=seed,
        configuration={"model": "tiny", **configuration},
        environment=ENVIRONMENT,
        label=label,
    )


def answered(
    index: int,
    *,
    due: float = 0.0,
    ttft: float = 0.1,
    gaps: Sequence[float] = (0.01, 0.01),
    **fields: Any,
) -> Request:
    """A streamed answer of one token per piece."""
    pieces = [due + ttft]
    for gap in gaps:
        pieces.append(pieces[-1] + gap)
    given: dict[str, Any] = {"prompt_tokens": 64, "output_tokens": len(pieces), "status": 200}
    return Request(
        index=index, due=due, sent=due, ended=pieces[-1], pieces=tuple(pieces), **given | fields
    )


def written(
    path: Path,
    run: Run,
    requests: Sequence[Request] = (),
    *,
    summary: dict[str, Any] | None = None,
    ends: bool = True,
    **end: Any,
) -> Path:
    """The file; without an `End` where it is not to end."""
    told = summarise(requests).told() if summary is None else summary
    with Writer(path, run) as writer:
        for request in requests:
            writer.write(request)
        if ends:
            writer.write(End(ended=9.0, summary=told, **end))
    return path


def load(
    path: Path,
    *,
    concurrency: int,
    prompt: int = 256,
    output: int = 16,
    slower: float = 1.0,
    seed: int = 1,
    requests: int = 60,
    label: str = "",
    tags: dict[str, Any] | None = None,
    **end: Any,
) -> Path:
    """A closed loop against an engine that gets slower with what it has at once."""
    chance = random.Random(f"{seed} {concurrency} {prompt} {label}")
    users = [0.0] * concurrency
    made = []
    for index in range(requests):
        user = users.index(min(users))
        busy = 1 + 0.06 * concurrency
        ttft = slower * busy * (0.02 + prompt * 8e-5) * chance.lognormvariate(0, 0.25)
        gaps = [slower * busy * 0.009 * chance.lognormvariate(0, 0.3) for _ in range(output - 1)]
        made.append(answered(index, due=users[user], ttft=ttft, gaps=gaps, prompt_tokens=prompt))
        users[user] = made[-1].ended
    run = run_of(
        label=label,
        seed=seed,
        arrivals="closed",
        concurrency=concurrency,
        rate=None,
        requests=requests,
        duration_s=None,
        prompt_tokens=prompt,
        max_tokens=output,
        stream=True,
        tags=tags or {},
    )
    return written(path, run, made, **end)


def turn(number: int, e2e: Sequence[float], local: float, external: float, moved: float) -> Any:
    of = Distribution.of(e2e)
    assert of
    return {
        "turn": number,
        "requests": len(e2e),
        "cumulative_tokens": 100.0 * number,
        "kv_bytes": 131072.0 * 100 * number,
        "e2e": of.told(),
        "ttft": of.told(0.5),
        "local_hit_rate": local,
        "external_hit_rate": external,
        "bytes_moved": moved,
        "moved_tokens": moved / 131072,
    }


def comparison(path: Path, turns: int = 5, label: str = "", alone: bool = False) -> Path:
    """PD against PPD, where each turn after the first is 40 ms faster.

    `alone`: nothing tells an interval, and a third mode held no conversation.
    """
    pd, ppd, pairs = [], [], []
    for number in range(1, turns + 1):
        base = [0.14 + 0.01 * number + 0.002 * each for each in range(5)]
        saved = 0.0 if number == 1 else 0.04
        pd.append(turn(number, base, 0.6 if number > 1 else 0.0, 0.35 if number > 1 else 0.94, 1e6))
        faster = [each - saved for each in base]
        local = 0.9 if number > 1 else 0.0
        ppd.append(turn(number, faster, local, 0.0 if number > 1 else 0.94, 1e6 * (number == 1)))
        pairs.append(
            {
                "mode": "ppd",
                "baseline": "pd",
                "turn": number,
                "baseline_s": sum(base) / 5,
                "mode_s": sum(faster) / 5,
                "speedup": sum(base) / sum(faster),
                "difference_s": -saved,
                "low_s": None if alone else -saved - 0.006,
                "high_s": None if alone else -saved + 0.005,
                "confidence": 0.95,
                "count": 5,
                "note": "P->D" if number == 1 else "D-direct",
            }
        )
    whole = dict(pairs[1], turn=None, note="")
    modes: dict[str, Any] = {
        "pd": {"turns": pd, "local_hit_rate": 0.5, "external_hit_rate": 0.45, "bytes_moved": 5e6},
        "ppd": {"turns": ppd, "local_hit_rate": 0.8, "external_hit_rate": 0.1, "bytes_moved": 1e6},
    }
    if alone:
        names = ("cumulative_tokens", "kv_bytes", "e2e", "ttft", "local_hit_rate")
        none: dict[str, Any] = dict.fromkeys((*names, "external_hit_rate", "bytes_moved"))
        modes["aggregated"] = {"turns": [{"turn": 1, "requests": 0, **none}]}
    run = run_of("compare", label, turns=turns)
    requests = [
        answered(number, due=number, mode=mode, conversation=0, turn=number)
        for number in range(1, turns + 1)
        for mode in modes
    ]
    return written(path, run, requests, summary={"modes": modes, "pairs": [*pairs, whole]})


def bandwidth(path: Path, label: str = "") -> Path:
    """2 GB/s from TTFT, 3 GB/s from the engines' metrics."""
    points = []
    for tokens in (128, 512, 2048, 8192):
        size = tokens * 131072
        points.append(
            {
                "prompt_tokens": tokens,
                "bytes": size,
                "ttft_s": 0.05 + size / 2e9,
                "direct_ttft_s": 0.05,
                "transfer_s": size / 3e9,
                "bytes_per_s": 2e9,
            }
        )
    summary = {
        "kv_bytes_per_token": 131072,
        "points": points,
        "apparent_bytes_per_s": 2e9,
        "transfer_bytes_per_s": 3e9,
        "link": "loopback",
        "verdict": "plausible for loopback",
    }
    return written(path, run_of("bandwidth", label), summary=summary)
