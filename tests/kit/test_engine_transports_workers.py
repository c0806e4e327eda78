"""The reference's workers load real KV from a worker in another process, over each transport."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from pd_testkit.engine.settings import TRANSPORTS
from pd_testkit.reference.kv_memory import cache_names, cache_shape
from tests.kit.peer_process import Peer
from tests.kit.transport_side import needs
from tests.kit.transport_worker import BLOCKS, GEOMETRY, Worker

START = """
from tests.kit.transport_worker import Worker
worker = Worker(kind, "p", 2, writes)
worker.port()
"""


@contextmanager
def pair(kind: str, writes: bool) -> Iterator[tuple[Peer, int, Worker]]:
    """P in another process, its side channel's port, and D in this one."""
    with Peer() as p:
        port = p.run(START, kind=kind, writes=writes)
        d = Worker(kind, "d", 1, writes)
        try:
            yield p, port, d
        finally:
            d.close()
            if p.process.poll() is None:
                p.run("worker.close()")


@pytest.mark.parametrize("writes", [False, True], ids=["read", "write"])
@pytest.mark.parametrize("kind", TRANSPORTS)
def test_requests_get_the_blocks_that_a_prefill_process_holds(kind: str, writes: bool) -> None:
    needs(kind)
    local, remote = (9, 2, 3, 4, 14), (0, 7, 8, 9, 3)
    random, shape = np.random.default_rng(2), cache_shape(GEOMETRY, BLOCKS)
    theirs = {name: random.random(shape, dtype=np.float32) for name in cache_names(GEOMETRY)}
    with pair(kind, writes) as (p, port, d):
        expected = {name: cache.copy() for name, cache in d.caches.items()}
        for name, cache in expected.items():
            cache[list(local)] = theirs[name][list(remote)]
        for transfer_id in ("first", "second"):
            p.run("worker.hold(id, blocks)", id=transfer_id, blocks=remote)
            p.start("worker.sent()")
            done = d.load("p", port, transfer_id, local, remote)
            assert done.received == {f"r-{transfer_id}"}
            assert p.result() == [transfer_id]
        for name, cache in d.caches.items():
            np.testing.assert_array_equal(cache, expected[name])
        assert (d.transport.tally.transfers > 0) is not writes


@pytest.mark.parametrize("kind", TRANSPORTS)
def test_a_load_from_a_prefill_process_that_died_fails(kind: str) -> None:
    needs(kind)
    with pair(kind, writes=False) as (p, port, d):
        p.run("worker.hold('t', [1, 2])")
        assert d.load("p", port, "t", (1,), (1,)).received == {"r-t"}
        p.process.kill()
        p.process.wait()
        assert d.load("p", port, "u", (2,), (2,)).failed == {"r-u"}
