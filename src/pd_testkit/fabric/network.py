"""The fabric: engines, what is in flight between them, and what becomes of it."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from pd_testkit.fabric import faults
from pd_testkit.fabric.batch import Batch, copy
from pd_testkit.fabric.clock import Timer, VirtualClock
from pd_testkit.fabric.counters import Counters
from pd_testkit.fabric.engine import Engine, Notification
from pd_testkit.fabric.faults import Fault, FaultPlan, Kind, Operation, Strikes
from pd_testkit.fabric.memory import Bytes, Region, RegionHandle
from pd_testkit.fabric.options import FabricOptions
from pd_testkit.fabric.sanitizer import Access, Sanitizer
from pd_testkit.fabric.status import Status
from pd_testkit.fabric.trace import Trace
from pd_testkit.fabric.transfer import Session, Transfer


@dataclass
class _Link:
    """From one engine to another: transfers queue for its bandwidth and land in order."""

    busy_until: float = 0.0
    last_landing: float = 0.0
    newest_landed: int = 0
    """Highest transfer id that landed."""


@dataclass
class _Flight:
    """A transfer on its way."""

    transfer: Transfer
    session: Session
    batch: Batch
    strikes: Strikes
    peer_generation: int
    """Of the connection that it goes over."""
    posted: float
    landing: float = math.inf
    """When the bytes arrive, in seconds; inf if nothing is going to."""
    timers: list[Timer] = field(default_factory=list)

    @property
    def link(self) -> tuple[str, str]:
        return self.transfer.initiator, self.transfer.peer


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
        self._plan = FaultPlan(*faults)
        self._random = random.Random(seed)
        self._engines: dict[str, Engine] = {}
        self._links: defaultdict[tuple[str, str], _Link] = defaultdict(_Link)
        self._flights: dict[int, _Flight] = {}
        self._transfers = 0
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

    @property
    def engines(self) -> dict[str, Engine]:
        """By name, dead ones included; a copy."""
        with self.clock.lock:
            return dict(self._engines)

    def inject(self, *faults: Fault) -> None:
        """Plan more faults; they count operations from now on."""
        with self.clock.lock:
            self._plan.add(*faults)

    def run_until_idle(self) -> int:
        """Let everything in flight land; gives how many events ran. See `VirtualClock`."""
        return self.clock.run_until_idle()

    @property
    def in_flight(self) -> tuple[Transfer, ...]:
        """Transfers whose bytes may still arrive, whatever their status says; oldest first."""
        with self.clock.lock:
            return tuple(flight.transfer for flight in self._flights.values())

    def peek(self, where: Region | RegionHandle, offset: int, size: int) -> bytes:
        """Bytes of a region, out of band: no transfer, no fault, no counter. For oracles.

        Raises:
            LookupError: the region is not registered (any more).
            ValueError: out of its bounds.
        """
        with self.clock.lock:
            return self._slice(where, offset, size).tobytes()

    def poke(self, where: Region | RegionHandle, offset: int, data: bytes) -> None:
        """Set bytes of a region, out of band; raises as `peek` does."""
        with self.clock.lock:
            self._slice(where, offset, len(data)).data[:] = data

    # -- engines -----------------------------------------------------------------------------

    def _register(self, engine: Engine, memory: Bytes, owner: Any) -> Region:
        with self.clock.lock:
            if not engine.alive:
                raise RuntimeError(f"engine {engine.name!r} is dead")
            self._regions += 1
            region = Region(engine, self._regions, memory, owner)
            engine._regions[region.id] = region
            self.trace.record("register", engine=engine.name, region=region.id, size=region.size)
            return region

    def _deregister(self, engine: Engine, region: Region) -> None:
        with self.clock.lock:
            if engine._regions.pop(region.id, None) is None:
                return
            self.sanitizer.forget(region)
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
        strikes = self._plan.strike(
            Operation("handshake", engine.name, remote), self.options.handshake_faults(self._random)
        )
        if failure := strikes.get(faults.HandshakeFailure):
            self._fired(failure)
            return failure.status
        engine._connections[remote] = peer.generation
        return Status.SUCCESS

    def _kill(self, engine: Engine) -> None:
        with self.clock.lock:
            if not engine.alive:
                return
            engine.alive = False
            self.trace.record("die", engine=engine.name, generation=engine.generation)
            for flight in list(self._flights.values()):
                if engine.name in (flight.transfer.initiator, flight.transfer.peer):
                    self._cut_off(flight, engine)
            for region in engine.regions:
                self._deregister(engine, region)
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

    # -- a transfer's life -------------------------------------------------------------------

    def _post(self, session: Session, kind: Kind, batch: Batch, uid: int | None) -> Transfer:
        engine, handle = session.engine, session.remote
        with self.clock.lock:
            self._transfers += 1
            transfer = Transfer(self, self._transfers, kind, engine.name, handle.engine, batch, uid)
            refusal = self._refusal(session, batch)
            if refusal is not None:
                self._end(transfer, *refusal)
                return transfer
            operation = Operation(kind, engine.name, handle.engine)
            strikes = self._plan.strike(operation, self.options.transfer_faults(self._random))
            for tally in self.counters.tallies(kind, engine.name, handle.engine):
                tally.operations += 1
                tally.blocks += transfer.blocks
            self.trace.record(
                "post",
                id=transfer.id,
                kind=kind,
                from_=engine.name,
                to=handle.engine,
                blocks=transfer.blocks,
                bytes=transfer.bytes,
            )
            transfer._status = Status.IN_PROGRESS
            generation = engine._connections.get(handle.engine, engine.generation)
            flight = _Flight(transfer, session, batch, strikes, generation, self.clock.now)
            self._launch(flight)
            return transfer

    def _refusal(self, session: Session, batch: Batch) -> tuple[Status, str] | None:
        """What the initiator's own side finds wrong when it posts."""
        engine, local, remote = session.engine, session.local, session.remote
        if not engine.alive:
            return Status.BAD_STATE, f"engine {engine.name!r} is dead"
        if engine._regions.get(local.id) is not local:
            return Status.NOT_FOUND, f"{local} is not registered with {engine.name!r}"
        if remote.engine not in self._engines:
            return Status.NOT_FOUND, f"there is no engine {remote.engine!r}"
        if remote.engine != engine.name and remote.engine not in engine._connections:
            return Status.BAD_STATE, f"{engine.name!r} is not connected to {remote.engine!r}"
        problem = batch.problem(local.size, remote.size)
        return None if problem is None else (Status.INVALID_ARGS, problem)

    def _launch(self, flight: _Flight) -> None:
        """Decide when and how it is going to end, and schedule that."""
        transfer, strikes, now = flight.transfer, flight.strikes, self.clock.now
        latency = self.options.latency(self._random)
        fail = strikes.get(faults.Fail)
        if fail is not None and fail.at_post:
            self._fired(fail, transfer)
            self._end(transfer, fail.status, "the operation could not be posted")
            return
        self._flights[transfer.id] = flight
        self.sanitizer.posted(transfer, self._accesses(flight))
        lost = strikes.get(faults.Hang) or strikes.get(faults.Drop)
        if lost is not None:
            self._fired(lost, transfer)
        if isinstance(lost, faults.Hang):
            return
        if lost is not None or not self._engines[transfer.peer].alive:
            self._schedule(flight, now + self.options.retry_timeout, self._give_up)
            return

        link = self._links[flight.link]
        link.busy_until = max(now, link.busy_until) + transfer.bytes / self.options.bandwidth
        landing = link.busy_until + latency
        if delay := strikes.get(faults.Delay):
            self._fired(delay, transfer)
            landing += delay.seconds
        landing = max(landing, link.last_landing)
        if reorder := strikes.get(faults.Reorder):
            landing += reorder.seconds
        else:
            link.last_landing = landing
        if early := strikes.get(faults.EarlyCompletion):
            self._schedule(flight, landing, self._announce)
            landing += early.seconds
        flight.landing = landing
        if death := strikes.get(faults.PeerDeath):
            self._schedule(flight, now + (landing - now) * death.fraction, self._die)
        self._schedule(flight, landing, self._land)

    def _schedule(self, flight: _Flight, when: float, step: Callable[[_Flight], None]) -> None:
        flight.timers.append(self.clock.schedule_at(when, lambda: step(flight)))

    def _land(self, flight: _Flight) -> None:
        link, transfer = self._links[flight.link], flight.transfer
        if (reorder := flight.strikes.get(faults.Reorder)) and link.newest_landed > transfer.id:
            self._fired(reorder, transfer)
        link.newest_landed = max(link.newest_landed, transfer.id)
        self._deliver(flight)
        self._ground(flight)

    def _deliver(self, flight: _Flight) -> None:
        transfer, strikes = flight.transfer, flight.strikes
        reached = self._reach(flight)
        if isinstance(reached, str):
            self._end(transfer, Status.RDMA_ERROR, reached)
        elif fail := strikes.get(faults.Fail):
            self._fired(fail, transfer)
            self._end(transfer, fail.status, "the operation failed")
        elif partial := strikes.get(faults.Partial):
            nbytes = int(transfer.bytes * partial.fraction)
            self._fired(partial, transfer)
            self._move(flight, *reached, nbytes)
            if partial.status is Status.SUCCESS:
                self._succeed(flight)
            else:
                message = f"only {nbytes} of {transfer.bytes} bytes arrived"
                self._end(transfer, partial.status, message)
        else:
            self._move(flight, *reached, transfer.bytes)
            if corrupt := strikes.get(faults.Corrupt):
                self._corrupt(flight, corrupt, reached[1])
            self._succeed(flight)

    def _announce(self, flight: _Flight) -> None:
        """Early completion: tell both sides, before the bytes are there."""
        early = flight.strikes.get(faults.EarlyCompletion)
        if early is not None:
            self._fired(early, flight.transfer)
        self._succeed(flight)

    def _succeed(self, flight: _Flight) -> None:
        if not flight.transfer._status.done:
            self._end(flight.transfer, Status.SUCCESS, "")
            self._notify(flight)

    def _give_up(self, flight: _Flight) -> None:
        message = f"no answer from {flight.transfer.peer!r}: retries exceeded"
        self._end(flight.transfer, Status.RDMA_ERROR, message)
        self._ground(flight)

    def _die(self, flight: _Flight) -> None:
        death = flight.strikes.get(faults.PeerDeath)
        peer = self._engines[flight.transfer.peer]
        if death is not None:
            self._fired(death, flight.transfer)
            self._kill(peer)
            if death.restart:
                self._restart(peer)

    def _cut_off(self, flight: _Flight, dead: Engine) -> None:
        """An end of it has died: what is through by now has arrived, no more will."""
        transfer = flight.transfer
        for timer in flight.timers:
            timer.cancel()
        flying = flight.landing - flight.posted
        part = min(1.0, (self.clock.now - flight.posted) / flying) if flying else 1.0
        if part and not flight.strikes.get(faults.Fail):
            reached = self._reach(flight)
            if not isinstance(reached, str):
                self._move(flight, *reached, int(transfer.bytes * part))
        self._ground(flight)
        if transfer.initiator == dead.name:
            self._end(transfer, Status.BAD_STATE, f"engine {dead.name!r} died")
        else:
            message = f"engine {dead.name!r} died in mid-transfer"
            self.clock.schedule(
                self.options.retry_timeout,
                lambda: self._end(transfer, Status.RDMA_ERROR, message),
            )

    def _ground(self, flight: _Flight) -> None:
        """No byte of it can arrive any more."""
        del self._flights[flight.transfer.id]
        self.sanitizer.ended(flight.transfer)

    def _end(self, transfer: Transfer, status: Status, message: str) -> None:
        """Tell the initiator, once."""
        if transfer._status.done:
            return
        refused = transfer._status is Status.INIT
        transfer._end(status, message)
        self.counters.statuses[status] += 1
        event = "refuse" if refused else "done"
        self.trace.record(event, id=transfer.id, status=status.name)
        self.clock.changed.notify_all()

    # -- bytes and notices -------------------------------------------------------------------

    def _reach(self, flight: _Flight) -> tuple[Bytes, Bytes] | str:
        """Source and destination, as the two NICs see them now; or why one is out of reach."""
        local, handle = flight.session.local, flight.session.remote
        peer = self._engines[handle.engine]
        if peer.generation != flight.peer_generation:
            return (
                f"the connection is to generation {flight.peer_generation} of {peer.name!r}, "
                f"which is at {peer.generation}"
            )
        remote = peer._regions.get(handle.region)
        if remote is None or remote.handle != handle or remote._memory is None:
            return f"remote access error: {handle} is not registered"
        if local._memory is None:
            return f"local protection error: {local}"
        if flight.transfer.kind == "read":
            return remote._memory, local._memory
        return local._memory, remote._memory

    def _move(self, flight: _Flight, source: Bytes, destination: Bytes, nbytes: int) -> None:
        """Copy the first ``nbytes`` bytes of the batch."""
        transfer, batch = flight.transfer, flight.batch
        self.sanitizer.landing(transfer)
        if nbytes != transfer.bytes:
            batch = batch.first(nbytes)
        from_, to = batch.local, batch.remote
        if transfer.kind == "read":
            from_, to = to, from_
        copy(source, from_, destination, to, batch.sizes)
        for tally in self.counters.tallies(transfer.kind, transfer.initiator, transfer.peer):
            tally.bytes += nbytes
        self.trace.record("land", id=transfer.id, bytes=nbytes)

    def _corrupt(self, flight: _Flight, corrupt: faults.Corrupt, destination: Bytes) -> None:
        transfer = flight.transfer
        if not transfer.bytes:
            return
        at = self._random.randrange(transfer.bytes) if corrupt.at is None else corrupt.at
        local, remote = flight.batch.locate(at % transfer.bytes)
        destination[local if transfer.kind == "read" else remote] ^= 0xFF
        self._fired(corrupt, transfer)

    def _notify(self, flight: _Flight) -> None:
        transfer, strikes = flight.transfer, flight.strikes
        if transfer.uid is None:
            return
        if lost := strikes.get(faults.LostNotification):
            self._fired(lost, transfer)
            return
        note = Notification(transfer.initiator, transfer.uid, flight.session.engine.generation)
        self._tell(flight, note)
        if twice := strikes.get(faults.DuplicateNotification):

            def again() -> None:
                if self._tell(flight, note):
                    self._fired(twice, transfer)

            self.clock.schedule(twice.seconds, again)

    def _tell(self, flight: _Flight, note: Notification) -> bool:
        """Deliver a notification; False when the peer that it was meant for is gone."""
        peer = self._engines[flight.transfer.peer]
        if not peer.alive or peer.generation != flight.peer_generation:
            return False
        peer._arrived[note.initiator, note.uid] += 1
        peer._unread.append(note)
        self.counters.notifications += 1
        self.trace.record("notify", id=flight.transfer.id, uid=note.uid, to=peer.name)
        return True

    # -- bookkeeping -------------------------------------------------------------------------

    def _fired(self, fault: Fault, transfer: Transfer | None = None) -> None:
        self.counters.faults[fault.name] += 1
        self.trace.record("fault", id=transfer.id if transfer else 0, name=fault.name)

    def _accesses(self, flight: _Flight) -> tuple[Access, ...]:
        """What the transfer touches, for the sanitizer."""
        local, handle, batch = flight.session.local, flight.session.remote, flight.batch
        reads = flight.transfer.kind == "read"
        accesses = [Access(local, batch.local, batch.sizes, writes=reads)]
        remote = self._engines[handle.engine]._regions.get(handle.region)
        if remote is not None and remote.handle == handle:
            accesses.append(Access(remote, batch.remote, batch.sizes, writes=not reads))
        return tuple(accesses)

    def _slice(self, where: Region | RegionHandle, offset: int, size: int) -> Bytes:
        handle = where.handle if isinstance(where, Region) else where
        engine = self._engines.get(handle.engine)
        region = engine._regions.get(handle.region) if engine else None
        if region is None or region.handle != handle or region._memory is None:
            raise LookupError(f"{handle} is not registered")
        if not 0 <= offset <= offset + size <= region.size:
            raise ValueError(f"{size} bytes at {offset} lie outside of {region}")
        return region._memory[offset : offset + size]

    @property
    def _polling_advances(self) -> bool:
        return self.options.poll_advances and not self.clock.driven

    def _polled(self) -> None:
        if self._polling_advances:
            self.clock.run_next()
