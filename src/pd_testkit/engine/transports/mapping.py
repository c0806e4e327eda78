"""Memory that processes of one user share, each of which can tell whether the others live."""

from __future__ import annotations

import fcntl
import mmap
import os
import select
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from pd_testkit.engine.transports.regions import Unregistered
from pd_testkit.fabric.memory import Bytes

_HEADER = 4096
"""Bytes before the memory: the numbers of the regions in it, 0 where there is none."""
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
"""A file that can shrink under a mapping can kill whoever reads it."""


class Gone(OSError):
    """The process, or its memory, is not there or cannot be reached."""


class Process(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One, for as long as it lives; another one of the same number has started at another time.

    Attributes:
        machine: its kernel's id of this boot.
        namespace: inode of its PID namespace.
        start: clock ticks since the boot.
    """

    machine: str
    namespace: int
    pid: int
    start: int

    @classmethod
    def this(cls) -> Process:
        """Of the caller."""
        return cls(*_here(), os.getpid(), _start(os.getpid()))

    def open(self) -> Callable[[], bool]:
        """Gives what tells whether it lives, at any time after.

        Raises:
            Gone: it does not, or is not to be seen from here.
        """
        if _here() != (self.machine, self.namespace):
            raise Gone(
                f"process {self.pid} is on another machine or in another container: shared memory "
                "joins processes of one; use another transport"
            )
        try:
            life = _Life(os.pidfd_open(self.pid))
            start = _start(self.pid)
        except OSError:
            raise Gone(f"process {self.pid} is gone") from None
        if start != self.start:
            raise Gone(f"process {self.pid} is gone: another one has its number")
        return life


class _Life:
    """A process's, whoever gets its number later. Tells whether it lasts."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        weakref.finalize(self, os.close, fd)

    def __call__(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return not poll.poll(0)


class Where(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file without a name, as its process has it open."""

    fd: int
    device: int
    inode: int


class Allocation:
    """Zeroed memory that others can map for as long as there is a view of it.

    Raises:
        OSError: there is not so much.

    Attributes:
        where: for `Mapping`.
    """

    def __init__(self, nbytes: int) -> None:
        fd = os.memfd_create("pd-testkit", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, _HEADER + nbytes)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            whole: Bytes = np.frombuffer(mmap.mmap(fd, _HEADER + nbytes), np.uint8)
        except BaseException:
            os.close(fd)
            raise
        weakref.finalize(whole, os.close, fd)
        found = os.fstat(fd)
        self.where = Where(fd, found.st_dev, found.st_ino)
        self._whole = weakref.ref(whole)
        self._fresh: Bytes | None = whole[_HEADER:]

    def take(self) -> Bytes:
        """Its memory; to be called once."""
        memory, self._fresh = self._fresh, None
        if memory is None:
            raise ValueError("this memory is taken")
        return memory

    @property
    def alive(self) -> bool:
        """Whether there is a view of it."""
        return self._whole() is not None

    def find(self, address: int, nbytes: int) -> int | None:
        """The offset in it of memory of this process; None: it is not in it."""
        whole = self._whole()
        if whole is None:
            return None
        offset = address - whole.ctypes.data - _HEADER
        return offset if 0 <= offset <= whole.nbytes - _HEADER - nbytes else None

    def admit(self, number: int) -> Callable[[], None]:
        """Let others have the region of that number, until what this gives is called.

        Raises:
            ValueError: there are too many.
        """
        free = np.flatnonzero(self._numbers() == 0)
        if not len(free):
            raise ValueError(f"{_HEADER // 8} regions are registered in this memory already")
        self._numbers()[free[0]] = number

        def withdraw() -> None:
            numbers = self._numbers()
            numbers[numbers == number] = 0

        return withdraw

    def _numbers(self) -> npt.NDArray[np.uint64]:
        whole = self._whole()
        return np.zeros(0, np.uint64) if whole is None else whole[:_HEADER].view(np.uint64)


class Mapping:
    """Another process's memory, to be read.

    Raises:
        Gone: see there.
    """

    def __init__(self, process: Process, where: Where) -> None:
        self._alive = process.open()
        self._process = process
        try:
            fd = os.open(f"/proc/{process.pid}/fd/{where.fd}", os.O_RDONLY | os.O_CLOEXEC)
        except PermissionError:
            raise Gone(
                f"process {process.pid} is another user's: shared memory joins processes of one"
            ) from None
        except OSError:
            raise Gone(f"memory of process {process.pid} is gone") from None
        try:
            found = os.fstat(fd)
            if (found.st_dev, found.st_ino) != (where.device, where.inode):
                raise Gone(f"memory of process {process.pid} is gone")
            if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
                raise Gone(f"memory of process {process.pid} could shrink while it is read")
            whole = np.frombuffer(
                mmap.mmap(fd, found.st_size, mmap.MAP_SHARED, mmap.PROT_READ), np.uint8
            )
        finally:
            os.close(fd)
        self._numbers = whole[:_HEADER].view(np.uint64)
        self._memory: Bytes = whole[_HEADER:]

    @property
    def alive(self) -> bool:
        """Whether its process is."""
        return self._alive()

    def check(self, number: int) -> None:
        """
        Raises:
            Gone: its process is.
            Unregistered: the region of that number is not registered.
        """
        if not self.alive:
            raise Gone(f"process {self._process.pid} is gone")
        if number not in self._numbers:
            raise Unregistered(f"region {number} of process {self._process.pid} is not registered")

    def part(self, offset: int, nbytes: int) -> Bytes:
        """
        Raises:
            Unregistered: it does not lie in what is mapped.
        """
        if not 0 <= offset <= self._memory.nbytes - nbytes:
            raise Unregistered(f"{nbytes} bytes at {offset} were never allocated")
        return self._memory[offset : offset + nbytes]


@cache
def _here() -> tuple[str, int]:
    """Machine and namespace of this process."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return boot, Path("/proc/self/ns/pid").stat().st_ino


def _start(pid: int) -> int:
    """
    Raises:
        OSError: there is no such process.
    """
    # The second field is the command in brackets, which may contain any character.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[19])
