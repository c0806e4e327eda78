"""How long merging copies takes in the reference, against a plain loop or another target.

    python benchmarks/merge_blocks.py [--against atom --source DIR] [--blocks 100000] [--limit 1.0]

Each case is timed side by side in each round, in the thread's processor time, and the ratio is
that of the best of each. Fails where the reference takes more than ``--limit`` times as long.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pd_testkit.contract import Target, Unit, make_driver
from pd_testkit.reference.copies import Copies, merge
from pd_testkit.targets import load, open_target

BLOCK = 65536

Merge = Callable[[list[int], list[int], list[int]], Copies]


def plain_loop(local: list[int], remote: list[int], sizes: list[int]) -> Copies:
    """The same in plain Python, without the checks."""
    merged: list[list[int]] = []
    for to, source, size in sorted(zip(local, remote, sizes, strict=True)):
        if merged:
            last = merged[-1]
            if last[0] + last[2] == to and last[1] + last[2] == source:
                last[2] += size
                continue
        merged.append([to, source, size])
    return tuple([row[column] for row in merged] for column in range(3))


def cases(count: int) -> dict[str, Copies]:
    """Copies of ``count`` blocks: one run, runs of ten, no run at all, and runs in any order."""
    blocks = list(range(count))
    shuffled = random.Random(0).sample(blocks, count)
    pairs = {
        "one run": (blocks, blocks),
        "runs of ten": (blocks, [block + block // 10 for block in blocks]),
        "no runs": (blocks, [2 * block for block in blocks]),
        "shuffled": (shuffled, [block + block // 10 for block in shuffled]),
    }
    return {
        name: ([b * BLOCK for b in local], [b * BLOCK for b in remote], [BLOCK] * count)
        for name, (local, remote) in pairs.items()
    }


def seconds(merge: Merge, copies: Copies) -> float:
    start = time.thread_time()
    merge(*copies)
    return time.thread_time() - start


def compare(name: str, other: Merge, blocks: int, rounds: int, limit: float) -> int:
    """Print a line per case; gives the number of those above the limit."""
    above = 0
    for case, copies in cases(blocks).items():
        if merge(*copies) != tuple(other(*copies)):
            raise SystemExit(f"{case}: the reference and {name} differ")
        both = [(seconds(merge, copies), seconds(other, copies)) for _ in range(rounds)]
        ours, theirs = (min(column) for column in zip(*both, strict=True))
        above += ours > theirs * limit
        print(
            f"{blocks} blocks, {case:11}: reference {ours * 1e3:6.2f} ms, "
            f"{name} {theirs * 1e3:6.2f} ms, ratio {ours / theirs:.2f}"
        )
    return above


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", metavar="TARGET", help="target to compare with, such as atom")
    parser.add_argument("--source", type=Path, metavar="DIR", help="its source tree")
    parser.add_argument("--blocks", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--limit", type=float, default=1.0, help="greatest ratio that passes")
    options = parser.parse_args()
    sizes = options.blocks, options.rounds, options.limit
    if options.against is None:
        return int(compare("plain loop", plain_loop, *sizes) > 0)
    target: Target = load(options.against, options.source)
    open_target(target)
    try:
        return int(compare(target.name, make_driver(target, Unit.TRANSFER).merge, *sizes) > 0)
    finally:
        target.close()


if __name__ == "__main__":
    sys.exit(main())
