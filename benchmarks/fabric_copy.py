"""How fast a batch read moves blocks, against one ``np.copyto`` of the same bytes.

    python benchmarks/fabric_copy.py [--check] [--mib 64] [--rounds 9]

Both are timed side by side in each round, in the thread's processor time, and the ratio is of the
best of each. ``--check`` fails below the limits.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np

from pd_testkit.fabric import Fabric, Session

SIZES = (4096, 65536, 1 << 20)

Ids = np.ndarray


def contiguous(count: int, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """One run on both sides."""
    return np.arange(count), np.arange(count)


def scattered(count: int, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """Half of the remote pool's blocks, ascending, to one run."""
    return np.arange(count), np.sort(rng.permutation(2 * count)[:count])


def shuffled(count: int, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """Any half of the remote pool, in any order, to the local blocks of a run in any order."""
    return rng.permutation(count), rng.permutation(2 * count)[:count]


def paged(count: int, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """Any half of the remote pool to any half of the local one: no run on either side."""
    return rng.permutation(2 * count)[:count], rng.permutation(2 * count)[:count]


PATTERNS = {
    contiguous: {4096: 0.5, 65536: 0.8},
    scattered: {4096: 0.5, 65536: 0.8},
    shuffled: {4096: 0.5, 65536: 0.8},
    # Random on both sides needs one copy call per block, or two passes: seen at 0.38 to 0.51.
    paged: {4096: 0.5, 65536: 0.8},
}
"""Least ratio by block size in bytes."""


def seconds(action: Callable[[], None]) -> float:
    start = time.thread_time()
    action()
    return time.thread_time() - start


def measure(session: Session, block: int, ids: tuple[Ids, Ids], rounds: int) -> tuple[float, float]:
    """Best seconds of one ``np.copyto`` and of one batch read of the same bytes."""
    local, remote = (side.astype(np.int64) * block for side in ids)
    sizes = np.full(len(local), block, dtype=np.int64)
    total = len(local) * block
    source = np.ones(total, dtype=np.uint8)
    target = np.zeros(total, dtype=np.uint8)

    def copy() -> None:
        np.copyto(target, source)

    def read() -> None:
        session.read(local, remote, sizes)
        session.engine.fabric.run_until_idle()

    pairs = [(seconds(copy), seconds(read)) for _ in range(rounds + 1)][1:]
    return min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail below the limits")
    parser.add_argument("--mib", type=int, default=64, help="MiB per batch")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()

    total = options.mib << 20
    fabric = Fabric()
    prefill, decode = fabric.engine("prefill"), fabric.engine("decode")
    decode.connect("prefill")
    pool = np.random.default_rng(0).integers(0, 256, 2 * total, dtype=np.uint8)
    source = prefill.register(pool)
    target = decode.register(np.zeros(2 * total, dtype=np.uint8))
    session = decode.session(target, source.handle)

    failed = False
    print(f"{'block':>9} {'pattern':<11} {'copyto GB/s':>12} {'read GB/s':>10} {'ratio':>6} limit")
    for block in SIZES:
        for pattern, limits in PATTERNS.items():
            ids = pattern(total // block, np.random.default_rng(1))
            base, batch = measure(session, block, ids, options.rounds)
            ratio, limit = base / batch, limits.get(block)
            low = limit is not None and ratio < limit
            failed |= low
            print(
                f"{block:>9} {pattern.__name__:<11} {total / base / 1e9:>12.2f} "
                f"{total / batch / 1e9:>10.2f} {ratio:>6.2f} "
                f"{'' if limit is None else limit}{'  BELOW' if low else ''}"
            )
    return 1 if options.check and failed else 0


if __name__ == "__main__":
    sys.exit(main())
