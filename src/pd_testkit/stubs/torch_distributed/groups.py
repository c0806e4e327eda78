"""Process groups: who is in them, as seen by one rank."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from enum import IntEnum
from typing import Any, ClassVar

from pd_testkit.stubs.torch_distributed.errors import DistBackendError
from pd_testkit.stubs.torch_distributed.rendezvous import Post, Rendezvous, Round
from pd_testkit.stubs.torch_distributed.store import Store

DEFAULT_PG_TIMEOUT = timedelta(minutes=30)

# What new_group gives a rank that is not in the group; the value is torch's.
NON_GROUP_MEMBER = -100


def outside(group: object) -> bool:
    """Whether ``group`` is what `new_group` gave a rank that is not in it."""
    return group == NON_GROUP_MEMBER


class Backend(str):
    """The name of a backend, in lower case. Every name runs on the same threads here."""

    __slots__ = ()

    UNDEFINED = "undefined"
    GLOO = "gloo"
    NCCL = "nccl"
    XCCL = "xccl"
    UCC = "ucc"
    MPI = "mpi"
    FAKE = "fake"

    backend_list: ClassVar[list[str]] = [UNDEFINED, GLOO, NCCL, XCCL, UCC, MPI, FAKE]

    def __new__(cls, name: str) -> Backend:
        if not isinstance(name, str):
            raise TypeError(f"Backend must be a string, got {name!r}")
        return super().__new__(cls, name.lower())


class BackendType(IntEnum):
    """The numbers of ``ProcessGroup.BackendType``."""

    UNDEFINED = 0
    GLOO = 1
    NCCL = 2
    UCC = 4
    MPI = 5
    CUSTOM = 6
    XCCL = 7


class Work:
    """A started operation. Its result is written when it is waited for or asked after, not before:
    code that reads a tensor without waiting sees the old values, each time.
    """

    def __init__(
        self,
        ready: Callable[[], bool],
        finish: Callable[[float], Any],
        timeout: float,
    ) -> None:
        self._lock = threading.Lock()
        self._ready = ready
        self._finish = finish
        self._timeout = timeout
        self._done = False
        self._failure: Exception | None = None
        self._result: Any = None

    def wait(self, timeout: timedelta = timedelta(0)) -> bool:
        """Completes the operation; a zero timeout means the group's.

        Raises:
            DistBackendError: ranks are missing, or do something else.
        """
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if not self._done:
                try:
                    self._result = self._finish(timeout.total_seconds() or self._timeout)
                except DistBackendError as failure:
                    self._failure = failure
                    raise
                self._done = True
        return True

    def is_completed(self) -> bool:
        if self._done or self._failure is not None:
            return True
        return self._ready() and self.wait()

    def is_success(self) -> bool:
        return self._done

    def exception(self) -> Exception | None:
        return self._failure

    def source_rank(self) -> int:
        """For a receive: the group rank that sent."""
        self.wait()
        return int(self._result)


class ProcessGroup:
    """One rank's handle of a group; all ranks that made it over one store meet.

    Calls take ranks of the group, unlike the functions of ``torch.distributed``.
    """

    BackendType = BackendType

    def __init__(
        self, store: Store, rank: int, size: int, timeout: timedelta = DEFAULT_PG_TIMEOUT
    ) -> None:
        if not 0 <= rank < size:
            raise ValueError(f"rank {rank} is not below the group's size {size}")
        self._store = store
        self._rank = rank
        self._meeting: Rendezvous = store._meeting("", size)
        if self._meeting.size != size:
            raise ValueError(
                f"this store already carries a group of {self._meeting.size} ranks, not {size}"
            )
        self._timeout = timeout
        self._backend = Backend(Backend.UNDEFINED)
        self.group_name = ""
        self.group_desc = "undefined"

    def __repr__(self) -> str:
        return f"<ProcessGroup {self.group_name!r}: rank {self._rank} of {self.size()}>"

    def rank(self) -> int:
        return self._rank

    def size(self) -> int:
        return self._meeting.size

    def name(self) -> str:
        return str(self._backend)

    def get_group_store(self) -> Store:
        return self._store

    def shutdown(self) -> None:
        """This rank takes part in nothing more."""
        self._meeting.leave(self._rank, "left the group")

    def abort(self) -> None:
        self._meeting.leave(self._rank, "aborted the group")

    # What a connector calls when it builds a group without the global state.
    def _set_default_backend(self, backend: IntEnum) -> None:
        self._backend = Backend(BackendType(backend).name)

    def _register_backend(self, device: Any, backend_type: IntEnum, backend: Any) -> None:
        self._set_default_backend(backend_type)

    def _start(self, what: str, value: Any, take: Callable[[list[Any]], Any]) -> Work:
        """Brings ``value`` to the group's next collective; ``take`` gets everyone's."""
        current: Round = self._meeting.arrive(self._rank, what, value)
        return Work(
            lambda: self._meeting.is_complete(current),
            lambda timeout: take(self._meeting.result(self._rank, current, timeout)),
            self._timeout.total_seconds(),
        )

    def _offer(self, post: Post, take: Callable[[Any], None]) -> Work:
        self._meeting.post(post)

        def finish(timeout: float) -> int:
            peer = self._meeting.await_match(post, timeout)
            take(post.tensor)
            return peer

        return Work(lambda: post.matched_rank is not None, finish, self._timeout.total_seconds())


class ProcessGroupGloo:
    """The gloo part of a group, which a connector registers with its `ProcessGroup`."""

    def __init__(
        self, store: Store, rank: int, size: int, timeout: timedelta = DEFAULT_PG_TIMEOUT
    ) -> None:
        self._store, self._rank, self._size, self._timeout = store, rank, size, timeout

    def rank(self) -> int:
        return self._rank

    def size(self) -> int:
        return self._size

    def _set_sequence_number_for_group(self) -> None:
        """Ranks count their collectives from zero; there is nothing to agree on."""
