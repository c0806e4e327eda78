"""P engines and a D engine of SGLang's, each in a process of its own, in the contract's words."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
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
from pd_testkit.stubs.install import CHILD_FABRIC
from pd_testkit.targets.neighbours import free_port
from pd_testkit.targets.sglang.queues import Queue, Transfer, step_decode, step_prefill, wanted
from pd_testkit.targets.sglang.rooms import Receiving, Sending, port_of
from pd_testkit.targets.sglang.seat import Forks, Seat

if TYPE_CHECKING:
    import numpy.typing as npt

    from pd_testkit.fabric import Fabric

_NAP_S = 0.005
"""Seconds between two steps of an engine that waits, as SGLang's schedulers poll."""
_NO_HEARTBEATS = {"SGLANG_DISAGGREGATION_HEARTBEAT_INTERVAL": "3600"}
"""What D knows of a P that has died does not depend on when a heartbeat falls. SGLang's own, of
which two must be missed, 5 s apart, would not see either that one here was away."""


class _Prefill:
    """One P engine."""

    def __init__(self, seat: Seat[Sending], port: int) -> None:
        self.seat = seat
        self.queue = Queue()
        self.port = port_of(seat.start(port).bootstrap())


class PairDriver:
    """Steps the engines' queues, and carries hand-offs between them as a router does.

    Raises:
        NotApplicable: such workers cannot be had here.
    """

    def __init__(
        self,
        backend: str,
        prefill: Sequence[WorkerSpec],
        decode: WorkerSpec,
        mode: str,
        fork: Forks,
        fabric: Fabric | None,
    ) -> None:
        if mode != "write":
            raise NotApplicable("SGLang's P writes")
        for spec in (*prefill, decode):
            if spec.tp_size * spec.dp_size != 1:
                raise NotApplicable("engines of one rank only")
        self._rooms = itertools.count(1)
        self._prompts: dict[int, int] = {}
        """How many pages a room's prompt has: D knows it from its request."""
        self._loaded: set[int] = set()
        self._server = None if fabric is None else FabricServer(fabric)
        environment = dict(_NO_HEARTBEATS)
        if self._server is not None:
            environment[CHILD_FABRIC] = self._server.address
        self._prefill: list[_Prefill] = []
        self._seats: list[Seat[Any]] = []
        self._decode = Seat(Receiving, "ReceivingSide", backend, decode, fork, environment)
        self._arriving = Queue()
        self._seats.append(self._decode)
        try:
            for spec in prefill:
                seat = Seat(Sending, "SendingSide", backend, spec, fork, environment)
                self._seats.append(seat)
                self._prefill.append(_Prefill(seat, free_port(spec.host)))
            self._decode.start(self._prefill[0].port)
        except BaseException:
            self.close()
            raise

    def cache(
        self, role: Role, *, engine: int = 0, dp_rank: int = 0, tp_rank: int = 0
    ) -> Mapping[str, npt.NDArray[Any]]:
        seat = self._prefill[engine].seat if role is Role.PRODUCER else self._decode
        return seat.cache

    def side_channel(
        self, *, engine: int = 0, dp_rank: int = 0, tp_rank: int = 0
    ) -> tuple[str, int]:
        return self._prefill[engine].seat.spec.host, self._prefill[engine].port

    def hand_off(
        self,
        request_id: RequestId,
        block_ids: Sequence[int],
        *,
        engine: int = 0,
        dp_rank: int = 0,
        readers: int = 1,
    ) -> HandOff:
        prefill = self._prefill[engine]
        room = next(self._rooms)
        self._prompts[room] = len(block_ids)
        prefill.seat.side.open(room)
        prefill.queue.add(Transfer(request_id, room, tuple(block_ids)))
        return HandOff(host=prefill.seat.spec.host, handshake_port=prefill.port, transfer_id=room)

    def load(self, loads: Sequence[Load], *, dp_rank: int = 0, seconds: float = 10.0) -> None:
        size = self._decode.spec.block_size
        for load in loads:
            source = load.source
            room = int(source.transfer_id or 0)
            if room in self._loaded:
                raise NotApplicable("a room has one receiver")
            self._loaded.add(room)
            pages, prefix = wanted(load.block_ids, self._prompts[room], size)
            self._decode.side.open_at(room, f"{source.host}:{source.handshake_port}")
            self._arriving.add(Transfer(load.request_id, room, pages, prefix))

    def poll(self, role: Role, *, engine: int = 0) -> tuple[WorkerReport, ...]:
        if role is Role.CONSUMER:
            return (step_decode(self._arriving, self._decode.side),)
        prefill = self._prefill[engine]
        if not prefill.seat.alive:
            return (WorkerReport(),)
        return (step_prefill(prefill.queue, prefill.seat.side, prefill.seat.spec.block_size),)

    def wait(self, seconds: float) -> None:
        time.sleep(min(seconds, _NAP_S))

    def peer(self, source: HandOff, *, tp_rank: int = 0) -> Mapping[str, tuple[MemoryRange, ...]]:
        """P writes: D knows none of its addresses."""
        return {}

    def abort(self, role: Role, request_id: RequestId, *, engine: int = 0) -> None:
        producer = role is Role.PRODUCER
        if producer and not self._prefill[engine].seat.alive:
            return
        queue = self._prefill[engine].queue if producer else self._arriving
        side: Sending | Receiving = (
            self._prefill[engine].seat.side if producer else self._decode.side
        )
        if (room := queue.room_of(request_id)) is not None:
            side.abort(room)

    def kill(self, *, engine: int = 0) -> None:
        self._prefill[engine].seat.kill()

    def restart(self, *, engine: int = 0) -> None:
        before = self._prefill[engine]
        self._prefill[engine] = _Prefill(before.seat, before.port)

    def cpu_seconds(self) -> float:
        return self._decode.cpu_seconds()

    def close(self) -> None:
        for seat in self._seats:
            seat.end()
        if self._server is not None:
            self._server.close()
