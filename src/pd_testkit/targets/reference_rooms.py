"""The reference's rooms on a fabric, in the contract's words."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pd_testkit.contract import Role, RoomState, WorkerSpec
from pd_testkit.fabric import Fabric
from pd_testkit.reference.kv_memory import KVMemory, cache_names, cache_shape
from pd_testkit.reference.room_memory import Memory
from pd_testkit.reference.rooms import ReceivingEngine, SendingEngine
from pd_testkit.reference.side_channel_messages import Geometry

AUX_SLOTS = 40
AUX_BYTES = (64, 16)
"""Of a slot, one aux buffer each."""


class RoomsDriver:
    """Two engines in this process; the mail between them is carried while they wait."""

    def __init__(self, prefill: WorkerSpec, decode: WorkerSpec, fabric: Fabric | None) -> None:
        if prefill.tp_size != 1 or decode.tp_size != 1:
            raise ValueError("an engine of rooms has one rank")
        self._fabric = fabric or Fabric()
        self._specs = {Role.PRODUCER: prefill, Role.CONSUMER: decode}
        self._engines = {role: self._fabric.engine(role.value) for role in Role}
        self._mail: dict[Role, deque[bytes]] = {role: deque() for role in Role}
        self._attempts = itertools.count(1)
        self._memory: dict[Role, Memory] = {}
        self._alive = set(Role)
        self._start(Role.PRODUCER)
        self._start(Role.CONSUMER)

    def cache(self, role: Role) -> Mapping[str, npt.NDArray[Any]]:
        pages = self._memory[role].pages
        return {name: pages.view(name) for name in pages.names}

    def aux(self, role: Role) -> tuple[npt.NDArray[Any], ...]:
        return self._memory[role].aux

    def open(self, role: Role, room: int) -> None:
        self._side(role).open(room, self.now())

    def receive(self, room: int, pages: Sequence[int], aux_slot: int) -> None:
        self._receiving.receive(room, pages, aux_slot)

    def announce(self, room: int, pages: int, aux_slot: int) -> None:
        self._sending.announce(room, pages, aux_slot)

    def send(self, room: int, pages: Sequence[int]) -> None:
        self._sending.send(room, pages)

    def poll(self, role: Role, room: int) -> RoomState:
        return RoomState[self._side(role).poll(room).name]

    def failure(self, role: Role, room: int) -> str:
        return self._side(role).failure(room)

    def quiet(self, room: int) -> bool:
        return self._receiving.quiet(room)

    def abort(self, role: Role, room: int) -> None:
        self._side(role).abort(room)

    def clear(self, role: Role, room: int) -> None:
        self._side(role).clear(room)

    def intrude(self, role: Role, frames: Sequence[bytes]) -> None:
        self._mail[role].append(b"".join(frames))

    def now(self) -> float:
        return self._fabric.clock.now

    def wait(self, seconds: float) -> None:
        self._fabric.clock.advance(seconds)
        for role in Role:
            while role in self._alive and self._mail[role]:
                self._side(role).handle(self._mail[role].popleft())
        for role in self._alive:
            self._side(role).step(self.now())

    def kill(self, role: Role) -> None:
        self._engines[role].kill()
        self._alive.discard(role)
        self._mail[role].clear()
        self._side(_other(role)).lost()

    def restart(self, role: Role) -> None:
        self._engines[role].restart()
        self._alive.add(role)
        self._start(role)

    def _side(self, role: Role) -> SendingEngine | ReceivingEngine:
        return self._sending if role is Role.PRODUCER else self._receiving

    def _start(self, role: Role) -> None:
        spec = self._specs[role]
        memory = self._memory[role] = _memory(self._engines[role], spec)
        post: Callable[[bytes], None] = self._mail[_other(role)].append
        if role is Role.PRODUCER:
            self._sending = SendingEngine(memory, spec.patience_s, post)
        else:
            self._receiving = ReceivingEngine(
                memory, spec.patience_s, post, lambda: next(self._attempts)
            )
        if len(self._memory) == len(Role):
            self._receiving.met()


def _other(role: Role) -> Role:
    return Role.CONSUMER if role is Role.PRODUCER else Role.PRODUCER


def _memory(engine: Any, spec: WorkerSpec) -> Memory:
    geometry = Geometry(
        model=spec.model,
        version=spec.version,
        layers=spec.layers,
        block_size=spec.block_size,
        kv_heads=1 if spec.mla else spec.kv_heads,
        head_dim=spec.head_dim,
        itemsize=spec.itemsize,
        layout=spec.layout or "NHD",
        mla=spec.mla,
        tp_size=1,
        dp_size=1,
    )
    shape = cache_shape(geometry, spec.num_blocks)
    dtype = np.dtype(f"u{spec.itemsize}")
    caches = {name: np.zeros(shape, dtype) for name in cache_names(geometry)}
    aux = [np.zeros((AUX_SLOTS, size), np.uint8) for size in AUX_BYTES]
    return Memory(engine, KVMemory(engine, geometry, caches), aux)
