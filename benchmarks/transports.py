"""How fast the engine's transports move paged blocks between two processes.

    python benchmarks/transports.py [--mib 64] [--rounds 5] [shm zmq nixl mooncake]

Of each transport that is installed: throughput by block size, as the ratio to one ``np.copyto`` of
the same bytes, which is timed beside it in each round (the best of each); and the time that one
block of 4 KiB takes. Blocks go from anywhere in the one pool to anywhere in the other.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import msgspec
import numpy as np

from pd_testkit.engine.settings import TRANSPORTS
from pd_testkit.engine.transports import EngineTransport, MissingPackage, open_transport
from pd_testkit.fabric import RegionHandle, Status

SIZES = (4096, 65536, 1 << 20)
SINGLE = 4096
SINGLES = 200


def serve(kind: str, size: int) -> None:
    """The peer: memory, until stdin ends."""
    transport = open_transport(kind, "peer")
    memory = transport.allocate((size,), np.uint8)
    memory[:] = 1
    print(msgspec.json.encode(transport.register(memory).handle).decode(), flush=True)
    sys.stdin.read()
    transport.close()


class Bench:
    """One transport between this process and a peer."""

    def __init__(self, kind: str, size: int) -> None:
        self.ended = threading.Event()
        self.transport: EngineTransport = open_transport(kind, "here", wake=self.ended.set)
        self.size = size
        self.child = subprocess.Popen(
            [sys.executable, __file__, "--serve", kind, "--mib", str(size >> 20)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        lines = iter(self.child.stdout.readline, b"")
        line = next(line for line in lines if line.startswith(b"["))
        remote = msgspec.json.decode(line, type=RegionHandle)
        memory = self.transport.allocate((size,), np.uint8)
        memory[:] = 2
        self.session = self.transport.session(self.transport.register(memory), remote)

    def seconds(self, mode: str, local: list[int], remote: list[int], block: int) -> float:
        """From the posting to the end."""
        act = getattr(self.session, mode)
        start = time.perf_counter()
        transfer = act(local, remote, [block] * len(local))
        while not transfer.status.done:
            self.ended.wait(1.0)
            self.ended.clear()
        taken = time.perf_counter() - start
        if transfer.status is not Status.SUCCESS:
            sys.exit(f"{mode}: {transfer.status.name}: {transfer.message}")
        return taken

    def ratio(self, mode: str, block: int, rounds: int, rng: np.random.Generator) -> float:
        """To a copy of the same bytes in this process."""
        count = self.size // block // 2
        source, target = np.ones(count * block, np.uint8), np.ones(count * block, np.uint8)
        copies, transfers = [], []
        for _ in range(rounds):
            local, remote = ((rng.permutation(2 * count)[:count] * block) for _ in range(2))
            copies.append(timed(lambda: np.copyto(target, source)))
            transfers.append(self.seconds(mode, local.tolist(), remote.tolist(), block))
        return min(copies) / min(transfers)

    def single(self, mode: str) -> float:
        """Median of one small block's seconds."""
        return statistics.median(self.seconds(mode, [0], [0], SINGLE) for _ in range(SINGLES))

    def close(self) -> None:
        self.child.communicate()
        self.transport.close()


def timed(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("kinds", nargs="*", default=TRANSPORTS)
    arguments.add_argument("--mib", type=int, default=64, help="moved at a time")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--serve", metavar="KIND", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.serve:
        serve(given.serve, given.mib << 20)
        return
    rng = np.random.default_rng(0)
    columns = [f"{block // 1024} KiB" for block in SIZES]
    print(f"{'':22}" + "".join(f"{column:>10}" for column in columns) + f"{'one 4 KiB':>14}")
    for kind in given.kinds:
        try:
            bench = Bench(kind, 2 * given.mib << 20)
        except MissingPackage as missing:
            print(f"{kind:22}not installed: {missing}")
            continue
        for mode in ("read", "write"):
            ratios = [bench.ratio(mode, block, given.rounds, rng) for block in SIZES]
            row = "".join(f"{ratio:10.3f}" for ratio in ratios)
            print(f"{kind + ' ' + mode:22}{row}{bench.single(mode) * 1e6:11.0f} us")
        bench.close()


if __name__ == "__main__":
    main()
