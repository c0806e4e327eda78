"""torch's own threaded process group, as a home for `run_ranks`.

Used when the real ``torch.distributed`` is imported and not replaced: then everything built on it
(device meshes, DTensor, functional collectives) runs as it is. It lives in
``torch.testing._internal``, which torch does not promise to keep. What it cannot do, and why the
stub does not build on it: no send and receive, no reduce, only SUM and AVG in reduce_scatter, no
timeout (a wait for a rank that returned ends only when the run is aborted), collectives matched by
group but not by kind, and state of the whole process, so one run at a time.
"""

from __future__ import annotations

import importlib
import threading
from datetime import timedelta

_one_run = threading.Lock()


class TorchHome:
    """Ranks of ``torch.testing._internal.distributed.multi_threaded_pg``."""

    def __init__(self, size: int, timeout: float, init: bool) -> None:
        dist = importlib.import_module("torch.distributed")
        threaded = importlib.import_module("torch.testing._internal.distributed.multi_threaded_pg")
        if not _one_run.acquire(timeout=timeout):
            raise RuntimeError("torch's threaded group serves one run at a time")
        self._dist = dist
        self._threaded = threaded
        self._size = size
        self._timeout = timedelta(seconds=timeout)
        self._init = init
        self._store = dist.HashStore()
        threaded._install_threaded_pg()
        # Newer torch also registers groups by name: once per process, unless told otherwise.
        self._isolate = getattr(
            importlib.import_module("torch._C._distributed_c10d"),
            "_set_thread_isolation_mode",
            None,
        )
        if self._isolate is not None:
            self._isolate(True)

    def enter(self, rank: int) -> None:
        if self._init:
            self._dist.init_process_group(
                "threaded",
                store=self._store,
                rank=rank,
                world_size=self._size,
                timeout=self._timeout,
            )

    def leave(self, rank: int, failure: BaseException | None) -> None:
        if failure is not None:
            self._threaded.ProcessLocalGroup.exception_handle(failure)
        if self._dist.is_initialized():
            self._dist.destroy_process_group()

    def abort(self) -> None:
        self._threaded.ProcessLocalGroup.exception_handle(None)

    def close(self) -> None:
        self._threaded.ProcessLocalGroup.reset()
        self._threaded._uninstall_threaded_pg()
        if self._isolate is not None:
            self._isolate(False)
        _one_run.release()
