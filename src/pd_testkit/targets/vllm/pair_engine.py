"""One engine of a pair: its TP ranks in processes of their own, stepped together."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pd_testkit.contract import HandOff, RequestId, Role, WorkerReport, WorkerSpec
from pd_testkit.fabric.shared_memory import SharedMemory
from pd_testkit.targets.neighbours import free_port
from pd_testkit.targets.vllm.pair_model import model_folder
from pd_testkit.targets.vllm.pair_params import Place
from pd_testkit.targets.vllm.pair_seat import Order, Seat, Worker

if TYPE_CHECKING:
    import numpy.typing as npt

    from pd_testkit.targets.process import Children
    from pd_testkit.targets.vllm.connectors import Connector

_T = TypeVar("_T")
_FACTORY = "pd_testkit.targets.vllm.worker:WorkerDriver"
_CALL_S = 60.0
"""Real seconds for one call to a worker, after which it hangs."""
_IMPORT_S = 240.0
"""Likewise, of a worker on a GPU: its process imports vLLM itself, and sets CUDA up."""
_numbers = count(1)


def placed(templates: Mapping[str, str], place: Place, spec: WorkerSpec) -> dict[str, str]:
    """A connector's options or variables for an engine that is there."""
    words = {
        "host": place.host,
        "port": place.port,
        "second_port": place.second_port,
        "patience_s": spec.patience_s,
        "third_s": spec.patience_s / 3,
    }
    return {name: value.format_map(words) for name, value in templates.items()}


class Engine:
    """Its workers, and their KV memory, which they share with this process.

    Args:
        name: of its children.
        folder: for what its processes find each other by.
        fabric: address of the served one, if the connector needs one.
        device: see `Seat`.

    Attributes:
        engine_id: in its present life.
        caches: of each TP rank, by cache name, with the axes (block, token, head, ...).
    """

    def __init__(
        self,
        children: Children,
        connector: Connector,
        name: str,
        role: Role,
        spec: WorkerSpec,
        folder: Path,
        fabric: str,
        device: str,
    ) -> None:
        self.spec = spec
        self.role = role
        self._port = free_port(spec.host, 2 * spec.tp_size)
        self._fabric = fabric
        self._device = device
        self._children = children
        self._connector = connector
        self._name = name
        self._folder = folder
        self._threads = ThreadPoolExecutor(spec.tp_size, f"{name} rank")
        self._running: list[Future[Any]] = []
        self._over: Counter[tuple[str, RequestId]] = Counter()
        self._start()

    @property
    def place(self) -> Place:
        second = self._port + self.spec.tp_size
        return Place(self.engine_id, self.spec.host, self._port, second, self.spec.tp_size)

    # -- its life ----------------------------------------------------------------------------

    def _start(self) -> None:
        number = next(_numbers)
        self.engine_id = f"{self._name.replace(' ', '-')}-{number}"
        self._memory = [
            [SharedMemory(_layer_bytes(self.spec)) for _ in range(self.spec.layers)]
            for _ in range(self.spec.tp_size)
        ]
        self.caches = [_views(self.spec, memory) for memory in self._memory]
        self._reports = [WorkerReport()] * self.spec.tp_size
        self._ended = WorkerReport()
        self._over.clear()
        self._alive = True
        group = self._folder / f"group-{number}"
        model = model_folder(self._folder, self.spec)

        # From this thread, as a child goes with the thread that has started it.
        homes = [self._children.get(self._child(rank)) for rank in range(self.spec.tp_size)]
        self._homes = homes

        def make(rank: int) -> Worker:
            seat = Seat(
                self._connector.variant,
                model,
                self.role,
                self.spec,
                self.engine_id,
                rank,
                str(group),
                [memory.path for memory in self._memory[rank]],
                placed(self._connector.options, self.place, self.spec),
                placed(self._connector.variables, self.place, self.spec),
                self._fabric,
                self._device,
            )
            deadline_s = _IMPORT_S if seat.on_gpu else _CALL_S
            return homes[rank].make(Worker, _FACTORY, deadline_s=deadline_s, seat=seat)

        self._workers: list[Worker] = []
        self._workers = self._all(make)
        handshakes = self._all(lambda rank: self._workers[rank].handshake())
        self._workers[0].listen(handshakes)
        self._addresses = self._all(lambda rank: self._workers[rank].addresses())

    def kill(self) -> None:
        """Its processes die; from then on it steps no more and reports nothing."""
        self._alive = False
        for home in self._homes:
            home.kill()

    def restart(self) -> None:
        """New processes at the same port, with new memory."""
        self._free()
        self._start()

    def close(self) -> None:
        """Ends its workers, and their processes but for the first. Harmless twice."""
        if not all(each.done() for each in self._running):
            self.kill()
        self._running.clear()
        workers, self._workers = self._workers, []
        try:
            self._all(lambda rank: workers[rank].close(), len(workers))  # type: ignore[attr-defined]
        finally:
            self._threads.shutdown()
            self._free()
            for rank in range(1, self.spec.tp_size):
                self._children.end(self._child(rank))

    def _free(self) -> None:
        self.caches = []
        for memory in self._memory:
            for layer in memory:
                layer.close()

    # -- its steps ---------------------------------------------------------------------------

    def begin(self, orders: Sequence[Order] = ()) -> None:
        """One step of the engine, which `settled` waits for."""
        if not self._alive:
            return
        ended, self._ended = self._ended, WorkerReport()

        def step(rank: int) -> None:
            report = self._workers[rank].step(orders if rank == 0 else (), ended)
            self._reports[rank] = _merged(self._reports[rank], report)

        self._running = [self._threads.submit(step, rank) for rank in range(self.spec.tp_size)]

    def idle(self, seconds: float) -> bool:
        """Whether no step is under way: waits for one, unless it waits for KV by itself.

        Raises:
            TimeoutError: it is not over after so many seconds.
        """
        waits = self.role is Role.CONSUMER and not self._connector.capabilities.async_loads
        if waits and not all(each.done() for each in self._running):
            return False
        self.settled(seconds)
        return True

    def settled(self, seconds: float | None = None) -> None:
        """The step is over.

        Raises:
            TimeoutError: it is not, after so many seconds.
        """
        _, pending = wait(self._running, seconds)
        if pending:
            raise TimeoutError(f"{self._name}: the step is not over after {seconds:g} s")
        running, self._running = self._running, []
        for each in running:
            each.result()

    def take_reports(self) -> tuple[WorkerReport, ...]:
        """What each rank has said since it was asked last."""
        taken = tuple(self._reports)
        self._reports = [WorkerReport()] * self.spec.tp_size
        for kind in ("sent", "received", "failed"):
            told = [name for report in taken for name in getattr(report, kind)]
            self._over.update((kind, name) for name in told)
            everywhere = {name for name in told if self._over[kind, name] == self.spec.tp_size}
            self._ended = _merged(self._ended, WorkerReport(**{kind: frozenset(everywhere)}))
        return taken

    @property
    def scheduler(self) -> Worker:
        """Rank 0, which has the scheduler half."""
        return self._workers[0]

    def peer(self, source: HandOff, tp_rank: int) -> list[tuple[int, int]]:
        return self._workers[tp_rank].peer(source)

    # -- what its processes see --------------------------------------------------------------

    def here(self, tp_rank: int, address: int) -> int | None:
        """Where this process has what that worker has at the address."""
        for there, memory in zip(self._addresses[tp_rank], self._memory[tp_rank], strict=True):
            if there <= address < there + memory.size:
                return memory.array.ctypes.data + address - there
        return None

    def cpu_seconds(self) -> float:
        """CPU time that its processes have used."""
        ticks = 0
        for home in self._homes:
            fields = Path(f"/proc/{home.pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def _child(self, rank: int) -> str:
        return f"{self._name} worker {rank}"

    def _all(self, call: Callable[[int], _T], count: int | None = None) -> list[_T]:
        """The call for each rank, at the same time."""
        ranks = range(self.spec.tp_size if count is None else count)
        return list(self._threads.map(call, ranks))


def _merged(one: WorkerReport, other: WorkerReport) -> WorkerReport:
    return WorkerReport(
        one.sent | other.sent, one.received | other.received, one.failed | other.failed
    )


def _heads(spec: WorkerSpec) -> int:
    return 1 if spec.mla else max(1, spec.kv_heads // spec.tp_size)


def _layer_bytes(spec: WorkerSpec) -> int:
    content = spec.head_dim * (1 if spec.mla else 2)
    return spec.num_blocks * spec.block_size * _heads(spec) * content * spec.itemsize


def _views(spec: WorkerSpec, memory: Sequence[SharedMemory]) -> Mapping[str, npt.NDArray[Any]]:
    """vLLM's KV has K and V of a token and head beside each other."""
    views = {}
    for number, layer in enumerate(memory):
        typed = layer.array.view(f"u{spec.itemsize}")
        content = spec.head_dim * (1 if spec.mla else 2)
        if spec.layout == "NHD":
            whole = typed.reshape(spec.num_blocks, spec.block_size, _heads(spec), content)
        else:
            whole = typed.reshape(
                spec.num_blocks, _heads(spec), spec.block_size, content
            ).transpose(0, 2, 1, 3)
        if spec.mla:
            views[f"{number}"] = whole
        else:
            views[f"{number}.k"] = whole[..., : spec.head_dim]
            views[f"{number}.v"] = whole[..., spec.head_dim :]
    return views
