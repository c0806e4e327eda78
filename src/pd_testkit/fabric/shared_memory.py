"""Memory that several processes map: what one of them writes, all of them have."""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from types import TracebackType

import numpy as np

from pd_testkit.fabric.memory import Bytes

_mapped: weakref.WeakSet[SharedMemory] = weakref.WeakSet()
"""Those of this process; under `_lock`."""
_lock = threading.Lock()


class SharedMemory:
    """Zeroed memory of a file without a name, which goes with the last process that has it.

        cache = SharedMemory(1 << 20)                    # in the parent
        SharedMemory.attach(path)                        # in a child, with the parent's cache.path

    A fabric that the parent serves knows such memory again when a child registers it, and moves
    its bytes in the parent's own mapping.

    Attributes:
        array: its bytes, uint8 of shape (size,). Views of it stay valid after `close`.
        path: what other processes of this user `attach` by, until `close`.
    """

    def __init__(self, size: int) -> None:
        """
        Raises:
            ValueError: ``size``, in bytes, is not above 0.
        """
        if size < 1:
            raise ValueError(f"shared memory of {size} bytes")
        fd = os.memfd_create("pd-testkit")
        os.ftruncate(fd, size)
        self._map(fd)

    @classmethod
    def attach(cls, path: str) -> SharedMemory:
        """The memory that another process has made.

        Raises:
            OSError: it is closed, or another user's.
        """
        shared = cls.__new__(cls)
        shared._map(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        return shared

    @property
    def size(self) -> int:
        """Bytes."""
        return self.array.nbytes

    def close(self) -> None:
        """Nobody can attach any more. The memory goes with the last view of it."""
        with _lock:
            _mapped.discard(self)
        self._close()

    def _map(self, fd: int) -> None:
        self._close = weakref.finalize(self, os.close, fd)
        found = os.fstat(fd)
        self._identity = found.st_dev, found.st_ino
        self.array: Bytes = np.frombuffer(mmap.mmap(fd, found.st_size), dtype=np.uint8)
        self.path = f"/proc/{os.getpid()}/fd/{fd}"
        with _lock:
            _mapped.add(self)

    def __enter__(self) -> SharedMemory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def mapped_from(device: int, inode: int) -> Bytes | None:
    """This process's view of the whole file, if it has made or attached it."""
    with _lock:
        return next((each.array for each in _mapped if each._identity == (device, inode)), None)
