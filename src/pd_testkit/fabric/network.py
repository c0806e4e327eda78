"""The fabric: engines and their memory, joined by a wire."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from pd_testkit.fabric.batch import Batch
from pd_testkit.fabric.clock import VirtualClock
from pd_testkit.fabric.counters import Counters
from pd_testkit.fabric.directory import Directory, Published
from pd_testkit.fabric.engine import Engine
from pd_testkit.fabric.faults import Fault, Kind
from pd_testkit.fabric.memory import Bytes, Elsewhere, Region, RegionHandle
from pd_testkit.fabric.options import FabricOptions
from pd_testkit.fabric.process_memory import read, write
from pd_testkit.fabric.sanitizer import Sanitizer
from pd_testkit.fabric.status import Status
from pd_testkit.fabric.trace import Trace
from pd_testkit.fabric.transfer import Session, Transfer
from pd_testkit.fabric.wire import Wire


class Fabric:
    """A simulated RDMA network that moves real bytes between registered memory.

    Reads and writes are one-sided: the bytes are copied when the transfer lands, at once, from
    what the source then holds. One lock, the clock's, covers all of it, so that threads may use
    it freely; what happens in which order is then theirs, and so is the trace.

    Args:
        options: the network's behaviour by chance.
        faults: what is to go wrong; more with `inject`.
        seed: of every random choice.
        clock: one of its own if None; several fabrics may share one.
    """

    def __init__(
        self,
        options: FabricOptions | None = None,
        faults: Iterable[Fault] = (),
        seed: int = 0,
        clock: VirtualClock | None = None,
    ) -> None:
        self.options = options or FabricOptions()
        self.clock = clock or VirtualClock()
        self.counters = Counters()
        self.trace = Trace(self.clock)
        self.sanitizer = Sanitizer(self.clock.lock)
        self._wire = Wire(self, faults, seed)
        self._engines: dict[str, Engine] = {}
        self._keys: dict[str, str] = {}
        self._directory = Directory()
        self._regions = 0

    # -- what a test says and asks -----------------------------------------------------------

    def engine(self, name: str) -> Engine:
        """A new engine joins.

        Raises:
            ValueError: the name is taken, be it by a dead engine (`Engine.restart` that one).
        """
        with self.clock.lock:
            if name in self._engines:
                raise ValueError(f"there is an engine {name!r} on this fabric already")
            engine = self._engines[name] = Engine(self, name)
            self.trace.record("join", engine=name, generation=engine.generation)
            return engine

    def join(self, key: str) -> Engine:
        """An engine joins under a key that others may have.

        A dead engine of that key comes back, as a new generation; beside live ones the new
        engine's name is the key with a number.
        """
        with self.clock.lock:
            for name in self.joined(key):
                if not self._engines[name].alive:
                    self._engines[name].restart()
                    return self._engines[name]
            name, number = key, 1
            while name in self._engines:
                number += 1
                name = f"{key}#{number}"
            self._keys[name] = key
            return self.engine(name)

    def joined(self, key: str) -> tuple[str, ...]:
        """Names of the engines that joined under a key, dead ones included; oldest first."""
        with self.clock.lock:
            return tuple(name for name, its_key in self._keys.items() if its_key == key)

    def published(self, name: str) -> Published | None:
        """What a live engine told all under this name, by `Engine.publish`."""
        with self.clock.lock:
            return self._directory.find(name)

    @property
    def engines(self) -> dict[str, Engine]:
        """By name, dead ones included; a copy."""
        with self.clock.lock:
            return dict(self._engines)

    def inject(self, *faults: Fault) -> None:
        """Plan more faults; they count operations from now on."""
        with self.clock.lock:
            self._wire.plan.add(*faults)

    def withdraw(self, *faults: Fault) -> None:
        """Take planned faults back: a network that heals.

        Raises:
            ValueError: one is not planned.
        """
        with self.clock.lock:
            self._wire.plan.remove(*faults)

    def run_until_idle(self) -> int:
        """Let everything in flight land; gives how many events ran. See `VirtualClock`."""
        return self.clock.run_until_idle()

    @property
    def in_flight(self) -> tuple[Transfer, ...]:
        """Transfers whose bytes may still arrive, whatever their status says; oldest first."""
        with self.clock.lock:
            return tuple(flight.transfer for flight in self._wire.flights.values())

    def peek(self, where: Region | RegionHandle, offset: int, size: int) -> bytes:
        """Bytes of a region, out of band: no transfer, no fault, no counter. For oracles.

        Raises:
            LookupError: the region is not registered (any more).
            ValueError: out of its bounds.
        """
        with self.clock.lock:
            return read(self._memory(where, offset, size), offset, size).tobytes()

    def poke(self, where: Region | RegionHandle, offset: int, data: bytes) -> None:
        """Set bytes of a region, out of band; raises as `peek` does."""
        with self.clock.lock:
            write(self._memory(where, offset, len(data)), offset, np.frombuffer(data, np.uint8))

    # -- engines -----------------------------------------------------------------------------

    def _register(
        self,
        engine: Engine,
        memory: Bytes | Elsewhere,
        owner: Any,
        there: int | None = None,
    ) -> Region:
        """``there``: the memory's address in the engine's process, where that is another one."""
        with self.clock.lock:
            if not engine.alive:
                raise RuntimeError(f"engine {engine.name!r} is dead")
            self._regions += 1
            region = Region(engine, self._regions, memory, owner, there)
            engine._regions[region.id] = region
            self.trace.record("register", engine=engine.name, region=region.id, size=region.size)
            return region

    def _deregister(self, engine: Engine, region: Region) -> None:
        with self.clock.lock:
            if engine._regions.pop(region.id, None) is None:
                return
            self.sanitizer.forget(region)
            self._wire.unreachable(region)
            region._release()
            self.trace.record("deregister", engine=engine.name, region=region.id)

    def _connect(self, engine: Engine, remote: str) -> Status:
        with self.clock.lock:
            status = self._shake_hands(engine, remote)
            self.counters.handshakes[status] += 1
            self.trace.record("connect", from_=engine.name, to=remote, status=status.name)
            return status

    def _shake_hands(self, engine: Engine, remote: str) -> Status:
        if not engine.alive:
            return Status.BAD_STATE
        peer = self._engines.get(remote)
        if peer is None or not peer.alive:
            return Status.NOT_FOUND
        status = self._wire.handshake(engine.name, remote)
        if status is Status.SUCCESS:
            engine._connections[remote] = peer.generation
        return status

    def _kill(self, engine: Engine) -> None:
        with self.clock.lock:
            if not engine.alive:
                return
            engine.alive = False
            self.trace.record("die", engine=engine.name, generation=engine.generation)
            self._wire.cut_off(engine)
            for region in engine.regions:
                self._deregister(engine, region)
            self._directory.forget(engine.name)
            engine._connections.clear()
            engine._arrived.clear()
            engine._unread.clear()

    def _restart(self, engine: Engine) -> int:
        with self.clock.lock:
            self._kill(engine)
            engine.generation += 1
            engine.alive = True
            self.trace.record("restart", engine=engine.name, generation=engine.generation)
            return engine.generation

    def _find(self, handle: RegionHandle) -> Region | None:
        """The registered region that a handle names, if it still does."""
        engine = self._engines.get(handle.engine)
        region = engine._regions.get(handle.region) if engine else None
        return region if region is not None and region.handle == handle else None

    def _memory(self, where: Region | RegionHandle, offset: int, size: int) -> Bytes | Elsewhere:
        region = self._find(where.handle if isinstance(where, Region) else where)
        if region is None or region._memory is None:
            raise LookupError(f"{where} is not registered")
        if not 0 <= offset <= offset + size <= region.size:
            raise ValueError(f"{size} bytes at {offset} lie outside of {region}")
        return region._memory

    # -- transfers ---------------------------------------------------------------------------

    def _post(self, session: Session, kind: Kind, batch: Batch, uid: int | None) -> Transfer:
        with self.clock.lock:
            return self._wire.post(session, kind, batch, uid)

    @property
    def _polling_advances(self) -> bool:
        return self.options.poll_advances and not self.clock.driven

    def _polled(self) -> None:
        if self._polling_advances:
            self.clock.run_next()
