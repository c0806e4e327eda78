"""The reference's workers on a fabric, in the contract's words."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pd_testkit.contract import (
    HandOff,
    Load,
    MemoryRange,
    RequestId,
    Role,
    WorkerReport,
    WorkerSpec,
)
from pd_testkit.fabric import Engine, Fabric
from pd_testkit.reference.heads import shard
from pd_testkit.reference.kv_memory import cache_names, cache_shape
from pd_testkit.reference.metadata import ConnectorMetadata, RemoteTransfer
from pd_testkit.reference.ports import side_channel_port
from pd_testkit.reference.side_channel_messages import Geometry
from pd_testkit.reference.worker import WorkerSide
from pd_testkit.targets.neighbours import bases
from pd_testkit.targets.reference_metadata import params_of

Rank = tuple[int, int]
"""DP rank and TP rank."""


class _Workers:
    """The workers of one engine, and its name in its present life."""

    def __init__(
        self, fabric: Fabric, name: str, spec: WorkerSpec, writes: bool, wake: threading.Event
    ) -> None:
        self.spec = spec
        self._name = name
        self._writes = writes
        self._wake = wake
        self._geometry = _geometry(spec)
        ranks = [(dp, tp) for dp in range(spec.dp_size) for tp in range(spec.tp_size)]
        self._engines: dict[Rank, Engine] = {
            rank: fabric.engine(f"{name}.dp{rank[0]}.tp{rank[1]}") for rank in ranks
        }
        self.workers: dict[Rank, WorkerSide] = {}
        """By DP rank, and TP rank within."""
        for base in bases(len(ranks)) if len(ranks) > 1 else (0,):
            try:
                self._start(base)
            except OSError as error:  # one of the ports is taken
                taken = error
            else:
                return
        raise taken

    @property
    def engine_id(self) -> str:
        return f"{self._name}@{self._engines[0, 0].generation}"

    @property
    def port(self) -> int:
        """The base port of the side channels."""
        return self.workers[0, 0].address[1]

    def kill(self) -> None:
        for engine in self._engines.values():
            engine.kill()
        self.close()

    def restart(self) -> None:
        """At the same ports."""
        for engine in self._engines.values():
            engine.restart()
        self._start(self.port)

    def close(self) -> None:
        for worker in self.workers.values():
            worker.shutdown()

    def _start(self, base: int) -> None:
        """Start all of them at neighbouring ports; ``base`` 0 for any.

        Raises:
            OSError: a port is taken, or there are not so many above the first.
        """
        started: dict[Rank, WorkerSide] = {}
        try:
            for (dp, tp), engine in self._engines.items():
                offset = dp * self.spec.tp_size + tp
                worker = self._worker(engine, tp, base + offset if base else 0)
                started[dp, tp] = worker
                base = base or worker.address[1]
        except BaseException:
            for worker in started.values():
                worker.shutdown()
            raise
        self.workers = started

    def _worker(self, engine: Engine, tp_rank: int, port: int) -> WorkerSide:
        shape = cache_shape(self._geometry, self.spec.num_blocks)
        dtype = np.dtype(f"u{self.spec.itemsize}")
        return WorkerSide(
            engine,
            self.engine_id,
            self._geometry,
            {name: np.zeros(shape, dtype) for name in cache_names(self._geometry)},
            tp_rank=tp_rank,
            host=self.spec.host,
            port=port,
            writes=self._writes,
            patience_s=self.spec.patience_s,
            wake=self._wake.set,
        )


class PairDriver:
    def __init__(
        self,
        prefill: Sequence[WorkerSpec],
        decode: WorkerSpec,
        mode: str,
        fabric: Fabric | None,
    ) -> None:
        if mode not in ("read", "write"):
            raise ValueError(f"mode is {mode!r}: it is read or write")
        fabric = fabric or Fabric()
        self._changed = threading.Event()
        self._prefill: list[_Workers] = []
        self._requests: dict[int | str, RequestId] = {}
        """By transfer id."""
        for number, spec in enumerate((*prefill, decode)):
            name = f"p{number}" if number < len(prefill) else "d"
            try:
                workers = _Workers(fabric, name, spec, mode == "write", self._changed)
            except BaseException:
                self.close()
                raise
            self._prefill.append(workers)
        self._decode = self._prefill.pop()

    def cache(
        self, role: Role, *, engine: int = 0, dp_rank: int = 0, tp_rank: int = 0
    ) -> Mapping[str, npt.NDArray[Any]]:
        memory = self._workers(role, engine).workers[dp_rank, tp_rank].memory
        return {name: memory.view(name) for name in memory.names}

    def side_channel(
        self, *, engine: int = 0, dp_rank: int = 0, tp_rank: int = 0
    ) -> tuple[str, int]:
        return self._prefill[engine].workers[dp_rank, tp_rank].address

    def hand_off(
        self,
        request_id: RequestId,
        block_ids: Sequence[int],
        *,
        engine: int = 0,
        dp_rank: int = 0,
        readers: int = 1,
    ) -> HandOff:
        workers = self._prefill[engine]
        transfer_id = f"{workers.engine_id}/{len(self._requests)}"
        self._requests[transfer_id] = request_id
        for tp_rank in range(workers.spec.tp_size):
            worker = workers.workers[dp_rank, tp_rank]
            worker.hold(transfer_id, block_ids, requests=readers)
        return HandOff(
            engine_id=workers.engine_id,
            host=workers.spec.host,
            port=8000,
            handshake_port=workers.port,
            block_ids=tuple(block_ids),
            transfer_id=transfer_id,
            tp_size=workers.spec.tp_size,
            dp_size=workers.spec.dp_size,
            dp_rank=dp_rank,
        )

    def load(self, loads: Sequence[Load], *, dp_rank: int = 0, seconds: float = 10.0) -> None:
        metadata = ConnectorMetadata({load.request_id: _transfer(load) for load in loads})
        for (dp, _), worker in self._decode.workers.items():
            if dp == dp_rank:
                worker.start_loads(metadata)

    def poll(self, role: Role, *, engine: int = 0) -> tuple[WorkerReport, ...]:
        reports = []
        for worker in self._workers(role, engine).workers.values():
            ended = worker.poll()
            sent = frozenset(self._requests[transfer_id] for transfer_id in ended.sent)
            reports.append(WorkerReport(sent, ended.received, ended.failed))
        return tuple(reports)

    def wait(self, seconds: float) -> None:
        self._changed.wait(seconds)
        self._changed.clear()

    def peer(self, source: HandOff, *, tp_rank: int = 0) -> Mapping[str, tuple[MemoryRange, ...]]:
        transfer = _transfer(Load("", (), source))
        port = side_channel_port(
            transfer.remote_handshake_port,
            dp_rank=transfer.remote_dp_rank,
            tp_rank=tp_rank,
            tp_size=transfer.remote_tp_size,
        )
        for worker in self._decode.workers.values():
            met = worker.peer((transfer.remote_host, port))
            if met is not None:
                return {
                    name: tuple(MemoryRange(handle.address, handle.size) for handle in handles)
                    for name, handles in met.caches.items()
                }
        return {}

    def cpu_seconds(self) -> float:
        return time.process_time()

    def abort(self, role: Role, request_id: RequestId, *, engine: int = 0) -> None:
        for worker in self._workers(role, engine).workers.values():
            worker.abort(request_id)

    def kill(self, *, engine: int = 0) -> None:
        self._prefill[engine].kill()

    def restart(self, *, engine: int = 0) -> None:
        self._prefill[engine].restart()

    def close(self) -> None:
        for workers in self._all():
            workers.close()

    def _all(self) -> Iterator[_Workers]:
        yield from self._prefill
        if hasattr(self, "_decode"):
            yield self._decode

    def _workers(self, role: Role, engine: int) -> _Workers:
        return self._prefill[engine] if role is Role.PRODUCER else self._decode


def _geometry(spec: WorkerSpec) -> Geometry:
    """Raises ValueError for heads that cannot be split over the ranks."""
    heads = 1 if spec.mla else spec.kv_heads
    if not spec.mla:
        shard(heads, spec.tp_size)
    return Geometry(
        model=spec.model,
        version=spec.version,
        layers=spec.layers,
        block_size=spec.block_size,
        kv_heads=heads,
        head_dim=spec.head_dim,
        itemsize=spec.itemsize,
        layout=spec.layout or "NHD",
        mla=spec.mla,
        tp_size=spec.tp_size,
        dp_size=spec.dp_size,
    )


def _transfer(load: Load) -> RemoteTransfer:
    transfer = RemoteTransfer.from_params(load.block_ids, params_of(load.source))
    return replace(transfer, tokens=load.tokens)
