"""What moves from P to D when a conversation goes over P at each turn, and D has its beginning.

    python benchmarks/selective_transfer.py [--turns 10] [--tokens 100] [--block-sizes 100 16]

Each turn's prompt is the last one and as many tokens more; its answer has one token, which is no
part of the next prompt. So turn n has ``n * tokens`` tokens. A D that reuses its prefix cache asks
P only for the blocks that it lacks; one with ``--no-prefix-caching`` asks for all of them. For each
block size and each kind of D, a stack of one P, one D and the proxy in mode ``pd`` is brought up by
``pd-testkit up``, and D's own metrics are read after each turn: bytes that were transferred, and
tokens that came from P.

The arithmetic: all of it is ``tokens * (1 + 2 + ... + turns)`` tokens, the new ones are
``tokens * turns``; with 10 turns of 100 tokens 5500 and 1000, 5.5 times as many. D caches whole
blocks: of ``n`` tokens it has ``n // block size * block size``, and the rest of the last block
moves again at the next turn. Where the block size divides the turn, it is the arithmetic exactly.

Exits with 1 if what was measured is not what that says: it is a count, and no time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import aiohttp

from pd_testkit.bench.endpoint import Ask, Endpoint
from pd_testkit.bench.kv.movement import Counters, Engines

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def expected(turns: int, tokens: int, block_size: int, reuses: bool) -> list[int]:
    """Tokens that each turn has to move."""
    cached = [turn * tokens // block_size * block_size if reuses else 0 for turn in range(turns)]
    return [(turn + 1) * tokens - cached[turn] for turn in range(turns)]


def piece(turn: int, tokens: int) -> str:
    """One turn's text; a character is a token."""
    return "".join(LETTERS[(at * 7 + turn * 5) % len(LETTERS)] for at in range(tokens))


async def converse(turns: int, tokens: int) -> list[tuple[int, int]]:
    """Against the stack of the environment: tokens and bytes that each turn moved, as D counts."""
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        endpoint = Endpoint(session, os.environ["PD_ENDPOINT"], os.environ["PD_MODEL"])
        engines = Engines(
            [endpoint.elsewhere(url) for url in os.environ["PD_PREFILL_ENDPOINTS"].split(",")],
            [endpoint.elsewhere(url) for url in os.environ["PD_DECODE_ENDPOINTS"].split(",")],
        )
        moved, prompt = [], ""
        before = (await engines.snapshot()).decode
        for turn in range(turns):
            prompt += piece(turn, tokens)
            body = {"model": endpoint.model, "prompt": prompt, "max_tokens": 1, "temperature": 0}
            answer = await endpoint.answer(Ask("/v1/completions", body))
            assert answer.usage is not None
            if answer.usage.prompt_tokens != len(prompt):
                raise SystemExit(
                    f"{len(prompt)} characters are {answer.usage.prompt_tokens} tokens"
                )
            after = (await engines.snapshot()).decode
            moved.append(_moved(after.since(before)))
            before = after
        return moved


def _moved(counted: Counters) -> tuple[int, int]:
    assert counted.external_hits is not None
    assert counted.transfer_bytes is not None
    return int(counted.external_hits), int(counted.transfer_bytes)


def measured(turns: int, tokens: int, block_size: int, reuses: bool) -> list[tuple[int, int]]:
    """The same of a stack that is brought up for it."""
    up = [Path(sys.executable).parent / "pd-testkit", "up", "--prefill", "1", "--decode", "1"]
    name = f"selective-{block_size}-{'reuses' if reuses else 'forgets'}-{os.getpid()}"
    flags = {"name": name, "prefill-block-size": block_size, "decode-block-size": block_size}
    ports = ("router", "prefill", "decode", "prefill-side", "decode-side", "discovery", "metrics")
    flags |= {f"{port}-port": 0 for port in ports}
    here = [sys.executable, __file__, "--converse", "--turns", str(turns), "--tokens", str(tokens)]
    flags["then"] = shlex.join(here)
    if not reuses:
        flags["decode-args"] = "--no-prefix-caching"
    command = [*map(str, up), *(part for flag in flags.items() for part in _given(*flag))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.strip())
    return [tuple(turn) for turn in json.loads(done.stdout.splitlines()[-1])]


def _given(flag: str, value: object) -> tuple[str, str]:
    return f"--{flag}", str(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=100, help="that each turn adds")
    parser.add_argument("--block-sizes", type=int, nargs="+", default=[100, 16])
    parser.add_argument("--converse", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    turns, tokens = options.turns, options.tokens
    if options.converse:
        print(json.dumps(asyncio.run(converse(turns, tokens))))
        return 0
    wrong = False
    for block_size in options.block_sizes:
        all_of_it = measured(turns, tokens, block_size, reuses=False)
        selective = measured(turns, tokens, block_size, reuses=True)
        print(f"\nblocks of {block_size} tokens")
        print(f"{'':5} {'':7} | {'D forgets':>19} | {'D reuses its prefix':>19}")
        print(f"{'turn':5} {'prompt':>7}" + f" | {'tokens':>7} {'bytes':>11}" * 2)
        for turn, (all_moved, new) in enumerate(zip(all_of_it, selective, strict=True), 1):
            print(_row(str(turn), turn * tokens, all_moved, new))
        first, second = _sum(all_of_it), _sum(selective)
        print(_row("all", tokens * turns * (turns + 1) // 2, first, second))
        print(f"{first[1] / second[1]:.2f} times as many bytes without the prefix")
        per_token = first[1] / first[0]
        for name, kind, reuses in (("forgets", all_of_it, False), ("reuses", selective, True)):
            right = expected(turns, tokens, block_size, reuses)
            if kind != [(each, each * per_token) for each in right]:
                print(f"a D that {name}: expected {right} tokens", file=sys.stderr)
                wrong = True
    return int(wrong)


def _sum(moved: list[tuple[int, int]]) -> tuple[int, int]:
    return sum(tokens for tokens, _ in moved), sum(size for _, size in moved)


def _row(turn: str, prompt: int, first: tuple[int, int], second: tuple[int, int]) -> str:
    parts = " | ".join(f"{tokens:7} {size:11}" for tokens, size in (first, second))
    return f"{turn:5} {prompt:7} | {parts}"


if __name__ == "__main__":
    raise SystemExit(main())
