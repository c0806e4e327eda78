"""SGLang's senders and receivers, P's and D's in a process each, in the contract's words."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pd_testkit.contract import Role, RoomState, WorkerSpec
from pd_testkit.fabric.served import FabricServer
from pd_testkit.fabric.shared_memory import SharedMemory
from pd_testkit.stubs.install import CHILD_FABRIC
from pd_testkit.targets.process.forks import Fork
from pd_testkit.targets.sglang.memory import aux_views, cache_views, size

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

    def announce(self, room: int, pages: int, aux_slot: int) -> None: ...

    def send(self, room: int, pages: Sequence[int]) -> None: ...


class Receiving(Side, Protocol):
    """D."""

    def receive(self, room: int, pages: Sequence[int], aux_slot: int) -> None: ...

    def quiet(self, room: int) -> bool: ...


class RoomsDriver:
    """Two engines.

    Args:
        fork: gives a new process of that name.
        fabric: what the bytes move over, for a backend on the kit's own.
    """

    def __init__(
        self,
        backend: str,
        prefill: WorkerSpec,
        decode: WorkerSpec,
        fork: Callable[[str], Fork],
        fabric: Fabric | None = None,
    ) -> None:
        self._backend = backend
        self._fabric = fabric
        self._server = None if fabric is None else FabricServer(fabric)
        self._fork = fork
        self._specs = {P: prefill, D: decode}
        self._memory: dict[Role, SharedMemory] = {}
        self._processes: dict[Role, Fork] = {}
        try:
            self._sending: Sending = self._start(P, Sending, 0)
            self._port = int(self._sending.bootstrap().rpartition(":")[2])
            self._receiving: Receiving = self._start(D, Receiving, self._port)
        except BaseException:
            self.close()
            raise

    def cache(self, role: Role) -> Mapping[str, npt.NDArray[Any]]:
        return cache_views(self._memory[role].array, self._specs[role])

    def aux(self, role: Role) -> tuple[npt.NDArray[Any], ...]:
        return aux_views(self._memory[role].array)

    def open(self, role: Role, room: int) -> None:
        self._side(role).open(room)

    def receive(self, room: int, pages: Sequence[int], aux_slot: int) -> None:
        self._receiving.receive(room, pages, aux_slot)

    def announce(self, room: int, pages: int, aux_slot: int) -> None:
        self._sending.announce(room, pages, aux_slot)

    def send(self, room: int, pages: Sequence[int]) -> None:
        self._sending.send(room, pages)

    def poll(self, role: Role, room: int) -> RoomState:
        return self._side(role).poll(room)

    def failure(self, role: Role, room: int) -> str:
        return self._side(role).failure(room)

    def quiet(self, room: int) -> bool:
        return self._receiving.quiet(room)

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
        self._processes.pop(role).end()

    def restart(self, role: Role) -> None:
        if role is P:
            self._sending = self._start(P, Sending, self._port)
        else:
            self._receiving = self._start(D, Receiving, self._port)

    def close(self) -> None:
        for process in self._processes.values():
            process.end()
        for memory in self._memory.values():
            memory.close()
        if self._server is not None:
            self._server.close()

    def _side(self, role: Role) -> Side:
        return self._sending if role is P else self._receiving

    def _start(self, role: Role, speaks: type[Any], port: int) -> Any:
        if (before := self._memory.pop(role, None)) is not None:
            before.close()
        spec = self._specs[role]
        memory = self._memory[role] = SharedMemory(size(spec))
        process = self._processes[role] = self._fork(f"{role} of {self._backend}")
        factory = "SendingSide" if role is P else "ReceivingSide"
        return process.make(
            speaks,
            f"{__package__}.room_side:{factory}",
            backend=self._backend,
            spec=spec,
            memory=memory.path,
            port=port,
            environment={} if self._server is None else {CHILD_FABRIC: self._server.address},
        )
