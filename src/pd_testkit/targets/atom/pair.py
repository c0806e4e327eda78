"""P engines and a D engine of ATOM's real connectors, in one process."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import count
from typing import TYPE_CHECKING, Any

from pd_testkit.contract import (
    EngineSpec,
    HandOff,
    Load,
    MemoryRange,
    Request,
    RequestId,
    Role,
    TargetError,
    WorkerReport,
    WorkerSpec,
)
from pd_testkit.stubs import Installation
from pd_testkit.targets.atom import checkout
from pd_testkit.targets.atom.pair_process import Process
from pd_testkit.targets.atom.pair_worker import Worker
from pd_testkit.targets.atom.ports import loopback, port_range
from pd_testkit.targets.atom.scheduler import SchedulerSideDriver
from pd_testkit.targets.atom.sequences import engine_config
from pd_testkit.targets.atom.versions import Version

if TYPE_CHECKING:
    import numpy.typing as npt

    from pd_testkit.fabric import Fabric

_NEXT_POLL_S = 0.001
"""Real seconds to wait while a poll may move the fabric's clock, or see that the last one did."""


class Engine:
    """The scheduler halves of one engine, and its workers, by DP rank and TP rank.

    Raises:
        ValueError: the model runner has no such caches.
    """

    def __init__(
        self,
        version: Version,
        stubs: Installation,
        process: Process,
        role: Role,
        spec: WorkerSpec,
        base_port: int,
        closing: ExitStack,
    ) -> None:
        self.spec = spec
        self.schedulers: list[SchedulerSideDriver] = []
        self.workers: list[list[Worker]] = []
        numbers = count(1)
        for dp_rank in range(spec.dp_size):
            engine_spec = EngineSpec(
                role,
                block_size=spec.block_size,
                num_blocks=spec.num_blocks,
                tp_size=spec.tp_size,
                dp_size=spec.dp_size,
                dp_rank=dp_rank,
                handshake_port=base_port,
            )
            config = engine_config(engine_spec)
            # Where ATOM announces itself: a port that nobody listens on, as none asked for it.
            config.kv_transfer_config |= {
                "proxy_ip": "127.0.0.1",
                "proxy_ping_port": base_port + spec.dp_size * spec.tp_size,
            }
            self.schedulers.append(SchedulerSideDriver(version, engine_spec, numbers))
            self.workers.append([])
            for tp_rank in range(spec.tp_size):
                stubs.parallel(
                    **{"tp_rank": tp_rank, "tp_size": spec.tp_size},
                    **{"dp_rank": dp_rank, "dp_size": spec.dp_size},
                )
                connector = getattr(process.module, version.worker)
                worker = Worker(process, connector, config, spec)
                closing.callback(worker.leave)
                self.workers[dp_rank].append(worker)


class PairDriver:
    """Makes the workers' calls as ATOM's engine core and model runner make them, step by step.

    Args:
        stubs: what aiter's groups and mori's engines come from.
        fabric: None for the installation's own.

    Raises:
        ValueError: a mode that ATOM has not, or caches that its model runner has not.
    """

    def __init__(
        self,
        version: Version,
        stubs: Installation,
        prefill: Sequence[WorkerSpec],
        decode: WorkerSpec,
        mode: str,
        fabric: Fabric | None,
    ) -> None:
        if mode != "read":
            raise ValueError(f"mode {mode!r}: ATOM's D reads from P")
        self._closing = ExitStack()
        with ExitStack() as closing, ExitStack() as making:
            self._fabric = fabric or stubs.fabric
            self._moving = False
            making.enter_context(stubs.on(self._fabric))
            making.callback(stubs.context.parallel.reset)
            process = Process(version.connector)
            self._changed = process.changed
            leaving = closing.enter_context(ExitStack())
            closing.callback(process.close)

            def engine(role: Role, spec: WorkerSpec) -> Engine:
                count = spec.dp_size * spec.tp_size + 1
                base = closing.enter_context(port_range(count, loopback(spec.host)))
                with checkout.environment(checkout.HOST_IP, spec.host):
                    return Engine(version, stubs, process, role, spec, base, leaving)

            self._decode = engine(Role.CONSUMER, decode)
            self._prefill = [engine(Role.PRODUCER, spec) for spec in prefill]
            self._closing = closing.pop_all()

    def close(self) -> None:
        """Ends all threads and sockets. Harmless twice.

        Raises:
            RuntimeError: a thread of ATOM's goes on.
        """
        self._closing.close()

    def cache(
        self, role: Role, *, engine: int = 0, dp_rank: int = 0, tp_rank: int = 0
    ) -> Mapping[str, npt.NDArray[Any]]:
        return self._engine(role, engine).workers[dp_rank][tp_rank].views

    def side_channel(
        self, *, engine: int = 0, dp_rank: int = 0, tp_rank: int = 0
    ) -> tuple[str, int]:
        its = self._prefill[engine]
        return its.spec.host, its.workers[dp_rank][tp_rank].port

    def hand_off(
        self,
        request_id: RequestId,
        block_ids: Sequence[int],
        *,
        engine: int = 0,
        dp_rank: int = 0,
        readers: int = 1,
    ) -> HandOff:
        # ATOM has no word for several readers: the proxy gives all of them the same hand-off.
        scheduler = self._prefill[engine].schedulers[dp_rank]
        scheduler.add(Request(request_id, prompt=(0,), remote_decode=True))
        finish = scheduler.finished(request_id, block_ids)
        if finish.hand_off is None:
            raise RuntimeError("ATOM's request_finished has made no hand-off")
        return finish.hand_off

    def load(self, loads: Sequence[Load], *, dp_rank: int = 0, seconds: float = 10.0) -> None:
        scheduler = self._decode.schedulers[dp_rank]
        for load in loads:
            scheduler.add(Request(load.request_id, prompt=(0,), source=load.source))
            scheduler.match(load.request_id)
            scheduler.allocated(load.request_id, load.block_ids, external_tokens=1)
        metadata = scheduler.connector_metadata()
        workers = self._decode.workers[dp_rank]
        for worker in workers:
            worker.begin(metadata)
        end = time.monotonic() + seconds
        for worker in workers:
            worker.finish(max(0.0, end - time.monotonic()))

    def poll(self, role: Role, *, engine: int = 0) -> tuple[WorkerReport, ...]:
        its = self._engine(role, engine)
        if role is Role.CONSUMER:
            self._moving = self._fabric.clock.next_due is not None
        reports = []
        for scheduler, workers in zip(its.schedulers, its.workers, strict=True):
            metadata = scheduler.connector_metadata() if role is Role.CONSUMER else None
            reports += [worker.report(scheduler.name, metadata) for worker in workers]
        return tuple(reports)

    def wait(self, seconds: float) -> None:
        clock = self._fabric.clock
        if (self._moving or clock.next_due is not None) and not clock.driven:
            seconds = min(seconds, _NEXT_POLL_S)
        self._changed.wait(seconds)
        self._changed.clear()

    def peer(self, source: HandOff, *, tp_rank: int = 0) -> Mapping[str, tuple[MemoryRange, ...]]:
        name = f"{source.host}:{source.handshake_port}_dp{source.dp_rank or 0}"
        for workers in self._decode.workers:
            if known := workers[tp_rank].known(name):
                return {
                    cache: tuple(MemoryRange(*at) for at in ranges)
                    for cache, ranges in known.items()
                }
        return {}

    def cpu_seconds(self) -> float:
        return time.process_time()

    def abort(self, role: Role, request_id: RequestId, *, engine: int = 0) -> None:
        """Nothing: ATOM's engine takes the request off its queues and tells no connector."""

    def kill(self, *, engine: int = 0) -> None:
        raise TargetError("ATOM's workers have no end but that of their process")

    def restart(self, *, engine: int = 0) -> None:
        raise TargetError("ATOM's workers have no end but that of their process")

    def _engine(self, role: Role, engine: int) -> Engine:
        return self._decode if role is Role.CONSUMER else self._prefill[engine]
