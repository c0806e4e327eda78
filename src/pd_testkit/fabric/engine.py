"""An engine on the fabric: its life, its memory, its peers and what they told it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pd_testkit.fabric.device_memory import device_memory_at, device_memory_of
from pd_testkit.fabric.directory import Published
from pd_testkit.fabric.memory import Region, RegionHandle, memory_at, memory_of
from pd_testkit.fabric.status import Status
from pd_testkit.fabric.transfer import Session

if TYPE_CHECKING:
    from pd_testkit.fabric.network import Fabric


@dataclass(frozen=True)
class Notification:
    """A peer says that its transfer with this uid has ended."""

    initiator: str
    uid: int
    generation: int
    """The initiator's."""


class Engine:
    """One process on the network, such as a prefill worker. Made by `Fabric.engine`.

    Attributes:
        name: unique on its fabric.
        generation: from 1, one more after each restart.
        alive: dead ones answer nothing.
    """

    def __init__(self, fabric: Fabric, name: str) -> None:
        self.fabric = fabric
        self.name = name
        self.generation = 1
        self.alive = True
        self._regions: dict[int, Region] = {}
        self._connections: dict[str, int] = {}
        self._arrived: Counter[tuple[str, int]] = Counter()
        self._unread: list[Notification] = []

    # -- memory ------------------------------------------------------------------------------

    def register(self, buffer: Any) -> Region:
        """Register a writable, contiguous buffer, numpy array or torch tensor, on a GPU too.

        Raises:
            TypeError: it is none of those.
            ValueError: not contiguous, read-only, or neither in host memory nor on a GPU.
            RuntimeError: the engine is dead.
        """
        there = device_memory_of(buffer)
        if there is not None:
            return self.fabric._register(self, there, buffer)
        memory, owner = memory_of(buffer)
        return self.fabric._register(self, memory, owner)

    def register_address(
        self, address: int, size: int, owner: Any = None, device: int | None = None
    ) -> Region:
        """Register ``size`` bytes at an address of this process, as a NIC takes them.

        They must stay mapped and writable until deregistered; ``owner``, if given, is kept alive
        until then. With a ``device`` the address is of that GPU.

        Raises:
            ValueError: a null address or a negative size.
            RuntimeError: the engine is dead.
        """
        if device is not None:
            there = device_memory_at(address, size, device)
            return self.fabric._register(self, there, owner)
        return self.fabric._register(self, memory_at(address, size), owner)

    def deregister(self, region: Region) -> None:
        """Transfers to and from the region fail from now on. A second time does nothing."""
        self.fabric._deregister(self, region)

    @property
    def regions(self) -> tuple[Region, ...]:
        """The registered ones, oldest first."""
        with self.fabric.clock.lock:
            return tuple(self._regions.values())

    # -- peers -------------------------------------------------------------------------------

    def connect(self, remote: str) -> Status:
        """Shake hands with another engine, as must be done before transfers to it, and again
        after either side's restart. Does not wait and takes no time on the clock.

        Returns:
            SUCCESS; NOT_FOUND for no such engine or a dead one; BAD_STATE when this one is dead;
            or what a `HandshakeFailure` says.
        """
        return self.fabric._connect(self, remote)

    def disconnect(self, remote: str) -> None:
        """Forget the peer. Transfers in flight go on."""
        with self.fabric.clock.lock:
            self._connections.pop(remote, None)

    def session(self, local: Region, remote: RegionHandle) -> Session:
        """For transfers between a region of this engine and one of a peer, or of its own."""
        return Session(self, local, remote)

    # -- what all may know -------------------------------------------------------------------

    def publish(self, name: str, value: Published) -> bool:
        """Tell the whole fabric something under a name, such as the address on which this engine
        listens, until `withdraw` or this engine's death; `Fabric.published` reads it.

        Returns:
            False when the name is taken, or this engine is dead.
        """
        with self.fabric.clock.lock:
            return self.alive and self.fabric._directory.add(self.name, name, value)

    def withdraw(self, name: str) -> None:
        """Take back what this engine has published under the name."""
        with self.fabric.clock.lock:
            self.fabric._directory.remove(self.name, name)

    # -- notifications -----------------------------------------------------------------------

    def inbound(self, remote: str, uid: int) -> int:
        """How often ``remote`` has notified this engine of transfer ``uid``: 0 is not yet.

        Asking does not consume it, as in mori over RDMA. Like a status, a notification that has
        not come moves the clock when asked for.
        """
        with self.fabric.clock.lock:
            count = self._arrived.get((remote, uid), 0)
            if not count:
                self.fabric._polled()
            return count

    def notifications(self) -> tuple[Notification, ...]:
        """All that came since the last call, in order, duplicates included, as NIXL gives them."""
        with self.fabric.clock.lock:
            unread, self._unread = tuple(self._unread), []
            if not unread:
                self.fabric._polled()
            return unread

    # -- life --------------------------------------------------------------------------------

    def kill(self) -> None:
        """Die at once, as a process does. What had arrived of transfers in flight stays, the rest
        never comes; peers learn of it by `FabricOptions.retry_timeout`. All regions,
        connections and notifications are gone. A dead engine cannot die."""
        self.fabric._kill(self)

    def restart(self) -> int:
        """Come back as a new process of the same name, dying first if alive; gives the new
        generation. Handles and connections from before stay stale."""
        return self.fabric._restart(self)

    def __repr__(self) -> str:
        state = "" if self.alive else ", dead"
        return f"<Engine {self.name}, generation {self.generation}{state}>"
