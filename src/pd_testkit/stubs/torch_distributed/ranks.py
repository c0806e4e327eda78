"""Ranks as threads: what a test calls."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from types import ModuleType
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

from pd_testkit.stubs.torch_distributed.membership import Membership
from pd_testkit.stubs.torch_distributed.store import HashStore

T = TypeVar("T")

_memberships: WeakKeyDictionary[ModuleType, Membership] = WeakKeyDictionary()


def register(module: ModuleType, membership: Membership) -> None:
    """Says which membership a stub of torch.distributed works with."""
    _memberships[module] = membership


class RankTimeout(RuntimeError):
    """Ranks were still running when the time for all of them was over."""


class Home(Protocol):
    """Where ranks live: this stub, or torch's own threaded group."""

    def enter(self, rank: int) -> None:
        """The calling thread becomes ``rank``."""

    def leave(self, rank: int, failure: BaseException | None) -> None:
        """The calling thread is a rank no longer; who waits for it is told."""

    def abort(self) -> None:
        """Ends all waits that can be ended."""

    def close(self) -> None:
        """All ranks have left."""


class StubHome:
    """Ranks of the stub."""

    def __init__(self, membership: Membership, size: int, timeout: float, init: bool) -> None:
        self._membership = membership
        self._size = size
        self._timeout = timedelta(seconds=timeout)
        self._init = init
        self._store = HashStore()

    def enter(self, rank: int) -> None:
        if self._init:
            self._membership.init_process_group(
                "gloo", store=self._store, rank=rank, world_size=self._size, timeout=self._timeout
            )

    def leave(self, rank: int, failure: BaseException | None) -> None:
        reason = "has returned" if failure is None else f"died of {failure!r}"
        self._membership._leave(reason)

    def abort(self) -> None:
        """Every wait ends by the group's timeout."""

    def close(self) -> None:
        """Nothing outlives the threads."""


def run_ranks(
    world_size: int,
    fn: Callable[[int], T],
    *,
    timeout: float = 10.0,
    init: bool = True,
    module: ModuleType | None = None,
) -> list[T]:
    """Runs ``fn(rank)`` for each rank in a thread of its own; the results in rank order.

    Each thread is a rank of the default group before ``fn`` is called; with ``init=False`` ``fn``
    calls `init_process_group` itself. The ranks are those of ``module``, by default of the
    ``torch.distributed`` that is imported: of the stub where it is installed, else of torch's own
    threaded group (see `torch_threads` for what that one cannot do).

    ``timeout`` (seconds of real time) bounds each wait for another rank, and the whole run: no
    thread is left behind, except one that is stuck in ``fn`` outside of this package, which is
    reported.

    Raises:
        RankTimeout: ranks did not come to an end; says where each of them is.
        BaseException: what the first failing rank raised, with a note that names the rank. The
            failures that follow from it on other ranks are not reported.
    """
    home = _home(module, world_size, timeout, init)
    results: dict[int, T] = {}
    failures: list[tuple[int, BaseException]] = []

    def live(rank: int) -> None:
        failure: BaseException | None = None
        try:
            home.enter(rank)
            results[rank] = fn(rank)
        except BaseException as caught:
            failure = caught
            failures.append((rank, caught))
        finally:
            home.leave(rank, failure)

    threads = [
        threading.Thread(target=live, args=(rank,), name=f"rank-{rank}", daemon=True)
        for rank in range(world_size)
    ]
    for thread in threads:
        thread.start()
    # A wait that began last ends one timeout after it began: the run gets the same time again.
    running = _join(threads, 2 * timeout)
    stuck = _where(threads, running)
    if running:
        home.abort()
        _join(threads, timeout)
    home.close()
    if stuck and all(isinstance(failure, SystemExit) for _, failure in failures):
        raise RankTimeout(
            f"after {2 * timeout:g} s ranks {sorted(results)} had returned, these had not:\n{stuck}"
        )
    if failures:
        rank, failure = failures[0]
        _note(failure, f"raised by rank {rank} of {world_size}")
        raise failure
    return [results[rank] for rank in range(world_size)]


def as_rank(
    rank: int, world_size: int, *, module: ModuleType | None = None
) -> AbstractContextManager[None]:
    """The calling thread is ``rank`` of ``world_size`` in the block, with no peers.

    For code that asks who it is. A collective inside fails at once and names the absent ranks.
    """
    return _membership(module).as_rank(rank, world_size)


def _membership(module: ModuleType | None) -> Membership:
    found = sys.modules.get("torch.distributed") if module is None else module
    if found is None or found not in _memberships:
        raise RuntimeError(
            "the stub of torch.distributed is not installed; "
            'use pd_testkit.stubs.installed("torch.distributed", replace=True)'
        )
    return _memberships[found]


def _home(module: ModuleType | None, size: int, timeout: float, init: bool) -> Home:
    found = sys.modules.get("torch.distributed") if module is None else module
    if found is None or found in _memberships:
        return StubHome(_membership(found), size, timeout, init)
    from pd_testkit.stubs.torch_distributed.torch_threads import TorchHome

    return TorchHome(size, timeout, init)


def _join(threads: list[threading.Thread], limit: float) -> list[threading.Thread]:
    deadline = time.monotonic() + limit
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [thread for thread in threads if thread.is_alive()]


def _where(threads: list[threading.Thread], running: list[threading.Thread]) -> str:
    frames: dict[int, Any] = sys._current_frames()
    lines = []
    for thread in running:
        frame = frames.get(thread.ident or -1)
        stack = "".join(traceback.format_stack(frame)) if frame is not None else "  (ending)\n"
        lines.append(f"{thread.name}, at\n{stack}")
    return "".join(lines)


def _note(failure: BaseException, text: str) -> None:
    """``BaseException.add_note``, which Python 3.10 does not have."""
    notes: list[str] = [*getattr(failure, "__notes__", []), text]
    vars(failure)["__notes__"] = notes
