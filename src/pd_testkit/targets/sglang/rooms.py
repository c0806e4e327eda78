"""SGLang's senders and receivers, P's and D's in a process each, in the contract's words."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pd_testkit.contract import Role, RoomState, WorkerSpec
from pd_testkit.fabric.served import FabricServer
from pd_testkit.stubs.install import CHILD_FABRIC
from pd_testkit.targets.neighbours import free_port
from pd_testkit.targets.sglang.seat import Forks, Seat

if TYPE_CHECKING:
    import numpy.typing as npt

    from pd_testkit.fabric import Fabric

P, D = Role.PRODUCER, Role.CONSUMER


class Side(Protocol):
    """What is asked of the engine on either side."""

    def side_channel(self) -> str: ...

    def open(self, room: int) -> None: ...

    def poll(self, room: int) -> RoomState: ...

    def failure(self, room: int) -> str: ...

    def abort(self, room: int) -> None: ...

    def clear(self, room: int) -> None: ...


class Sending(Side, Protocol):
    """P."""

    def bootstrap(self) -> str: ...

    def prefix(self, room: int) -> int: ...

    def announce(self, room: int, pages: int, aux_slot: int) -> None: ...

    def send(self, room: int, pages: Sequence[int]) -> None: ...


class Receiving(Side, Protocol):
    """D."""

    def open_at(self, room: int, bootstrap: str) -> None: ...

    def receive(
        self, room: int, pages: Sequence[int], aux_slot: int, prefix: int | None = None
    ) -> None: ...

    def quiet(self, room: int) -> bool: ...

    def released(self, room: int) -> bool: ...


def port_of(bootstrap: str) -> int:
    return int(bootstrap.rpartition(":")[2])


class RoomsDriver:
    """Two engines.

    Args:
        fabric: what the bytes move over, for a backend on the kit's own.
    """

    def __init__(
        self,
        backend: str,
        prefill: WorkerSpec,
        decode: WorkerSpec,
        fork: Forks,
        fabric: Fabric | None = None,
    ) -> None:
        self._fabric = fabric
        self._server = None if fabric is None else FabricServer(fabric)
        served = {} if self._server is None else {CHILD_FABRIC: self._server.address}
        self._p = Seat(Sending, "SendingSide", backend, prefill, fork, served)
        self._d = Seat(Receiving, "ReceivingSide", backend, decode, fork, served)
        try:
            self._port = port_of(self._p.start(free_port(prefill.host)).bootstrap())
            self._d.start(self._port)
        except BaseException:
            self.close()
            raise

    def cache(self, role: Role) -> Mapping[str, npt.NDArray[Any]]:
        return self._seat(role).cache

    def aux(self, role: Role) -> tuple[npt.NDArray[Any], ...]:
        return self._seat(role).aux

    def open(self, role: Role, room: int) -> None:
        self._side(role).open(room)

    def receive(self, room: int, pages: Sequence[int], aux_slot: int) -> None:
        self._d.side.receive(room, pages, aux_slot)

    def announce(self, room: int, pages: int, aux_slot: int) -> None:
        self._p.side.announce(room, pages, aux_slot)

    def send(self, room: int, pages: Sequence[int]) -> None:
        self._p.side.send(room, pages)

    def poll(self, role: Role, room: int) -> RoomState:
        return self._side(role).poll(room)

    def failure(self, role: Role, room: int) -> str:
        return self._side(role).failure(room)

    def quiet(self, room: int) -> bool:
        return self._d.side.quiet(room)

    def abort(self, role: Role, room: int) -> None:
        self._side(role).abort(room)

    def clear(self, role: Role, room: int) -> None:
        self._side(role).clear(room)

    def intrude(self, role: Role, frames: Sequence[bytes]) -> None:
        import zmq

        with zmq.Context() as context, context.socket(zmq.PUSH) as stranger:
            stranger.connect(self._side(role).side_channel())
            stranger.send_multipart(frames)

    def now(self) -> float:
        return time.monotonic()

    def wait(self, seconds: float) -> None:
        if self._fabric is not None:
            self._fabric.clock.advance(seconds)
        time.sleep(seconds)

    def kill(self, role: Role) -> None:
        self._seat(role).kill()

    def restart(self, role: Role) -> None:
        self._seat(role).start(self._port)

    def close(self) -> None:
        for seat in (self._p, self._d):
            seat.end()
        if self._server is not None:
            self._server.close()

    def _seat(self, role: Role) -> Seat[Any]:
        return self._p if role is P else self._d

    def _side(self, role: Role) -> Side:
        return self._p.side if role is P else self._d.side
