"""Targets: the reference's workers over the engine's transports, for the pair clauses.

    pytest --pyargs pd_testkit.suites --pd-target tests.kit.pair_over_transports:shm_reads

There is one for each transport and mode.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pd_testkit.contract import RequestId, Target, Unit, WorkerSpec
from pd_testkit.engine.transports import EngineTransport, open_transport
from pd_testkit.fabric import Fabric
from pd_testkit.reference.kv_memory import cache_names, cache_shape
from pd_testkit.reference.worker import WorkerSide
from pd_testkit.targets.reference import ReferenceTarget
from pd_testkit.targets.reference_pair import PairDriver, _Workers


class Life:
    """A worker's transport in each of its lives; has what `_Workers` asks of a fabric's engine."""

    def __init__(self, kind: str, name: str, wake: threading.Event) -> None:
        self._kind = kind
        self._name = name
        self._wake = wake
        self.generation = 0
        self.transport: EngineTransport
        self.restart()

    def kill(self) -> None:
        self.transport.close()

    def restart(self) -> None:
        self.generation += 1
        if self.generation > 1:
            self.kill()
        name = f"{self._name}#{self.generation}"
        self.transport = open_transport(self._kind, name, wake=self._wake.set)


class Network:
    """In the place of a fabric."""

    def __init__(self, kind: str, wake: threading.Event) -> None:
        self._kind = kind
        self._wake = wake
        self._lives: list[Life] = []

    def engine(self, name: str) -> Life:
        self._lives.append(Life(self._kind, name, self._wake))
        return self._lives[-1]

    def close(self) -> None:
        for life in self._lives:
            life.kill()


class Workers(_Workers):
    """Those of one engine, whose caches the transports have given."""

    def _worker(self, engine: Life, tp_rank: int, port: int) -> WorkerSide:
        shape = cache_shape(self._geometry, self.spec.num_blocks)
        dtype = np.dtype(f"u{self.spec.itemsize}")
        return WorkerSide(
            engine.transport,
            self.engine_id,
            self._geometry,
            {name: engine.transport.allocate(shape, dtype) for name in cache_names(self._geometry)},
            tp_rank=tp_rank,
            host=self.spec.host,
            port=port,
            writes=self._writes,
            patience_s=self.spec.patience_s,
            wake=self._wake.set,
        )


class TransportPair(PairDriver):
    """Workers of one process, between which a transport is as between processes."""

    def __init__(
        self, kind: str, prefill: Sequence[WorkerSpec], decode: WorkerSpec, mode: str
    ) -> None:
        self._changed = threading.Event()
        self._requests: dict[int | str, RequestId] = {}
        self._network = Network(kind, self._changed)
        self._prefill = []
        try:
            for number, spec in enumerate((*prefill, decode)):
                name = f"p{number}" if number < len(prefill) else "d"
                workers = Workers(self._network, name, spec, mode == "write", self._changed)
                self._prefill.append(workers)
        except BaseException:
            self.close()
            raise
        self._decode = self._prefill.pop()

    def close(self) -> None:
        super().close()
        self._network.close()


class OverTransport(Target):
    """The reference over one transport, in one mode."""

    units = (Unit.HANDSHAKE, Unit.PAIR)
    least_patience_s = 0.2

    def __init__(self, kind: str, mode: str) -> None:
        self.name = f"{kind}-{mode}"
        self.capabilities = replace(
            ReferenceTarget.capabilities,
            fabric=False,
            read_mode=mode == "read",
            write_mode=mode == "write",
        )
        self._kind = kind

    def pair(
        self,
        prefill: Sequence[WorkerSpec],
        decode: WorkerSpec,
        *,
        mode: str = "read",
        fabric: Fabric | None = None,
    ) -> TransportPair:
        assert fabric is None, "it takes none"
        return TransportPair(self._kind, prefill, decode, mode)


def shm_reads() -> Target:
    return OverTransport("shm", "read")


def shm_writes() -> Target:
    return OverTransport("shm", "write")


def zmq_reads() -> Target:
    return OverTransport("zmq", "read")


def zmq_writes() -> Target:
    return OverTransport("zmq", "write")


def nixl_reads() -> Target:
    return OverTransport("nixl", "read")


def nixl_writes() -> Target:
    return OverTransport("nixl", "write")


def mooncake_reads() -> Target:
    return OverTransport("mooncake", "read")


def mooncake_writes() -> Target:
    return OverTransport("mooncake", "write")
