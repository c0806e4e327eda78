"""Sessions, and the transfers that they post."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pd_testkit.fabric.batch import Batch, OffsetsLike
from pd_testkit.fabric.faults import Kind
from pd_testkit.fabric.memory import Region, RegionHandle
from pd_testkit.fabric.status import Status

if TYPE_CHECKING:
    from pd_testkit.fabric.engine import Engine
    from pd_testkit.fabric.network import Fabric


def _never() -> bool:
    return False


class Transfer:
    """One posted batch. Its status is asked for; nothing is raised.

    Attributes:
        id: counts a fabric's transfers from 1, refused ones included.
        kind: ``read`` or ``write``, as the initiator sees it.
        initiator: name of the engine that posted it.
        peer: name of the other one.
        uid: what the peer is notified with; None for no notification.
        blocks: entries of the batch.
        bytes: size of the whole batch; 0 if it was refused.
    """

    def __init__(
        self,
        fabric: Fabric,
        transfer_id: int,
        kind: Kind,
        initiator: str,
        peer: str,
        blocks: int,
        uid: int | None,
    ) -> None:
        self._fabric = fabric
        self._status = Status.INIT
        self._message = ""
        self.id = transfer_id
        self.kind = kind
        self.initiator = initiator
        self.peer = peer
        self.uid = uid
        self.blocks = blocks
        self.bytes = 0

    @property
    def status(self) -> Status:
        """The status now. Asking a pending one may then move the clock to its next event; see
        `FabricOptions.poll_advances`."""
        with self._fabric.clock.lock:
            status = self._status
            if not status.done:
                self._fabric._polled()
            return status

    @property
    def message(self) -> str:
        """Why it failed; empty otherwise. Asking does not move the clock."""
        return self._message

    @property
    def done(self) -> bool:
        """Ended, well or not. Asks for the status."""
        return self.status.done

    def wait(self, timeout: float | None = None, unless: Callable[[], bool] = _never) -> Status:
        """Wait until it ends; gives the status, which may still be in progress.

        Where polling moves the clock, the clock is moved, at most by ``timeout`` virtual seconds,
        and not beyond the last event. Otherwise this blocks, at most for ``timeout`` real
        seconds, until another thread has moved it; or until ``unless`` holds, of which
        `VirtualClock.changed` is to be notified.
        """
        clock = self._fabric.clock
        with clock.lock:
            if self._fabric._polling_advances:
                end = None if timeout is None else clock.now + timeout
                while not self._status.done and (due := clock.next_due) is not None:
                    if end is not None and due > end:
                        clock.advance_to(end)
                        break
                    clock.run_next()
            else:
                clock.changed.wait_for(lambda: self._status.done or unless(), timeout)
            return self._status

    def finish(self, unless: Callable[[], bool] = _never) -> Status:
        """Wait until it has ended, beyond the last event too: then another thread is to schedule
        one. What never ends is waited for without end, as on hardware. ``unless``: as for `wait`.
        """
        clock = self._fabric.clock
        with clock.lock:
            while not self.wait(None, unless).done and not unless():
                clock.changed.wait()
            return self._status

    def _end(self, status: Status, message: str) -> None:
        self._status, self._message = status, message

    def __repr__(self) -> str:
        return (
            f"<Transfer {self.id} {self.kind} {self.initiator} -> {self.peer}, "
            f"{self.blocks} blocks, {self.bytes} bytes, {self._status.name}>"
        )


class Session:
    """A local and a remote region between which transfers go.

    Offsets count in bytes from each region's start. Nothing is checked before a transfer is
    posted.
    """

    def __init__(self, engine: Engine, local: Region, remote: RegionHandle) -> None:
        self.engine = engine
        self.local = local
        self.remote = remote

    def read(
        self,
        local_offsets: OffsetsLike,
        remote_offsets: OffsetsLike,
        sizes: OffsetsLike,
        uid: int | None = None,
    ) -> Transfer:
        """Post a copy of remote bytes to local memory.

        Raises:
            TypeError: offsets or sizes are no integers.
        """
        return self._post("read", local_offsets, remote_offsets, sizes, uid)

    def write(
        self,
        local_offsets: OffsetsLike,
        remote_offsets: OffsetsLike,
        sizes: OffsetsLike,
        uid: int | None = None,
    ) -> Transfer:
        """Post a copy of local bytes to remote memory; as `read` otherwise."""
        return self._post("write", local_offsets, remote_offsets, sizes, uid)

    def _post(
        self,
        kind: Kind,
        local_offsets: OffsetsLike,
        remote_offsets: OffsetsLike,
        sizes: OffsetsLike,
        uid: int | None,
    ) -> Transfer:
        batch = Batch.of(local_offsets, remote_offsets, sizes)
        return self.engine.fabric._post(self, kind, batch, uid)
