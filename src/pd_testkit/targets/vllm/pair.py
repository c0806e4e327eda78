"""P engines and a D engine of vLLM's real connectors, each worker in a process of its own."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pd_testkit.contract import (
    HandOff,
    Load,
    MemoryRange,
    NotApplicable,
    RequestId,
    Role,
    WorkerReport,
    WorkerSpec,
)
from pd_testkit.fabric.served import FabricServer
from pd_testkit.targets.vllm.pair_engine import Engine
from pd_testkit.targets.vllm.pair_params import DIALECTS, Told
from pd_testkit.targets.vllm.pair_seat import Order

if TYPE_CHECKING:
    import numpy.typing as npt

    from pd_testkit.fabric import Fabric
    from pd_testkit.targets.process import Children
    from pd_testkit.targets.vllm.connectors import Connector

_NAP_S = 0.002
"""Seconds between two steps of an engine that waits for a transfer, as none is told of its end."""

_STEP_S = 30.0
"""Real seconds for a step of an engine, after which it hangs. Generous."""


class PairDriver:
    """Takes the engines' steps, and carries hand-offs between them as a proxy does.

    Args:
        devices: where P's and D's caches are; see `Seat`.

    Raises:
        NotApplicable: vLLM cannot be had with such workers.
    """

    def __init__(
        self,
        children: Children,
        connector: Connector,
        prefill: Sequence[WorkerSpec],
        decode: WorkerSpec,
        mode: str,
        fabric: Fabric | None,
        devices: tuple[str, str] = ("", ""),
    ) -> None:
        for spec in (*prefill, decode):
            _check(spec)
        if mode not in connector.modes:
            raise NotApplicable(f"{connector.kv_connector} has no mode {mode!r}")
        self._connector = connector
        self._dialect = DIALECTS[connector.variant]
        self._told: dict[tuple[str | None, Any], Told] = {}
        self._closed = threading.Event()
        with ExitStack() as making:
            folder = Path(making.enter_context(tempfile.TemporaryDirectory(prefix="pd-vllm-")))

            served = ""
            if connector.stubs:
                if fabric is None:
                    raise ValueError(f"{connector.kv_connector} moves its bytes on a fabric here")
                served = making.enter_context(FabricServer(fabric)).address

            def engine(name: str, role: Role, spec: WorkerSpec) -> Engine:
                device = devices[role is Role.CONSUMER]
                made = Engine(children, connector, name, role, spec, folder, served, device)
                making.callback(made.close)
                return made

            self._prefill = [
                engine(f"prefill {number}", Role.PRODUCER, spec)
                for number, spec in enumerate(prefill)
            ]
            self._decode = engine("decode", Role.CONSUMER, decode)
            self._closing = making.pop_all()

    def close(self) -> None:
        """Ends the workers, not their processes. Harmless twice."""
        self._closing.close()

    def cache(
        self, role: Role, *, engine: int = 0, dp_rank: int = 0, tp_rank: int = 0
    ) -> Mapping[str, npt.NDArray[Any]]:
        return self._engine(role, engine).caches[tp_rank]

    def side_channel(
        self, *, engine: int = 0, dp_rank: int = 0, tp_rank: int = 0
    ) -> tuple[str, int]:
        its = self._prefill[engine]
        return its.place.host, its.place.port + (tp_rank if self._connector.listening_ranks else 0)

    def hand_off(
        self,
        request_id: RequestId,
        block_ids: Sequence[int],
        *,
        engine: int = 0,
        dp_rank: int = 0,
        readers: int = 1,
    ) -> HandOff:
        its = self._prefill[engine]
        tokens = len(block_ids) * its.spec.block_size
        params = self._dialect.prefill(request_id, self._decode.place)
        its.begin([Order(request_id, block_ids, tokens, 0, params)])
        its.settled(_STEP_S)
        answer = self._dialect.answer(params, its.scheduler.finish(request_id), its.place)
        its.begin()  # its workers hear that it has ended
        its.settled(_STEP_S)
        source = self._dialect.hand_off(answer)
        self._told[source.engine_id, source.transfer_id] = Told(answer, engine, tokens)
        return source

    def load(self, loads: Sequence[Load], *, dp_rank: int = 0, seconds: float = 10.0) -> None:
        self._decode.settled(seconds)
        self._decode.begin([self._order(load) for load in loads])
        if self._connector.capabilities.async_loads:
            self._decode.settled(seconds)
        # Else the step itself waits for the bytes; it is over when a poll finds it so.

    def poll(self, role: Role, *, engine: int = 0) -> tuple[WorkerReport, ...]:
        its = self._engine(role, engine)
        if its.idle(_STEP_S):
            its.begin()
            its.settled(_STEP_S)
        return its.take_reports()

    def wait(self, seconds: float) -> None:
        self._closed.wait(min(seconds, _NAP_S))

    def peer(self, source: HandOff, *, tp_rank: int = 0) -> Mapping[str, tuple[MemoryRange, ...]]:
        told = self._told[source.engine_id, source.transfer_id]
        its = self._prefill[told.engine]
        known: dict[str, tuple[MemoryRange, ...]] = {}
        for number, (address, size) in enumerate(self._decode.peer(source, tp_rank)):
            here = its.here(tp_rank, address)
            memory = MemoryRange(address if here is None else here, size)
            kinds = ("",) if its.spec.mla else (".k", ".v")
            known |= {f"{number}{kind}": (memory,) for kind in kinds}
        return known

    def abort(self, role: Role, request_id: RequestId, *, engine: int = 0) -> None:
        self._engine(role, engine).scheduler.abort(request_id)

    def kill(self, *, engine: int = 0) -> None:
        self._prefill[engine].kill()

    def restart(self, *, engine: int = 0) -> None:
        self._prefill[engine].restart()

    def cpu_seconds(self) -> float:
        return self._decode.cpu_seconds()

    def _engine(self, role: Role, engine: int) -> Engine:
        return self._decode if role is Role.CONSUMER else self._prefill[engine]

    def _order(self, load: Load) -> Order:
        size = self._decode.spec.block_size
        told = self._told[load.source.engine_id, load.source.transfer_id]
        tokens = told.tokens if load.tokens is None else load.tokens
        # What D's blocks are too few for, from the prompt's start, it has in its own cache.
        cached = max(0, -(-tokens // size) - len(load.block_ids)) * size
        if cached and load.block_ids and not self._connector.capabilities.suffix_loads:
            raise NotApplicable("D names all blocks of a prompt to P, those of its own cache too")
        external = max(0, tokens - cached) if load.block_ids else 0
        return Order(
            load.request_id,
            load.block_ids,
            tokens,
            external,
            self._dialect.decode(told.answer, load.source),
        )


def _check(spec: WorkerSpec) -> None:
    if spec.itemsize == 1:
        raise NotApplicable("vLLM keeps KV of one byte per element on CPUs with AVX512 or AMX only")
    if spec.version != WorkerSpec().version:
        raise NotApplicable("vLLM's version is the one that is installed, on both sides")
    if spec.dp_size > 1:
        raise NotApplicable("vLLM's data-parallel ranks are not had here")
