"""One worker: a real connector of ATOM's, with its caches and, on D, the thread of its steps."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent import futures
from typing import Any

from pd_testkit.contract import RequestId, WorkerReport, WorkerSpec
from pd_testkit.targets.atom.pair_caches import Caches
from pd_testkit.targets.atom.pair_process import Process

_STEP_S = 10.0
"""Real seconds for a step without loads, which has nothing to wait for."""

Names = Callable[[Any], RequestId]
"""The request id of one of ATOM's numbers."""


class Worker:
    """Built under the parallel state that holds at the time.

    Args:
        connector: the class, of the process's own copy of its module.
        config: what the connector reads of ATOM's ``Config``.

    Attributes:
        views: its KV memory by cache name; see `Caches`.
    """

    def __init__(
        self, process: Process, connector: Callable[[Any], Any], config: Any, spec: WorkerSpec
    ) -> None:
        caches = Caches(spec)
        self.views = caches.views
        self._process = process
        self._connector = connector(config)
        self._thread = futures.ThreadPoolExecutor(1, thread_name_prefix="pd-atom-step")
        self._steps: list[futures.Future[None]] = []
        process.listen(spec.host, lambda: self._connector.register_kv_caches(caches.layers))

    @property
    def port(self) -> int:
        """Where its side channel listens."""
        return int(self._connector.side_channel_port)

    def begin(self, metadata: Any) -> None:
        """One step's ``start_load_kv``, in the worker's thread and after the ones before it.

        The metadata is copied, as it is on its way to a worker's process.
        """
        step = self._thread.submit(self._connector.start_load_kv, copy.deepcopy(metadata))
        self._steps.append(step)

    def finish(self, seconds: float) -> None:
        """Waits for the steps that were begun. What one raised is raised here.

        Raises:
            TimeoutError: one is not over within so many seconds; it goes on.
        """
        _, late = futures.wait(self._steps, seconds)
        if late:
            died = f"; of its threads died: {self._process.died}" * bool(self._process.died)
            raise TimeoutError(f"start_load_kv has not returned within {seconds:.1f} s{died}")
        steps, self._steps = self._steps, []
        for step in steps:
            step.result()

    def report(self, name: Names, metadata: Any = None) -> WorkerReport:
        """What ended since the last time: nothing, as long as the worker is still in a step.

        Args:
            metadata: of the step that ATOM's engine makes before it asks; None on P.
        """
        if not all(step.done() for step in self._steps):
            return WorkerReport()
        if metadata is not None:
            self.begin(metadata)
        self.finish(_STEP_S)
        finished = self._connector.get_finished()
        if not isinstance(finished, tuple):
            failed = getattr(finished, "failed_recving", ())
            finished = finished.finished_sending, finished.finished_recving, failed
        return WorkerReport.of(*([name(number) for number in numbers] for numbers in finished))

    def known(self, engine: str) -> dict[str, list[tuple[int, int]]]:
        """The peer's memory by cache name, as (address, bytes). Empty for one that it has not met.

        Args:
            engine: the peer as the connector names it.
        """
        connector = self._connector
        found = {}
        layers = connector.layer_name_to_remote_kv_cache_metadata.get(engine, {})
        for layer, packed in layers.items():
            described = map(connector.moriio_wrapper.get_unpack_memory_metadata, packed)
            ranges = [(memory.data, memory.size) for memory in described]
            number = layer.removeprefix("layer_")
            if connector.kv_caches[layer].v_cache is None:
                found[number] = ranges
            else:
                found[f"{number}.k"] = ranges[: connector.num_k_chunks]
                found[f"{number}.v"] = ranges[connector.num_k_chunks :]
        return found

    def leave(self) -> None:
        """Off the fabric, once the process has ended."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._connector.moriio_wrapper.shutdown()
        self._connector.zmq_context.destroy()
        self._connector.moriio_engine.remove_backend(self._process.module.BackendType.RDMA)
