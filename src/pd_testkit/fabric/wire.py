"""The wire: transfers in flight, when and how each ends."""

from __future__ import annotations

import contextlib
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from pd_testkit.fabric import faults
from pd_testkit.fabric.batch import Batch
from pd_testkit.fabric.clock import Timer
from pd_testkit.fabric.engine import Engine, Notification
from pd_testkit.fabric.faults import Fault, FaultPlan, Kind, Operation, Strikes
from pd_testkit.fabric.memory import Bytes, Elsewhere, Region
from pd_testkit.fabric.process_memory import Unreachable, move, read, write
from pd_testkit.fabric.sanitizer import Access
from pd_testkit.fabric.status import Status
from pd_testkit.fabric.transfer import Session, Transfer

if TYPE_CHECKING:
    from pd_testkit.fabric.network import Fabric

_Memory: TypeAlias = "Bytes | Elsewhere"


@dataclass
class _Link:
    """From one engine to another: transfers queue for its bandwidth and land in order."""

    busy_until: float = 0.0
    last_landing: float = 0.0
    newest_landed: int = 0
    """Highest transfer id that landed."""


@dataclass(eq=False)
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


class Wire:
    """Carries a fabric's transfers and handshakes. All of it runs under the clock's lock."""

    def __init__(self, fabric: Fabric, planned: Iterable[Fault], seed: int) -> None:
        self.plan = FaultPlan(*planned)
        self.flights: dict[int, _Flight] = {}
        """By transfer id; those of which bytes may still arrive."""
        self._fabric = fabric
        self._clock = fabric.clock
        self._options = fabric.options
        self._random = random.Random(seed)
        self._links: defaultdict[tuple[str, str], _Link] = defaultdict(_Link)
        self._posted = 0

    def handshake(self, initiator: str, peer: str) -> Status:
        """What becomes of a handshake between two live engines."""
        drawn = self._options.handshake_faults(self._random)
        strikes = self.plan.strike(Operation("handshake", initiator, peer), drawn)
        failure = strikes.get(faults.HandshakeFailure)
        if failure is None:
            return Status.SUCCESS
        self._fired(failure)
        return failure.status

    def unreachable(self, region: Region) -> None:
        """A region is registered no more: of what is on its way to or from it, no byte arrives."""
        for flight in tuple(self.flights.values()):
            if flight.session.local is region or flight.session.remote == region.handle:
                self._ground(flight)

    def cut_off(self, dead: Engine) -> None:
        """An engine has died: what is through by now has arrived, no more will."""
        for flight in tuple(self.flights.values()):
            if dead.name in flight.link:
                self._cut_off(flight, dead)
        for pair in [pair for pair in self._links if dead.name in pair]:
            del self._links[pair]

    def post(self, session: Session, kind: Kind, batch: Batch, uid: int | None) -> Transfer:
        engine, handle = session.engine, session.remote
        self._posted += 1
        transfer = Transfer(
            self._fabric, self._posted, kind, engine.name, handle.engine, len(batch), uid
        )
        refusal = self._refusal(session, batch)
        if refusal is not None:
            self._end(transfer, *refusal)
            return transfer
        transfer.bytes = batch.nbytes
        operation = Operation(kind, engine.name, handle.engine)
        strikes = self.plan.strike(operation, self._options.transfer_faults(self._random))
        for tally in self._fabric.counters.tallies(kind, engine.name, handle.engine):
            tally.operations += 1
            tally.blocks += transfer.blocks
        self._fabric.trace.record(
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
        flight = _Flight(transfer, session, batch, strikes, generation, self._clock.now)
        self._launch(flight)
        return transfer

    def _refusal(self, session: Session, batch: Batch) -> tuple[Status, str] | None:
        """What the initiator's own side finds wrong when it posts."""
        engine, local, remote = session.engine, session.local, session.remote
        if not engine.alive:
            return Status.BAD_STATE, f"engine {engine.name!r} is dead"
        if engine._regions.get(local.id) is not local:
            return Status.NOT_FOUND, f"{local} is not registered with {engine.name!r}"
        if remote.engine not in self._fabric._engines:
            return Status.NOT_FOUND, f"there is no engine {remote.engine!r}"
        if remote.engine != engine.name and remote.engine not in engine._connections:
            return Status.BAD_STATE, f"{engine.name!r} is not connected to {remote.engine!r}"
        problem = batch.problem(local.size, remote.size)
        return None if problem is None else (Status.INVALID_ARGS, problem)

    def _launch(self, flight: _Flight) -> None:
        """Decide when and how it is going to end, and schedule that."""
        transfer, strikes, now = flight.transfer, flight.strikes, self._clock.now
        latency = self._options.latency(self._random)
        fail = strikes.get(faults.Fail)
        if fail is not None and fail.at_post:
            self._fired(fail, transfer)
            self._end(transfer, fail.status, "the operation could not be posted")
            return
        self.flights[transfer.id] = flight
        self._fabric.sanitizer.posted(transfer, self._accesses(flight))
        lost = strikes.get(faults.Hang) or strikes.get(faults.Drop)
        if lost is not None:
            self._fired(lost, transfer)
        if isinstance(lost, faults.Hang):
            return
        if lost is not None or not self._fabric._engines[transfer.peer].alive:
            self._schedule(flight, now + self._options.retry_timeout, self._give_up)
            return

        link = self._links[flight.link]
        link.busy_until = max(now, link.busy_until) + transfer.bytes / self._options.bandwidth
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
        flight.timers.append(self._clock.schedule_at(when, lambda: step(flight)))

    def _land(self, flight: _Flight) -> None:
        link, transfer = self._links[flight.link], flight.transfer
        if (reorder := flight.strikes.get(faults.Reorder)) and link.newest_landed > transfer.id:
            self._fired(reorder, transfer)
        link.newest_landed = max(link.newest_landed, transfer.id)
        self._deliver(flight)
        self._ground(flight)

    def _deliver(self, flight: _Flight) -> None:
        try:
            self._arrive(flight)
        except Unreachable as error:  # a process that has died, and is not known to have yet
            self._end(flight.transfer, Status.RDMA_ERROR, f"memory access error: {error}")

    def _arrive(self, flight: _Flight) -> None:
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
        peer = self._fabric._engines[flight.transfer.peer]
        if death is not None:
            self._fired(death, flight.transfer)
            peer.kill()
            if death.restart:
                peer.restart()

    def _cut_off(self, flight: _Flight, dead: Engine) -> None:
        transfer = flight.transfer
        for timer in flight.timers:
            timer.cancel()
        flying = flight.landing - flight.posted
        part = min(1.0, (self._clock.now - flight.posted) / flying) if flying else 1.0
        if part and not flight.strikes.get(faults.Fail):
            reached = self._reach(flight)
            if not isinstance(reached, str):
                # The private memory of a process that has died is gone with it.
                with contextlib.suppress(Unreachable):
                    self._move(flight, *reached, int(transfer.bytes * part))
        self._ground(flight)
        if transfer.initiator == dead.name:
            self._end(transfer, Status.BAD_STATE, f"engine {dead.name!r} died")
        else:
            message = f"engine {dead.name!r} died in mid-transfer"
            self._clock.schedule(
                self._options.retry_timeout,
                lambda: self._end(transfer, Status.RDMA_ERROR, message),
            )

    def _ground(self, flight: _Flight) -> None:
        """No byte of it can arrive any more."""
        self.flights.pop(flight.transfer.id, None)
        self._fabric.sanitizer.ended(flight.transfer)

    def _end(self, transfer: Transfer, status: Status, message: str) -> None:
        """Tell the initiator, once."""
        if transfer._status.done:
            return
        refused = transfer._status is Status.INIT
        transfer._end(status, message)
        self._fabric.counters.statuses[status] += 1
        event = "refuse" if refused else "done"
        self._fabric.trace.record(event, id=transfer.id, status=status.name)
        self._clock.changed.notify_all()

    # -- bytes and notices -------------------------------------------------------------------

    def _reach(self, flight: _Flight) -> tuple[_Memory, _Memory] | str:
        """Source and destination, as the two NICs see them now; or why one is out of reach."""
        local, handle = flight.session.local, flight.session.remote
        generation = self._fabric._engines[handle.engine].generation
        if generation != flight.peer_generation:
            return (
                f"the connection is to generation {flight.peer_generation} of {handle.engine!r}, "
                f"which is at {generation}"
            )
        remote = self._fabric._find(handle)
        if remote is None or remote._memory is None:
            return f"remote access error: {handle} is not registered"
        if local._memory is None:
            return f"local protection error: {local}"
        if flight.transfer.kind == "read":
            return remote._memory, local._memory
        return local._memory, remote._memory

    def _move(self, flight: _Flight, source: _Memory, destination: _Memory, nbytes: int) -> None:
        """Copy the first ``nbytes`` bytes of the batch."""
        transfer, batch = flight.transfer, flight.batch
        self._fabric.sanitizer.landing(transfer)
        if nbytes != transfer.bytes:
            batch = batch.first(nbytes)
        from_, to = batch.local, batch.remote
        if transfer.kind == "read":
            from_, to = to, from_
        move(source, from_, destination, to, batch.sizes)
        for tally in self._fabric.counters.tallies(transfer.kind, *flight.link):
            tally.bytes += nbytes
        self._fabric.trace.record("land", id=transfer.id, bytes=nbytes)

    def _corrupt(self, flight: _Flight, corrupt: faults.Corrupt, destination: _Memory) -> None:
        transfer = flight.transfer
        if not transfer.bytes:
            return
        at = self._random.randrange(transfer.bytes) if corrupt.at is None else corrupt.at
        local, remote = flight.batch.locate(at % transfer.bytes)
        offset = local if transfer.kind == "read" else remote
        write(destination, offset, ~read(destination, offset, 1))
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

            self._clock.schedule(twice.seconds, again)

    def _tell(self, flight: _Flight, note: Notification) -> bool:
        """Deliver a notification; False when the peer that it was meant for is gone."""
        peer = self._fabric._engines[flight.transfer.peer]
        if not peer.alive or peer.generation != flight.peer_generation:
            return False
        peer._arrived[note.initiator, note.uid] += 1
        peer._unread.append(note)
        self._fabric.counters.notifications += 1
        self._fabric.trace.record("notify", id=flight.transfer.id, uid=note.uid, to=peer.name)
        return True

    def _accesses(self, flight: _Flight) -> tuple[Access, ...]:
        """What the transfer touches, for the sanitizer."""
        local, batch = flight.session.local, flight.batch
        reads = flight.transfer.kind == "read"
        accesses = [Access(local, batch.local, batch.sizes, writes=reads)]
        remote = self._fabric._find(flight.session.remote)
        if remote is not None:
            accesses.append(Access(remote, batch.remote, batch.sizes, writes=not reads))
        return tuple(accesses)

    def _fired(self, fault: Fault, transfer: Transfer | None = None) -> None:
        self._fabric.counters.faults[fault.name] += 1
        about = {} if transfer is None else {"id": transfer.id}
        self._fabric.trace.record("fault", name=fault.name, **about)
