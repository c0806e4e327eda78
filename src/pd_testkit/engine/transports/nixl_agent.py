"""KV over NIXL and UCX: one-sided reads and writes, https://github.com/ai-dynamo/nixl.

NIXL decides what a peer can reach, and when: it goes on to take writes to memory that was
deregistered, for peers that had its handle. It does nothing by itself without its progress thread,
which uses a whole core; a thread here makes it go on, often while something is under way, and some
fifty times a second otherwise.

Tensors on a GPU are registered as VRAM; what computes them has to be waited for before they are
moved. This has not been run on a GPU.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pd_testkit.engine.transports.device_memory import device_memory
from pd_testkit.engine.transports.network import EngineTransport, MissingPackage
from pd_testkit.engine.transports.regions import Region
from pd_testkit.engine.transports.transfer import Order, Transfer
from pd_testkit.fabric import Notification, RegionHandle, Status
from pd_testkit.fabric.batch import Offsets
from pd_testkit.fabric.memory import Bytes

_BUSY_S = 0.0005
"""Between two looks at what is under way."""
_IDLE_S = 0.02
"""Between two looks at what peers may want, when nothing has happened for some time."""
_LAST_S = 1.0
"""For which NIXL is looked at after a post has failed: to end it at once aborts the process."""
_NETWORK = ("nixlBackendError", "nixlRemoteDisconnectError")
"""Names of errors that say that the peer may be gone: it is met anew then."""

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Flight:
    order: Order
    transfer: Transfer
    handle: Any


class Nixl(EngineTransport):
    """The transport; arguments as of `open_transport`.

    On a loopback host UCX is kept to the loopback device, and from loading its InfiniBand module,
    which crashes at the process's exit where there is no InfiniBand. Both are settings of the whole
    process, and what the environment says goes before.

    Raises:
        MissingPackage: NIXL is not installed, or does not load.
        OSError: it has no UCX, or cannot begin.
    """

    wire = "ucx"

    def __init__(
        self,
        name: str,
        *,
        host: str,
        clock: Callable[[], float],
        wake: Callable[[], None],
    ) -> None:
        os.environ.setdefault("UCX_LOG_FILE", "stderr")  # stdout is the engine's own
        if _is_loopback(host):
            os.environ.setdefault("UCX_NET_DEVICES", "lo")
            os.environ.setdefault("UCX_MODULES", "^ib")
        try:
            from nixl import nixl_agent, nixl_agent_config
        except ImportError as error:
            raise MissingPackage(
                f"transport nixl: {error}; pip install 'pd-testkit[nixl]'"
            ) from error
        spoken = logging.getLogger("nixl")  # on stdout, if it were left
        spoken.handlers.clear()
        spoken.propagate = True
        super().__init__(name, clock, wake)
        self._wake = wake
        self._clock = clock
        self._lock = self._regions.lock
        """For all of NIXL: an agent is one thread's at a time."""
        config = nixl_agent_config(enable_prog_thread=False, backends=["UCX"])
        try:
            self._agent: Any = nixl_agent(name, config)
        except Exception as error:  # NIXL's errors have no common base
            raise OSError(f"NIXL cannot begin: {error}") from error
        if "UCX" not in self._agent.backends:
            raise OSError("NIXL has no UCX backend")
        self._devices: dict[int, int] = {}
        """GPUs of those regions that are on one."""
        self._known: dict[str, set[str]] = {}
        """Keys that were made known to NIXL, by peer."""
        self._flights: list[_Flight] = []
        self._arrived: deque[Notification] = deque()
        self._failed_at: float | None = None
        self._closing = threading.Event()
        self._posted = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"nixl:{name}")
        self._thread.start()

    def register(self, buffer: Any) -> Region:
        """As every transport's; also of a torch tensor on a GPU."""
        memory = device_memory(buffer)
        if memory is None:
            return super().register(buffer)

        def key(number: int) -> tuple[str, Callable[[], None]]:
            text, release = self._admit(number, memory.address, memory.nbytes, memory.device)
            self._devices[number] = memory.device
            return text, release

        return self._regions.add_on_device(memory, buffer, key)

    def notifications(self) -> list[Notification]:
        return [self._arrived.popleft() for _ in range(len(self._arrived))]

    def close(self) -> None:
        if self._closing.is_set():
            return
        self._closing.set()
        self._posted.set()
        self._thread.join()
        with self._lock:
            for flight in self._flights:
                self._land(flight, Status.BAD_STATE, "the transport is closed")
            self._flights.clear()
            self._regions.clear()
            for peer in self._known:
                with contextlib.suppress(Exception):  # it may be gone, and this is the end
                    self._agent.remove_remote_agent(peer)
            self._agent = None

    def move(self, order: Order, transfer: Transfer) -> None:
        """See `transfer.Mover`."""
        with self._lock:
            if self._agent is None:
                transfer.end(Status.BAD_STATE, "the transport is closed")
            elif not order.local.registered:
                transfer.end(Status.NOT_FOUND, "the local memory is not registered")
            else:
                try:
                    self._meet(order.remote)
                    self._post(order, transfer)
                except ValueError as error:
                    transfer.end(Status.NOT_FOUND, str(error))
                except Exception as error:  # NIXL's errors have no common base
                    self._fail(order.remote.engine, error, transfer)
        self._posted.set()

    def _meet(self, remote: RegionHandle) -> None:
        """Make a peer's region known to NIXL, once.

        Raises:
            ValueError: it is no handle of this network's.
        """
        known = self._known.setdefault(remote.engine, set())
        if remote.key in known:
            return
        try:
            met = self._agent.add_remote_agent(
                base64.b64decode(remote.key.rpartition(":")[2], validate=True)
            )
        except Exception as error:
            if type(error).__name__ in _NETWORK:
                raise
            raise ValueError(f"{remote.engine!r} is not on this network: {error}") from error
        if _text(met) != remote.engine:
            raise ValueError(f"the key is {_text(met)!r}'s, not {remote.engine!r}'s")
        known.add(remote.key)

    def _post(self, order: Order, transfer: Transfer) -> None:
        note = b"" if order.uid is None else str(order.uid).encode()
        agent, batch = self._agent, order.batch
        full = batch.sizes > 0
        if not full.any():
            if note:
                agent.send_notif(order.remote.engine, note)
            transfer.end(Status.SUCCESS)
            return
        sizes = batch.sizes[full]
        here, there = self._devices.get(order.local.handle.region), _device(order.remote.key)
        ours = _descriptors(order.local.handle.address, batch.local[full], sizes, here)
        theirs = _descriptors(order.remote.address, batch.remote[full], sizes, there)
        handle = agent.initialize_xfer(
            order.kind.upper(),
            agent.get_xfer_descs(ours, _kind(here)),
            agent.get_xfer_descs(theirs, _kind(there)),
            order.remote.engine,
            note,
        )
        flight = _Flight(order, transfer, handle)
        try:
            state = agent.transfer(handle, note)
        except Exception:
            self._release(flight)
            raise
        if not self._ended(flight, state):
            self._flights.append(flight)

    def _ended(self, flight: _Flight, state: str) -> bool:
        if state == "PROC":
            return False
        good = state == "DONE"
        self._land(
            flight,
            Status.SUCCESS if good else Status.RDMA_ERROR,
            "" if good else f"NIXL says {state}",
        )
        return True

    def _land(self, flight: _Flight, status: Status, message: str) -> None:
        self._release(flight)
        flight.transfer.end(status, message)

    def _release(self, flight: _Flight) -> None:
        try:
            flight.handle.release()
        except Exception as error:
            _log.warning("%s: NIXL keeps a transfer: %s", self.name, error)

    def _fail(self, peer: str, error: Exception, transfer: Transfer) -> None:
        name = type(error).__name__
        self._failed_at = self._clock()
        if name in _NETWORK and self._known.pop(peer, None) is not None:
            with contextlib.suppress(Exception):  # NIXL may have forgotten it itself
                self._agent.remove_remote_agent(peer)
        status = Status.NOT_FOUND if name == "nixlNotFoundError" else Status.RDMA_ERROR
        transfer.end(status, f"{name}: {error}")

    def _key(self, number: int, memory: Bytes) -> tuple[str, Callable[[], None]]:
        return self._admit(number, memory.ctypes.data, memory.nbytes, None)

    def _admit(
        self, number: int, address: int, nbytes: int, device: int | None
    ) -> tuple[str, Callable[[], None]]:
        """As `_key`; of memory on a GPU the key begins with the GPU's number and a colon."""
        described = [(address, nbytes, device or 0, "")]
        try:
            registered = self._agent.register_memory(described, _kind(device))
            metadata = self._agent.get_partial_agent_metadata(registered, True, ["UCX"])
        except Exception as error:
            raise ValueError(f"NIXL does not take this memory: {error}") from error

        def release() -> None:
            for flight in list(self._flights):
                if flight.order.local.handle.region == number:
                    self._flights.remove(flight)
                    self._land(flight, Status.RDMA_ERROR, "the local memory was deregistered")
            self._devices.pop(number, None)
            self._agent.deregister_memory(registered)

        prefix = "" if device is None else f"{device}:"
        return prefix + base64.b64encode(metadata).decode(), release

    # -- on the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        wait = _BUSY_S
        while not self._closing.is_set():
            with self._lock:
                wait = _BUSY_S if self._look() else min(2 * wait, _IDLE_S)
            if self._posted.wait(wait):
                wait = _BUSY_S
            self._posted.clear()
        while self._failed_at is not None and self._clock() - self._failed_at < _LAST_S:
            with self._lock:
                self._look()
            time.sleep(_BUSY_S)

    def _look(self) -> bool:
        """Make NIXL go on, and take what comes of it; False: nothing goes on."""
        arrived, flights = self._notes(), list(self._flights)
        for peer, notes in arrived.items():
            for note in notes:
                self._hear(_text(peer), note)
        for flight in flights:
            try:
                ended = self._ended(flight, self._agent.check_xfer_state(flight.handle))
            except Exception as error:
                self._release(flight)
                self._fail(flight.order.remote.engine, error, flight.transfer)
                ended = True
            if ended:
                self._flights.remove(flight)
        return bool(arrived or flights)

    def _notes(self) -> Mapping[bytes | str, Sequence[bytes]]:
        try:
            notes: Mapping[bytes | str, Sequence[bytes]] = self._agent.get_new_notifs()
        except Exception as error:  # one peer's death must not end the others' service
            _log.warning("%s: NIXL cannot be asked for notifications: %s", self.name, error)
            return {}
        return notes

    def _hear(self, peer: str, note: bytes) -> None:
        if not note.isdigit():
            _log.warning("%s: %r says %r", self.name, peer, note[:100])
            return
        self._arrived.append(Notification(peer, int(note), self.generation))
        self._wake()


def _kind(device: int | None) -> str:
    """What NIXL calls memory there."""
    return "DRAM" if device is None else "VRAM"


def _device(key: str) -> int | None:
    """The GPU that a handle's key tells of; see `Nixl._admit`."""
    number, colon, _ = key.partition(":")
    return int(number) if colon and number.isdecimal() else None


def _descriptors(
    address: int, offsets: Offsets, sizes: Offsets, device: int | None
) -> npt.NDArray[np.uint64]:
    """Rows of address, length and device, as NIXL takes them."""
    rows = np.zeros((len(sizes), 3), np.uint64)
    rows[:, 0] = offsets + address
    rows[:, 1] = sizes
    rows[:, 2] = device or 0
    return rows


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name
