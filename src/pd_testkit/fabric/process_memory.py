"""Memory of another process, as a fabric that serves it reaches it."""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pd_testkit.fabric.batch import Offsets, copy
from pd_testkit.fabric.memory import Bytes, Elsewhere
from pd_testkit.fabric.shared_memory import mapped_from

_MOST_PIECES = 1024
"""Pieces per system call: UIO_MAXIOV."""
_FORBIDDEN = {
    errno.EPERM: (
        "not permitted: the two must have one user and one user namespace, and this one must be "
        "the other's ancestor where kernel.yama.ptrace_scope is 1, or have CAP_SYS_PTRACE where "
        "it is 2 or a container drops it"
    ),
    errno.ENOSYS: "not there: the kernel or a seccomp profile lacks process_vm_readv and _writev",
}


class Unreachable(OSError):
    """The memory, or its process, is gone, or this process may not touch it."""


class ProcessMemory:
    """Private memory of a process of the same user, through ``process_vm_readv`` and ``_writev``.

    Attributes:
        pid: of its process.
        address: there.
        nbytes: its size.
    """

    def __init__(self, pid: int, address: int, nbytes: int) -> None:
        self.pid = pid
        self.address = address
        self.nbytes = nbytes

    def gather(self, offsets: Offsets, sizes: Offsets) -> Bytes:
        """The bytes at these offsets, one piece after the other.

        Raises:
            Unreachable: see there.
        """
        data = np.empty(int(sizes.sum()), np.uint8)
        self._move("process_vm_readv", offsets, sizes, data)
        return data

    def scatter(self, offsets: Offsets, sizes: Offsets, data: Bytes) -> None:
        """The inverse of `gather`; raises as it does."""
        self._move("process_vm_writev", offsets, sizes, np.ascontiguousarray(data))

    def _move(self, name: str, offsets: Offsets, sizes: Offsets, data: Bytes) -> None:
        call = _system_call(name)
        if call is None:
            raise self._unreachable(errno.ENOSYS)
        starts, ends = offsets + self.address, np.cumsum(sizes)
        done, total = 0, data.nbytes
        while done < total:
            first = int(np.searchsorted(ends, done, side="right"))
            pieces = np.empty((min(_MOST_PIECES, len(sizes) - first), 2), np.uint64)
            pieces[:, 0] = starts[first : first + len(pieces)]
            pieces[:, 1] = sizes[first : first + len(pieces)]
            passed = done - int(ends[first] - sizes[first])
            pieces[0] += np.array([passed, -passed]).astype(np.uint64)
            here = np.array([[data.ctypes.data + done, int(pieces[:, 1].sum())]], np.uint64)
            moved = call(self.pid, here.ctypes.data, 1, pieces.ctypes.data, len(pieces), 0)
            if moved <= 0:
                raise self._unreachable(ctypes.get_errno() if moved else errno.EFAULT)
            done += moved

    def _unreachable(self, number: int) -> Unreachable:
        why = _FORBIDDEN.get(number, os.strerror(number))
        return Unreachable(number, f"memory of process {self.pid} cannot be reached: {why}")


def memory_of_process(pid: int, address: int, size: int) -> Bytes | ProcessMemory:
    """Memory of a process: where this one maps the same `SharedMemory`, that; else through the
    kernel.

    Raises:
        Unreachable: it is not mapped there, or this process may not touch it.
        ValueError: a null address, or a negative size.
    """
    if size < 0 or address < 0 or (address == 0 and size):
        raise ValueError(f"no memory of {size} bytes at address {address:#x}")
    if size == 0:
        return np.empty(0, np.uint8)
    shared = _shared(pid, address, size)
    if shared is not None:
        return shared
    memory = ProcessMemory(pid, address, size)
    memory.gather(np.array([0, size - 1]), np.array([1, 1]))  # fail now and not in a transfer
    return memory


def _shared(pid: int, address: int, size: int) -> Bytes | None:
    """The same bytes in this process's own mapping, if they lie in one of its `SharedMemory`."""
    view, lead, reached = None, 0, address
    try:
        maps = Path(f"/proc/{pid}/maps").read_text()
    except PermissionError:  # the kernel's way is closed too, and says why
        return None
    for line in maps.splitlines():
        extent, permissions, offset, device, inode = line.split()[:5]
        start, end = (int(bound, 16) for bound in extent.split("-"))
        if not start <= reached < end:
            continue
        major, minor = (int(number, 16) for number in device.split(":"))
        file = mapped_from(os.makedev(major, minor), int(inode))
        if file is None or permissions[3] != "s":
            return None
        at = int(offset, 16) + reached - start
        if view is None:
            view, lead = file, at - reached
        elif view is not file or lead != at - reached:
            return None
        reached = end  # one mapping may be several lines, of other permissions
        if reached >= address + size:
            return view[address + lead : address + lead + size]
    return None


def move(
    source: Bytes | Elsewhere,
    from_: Offsets,
    destination: Bytes | Elsewhere,
    to: Offsets,
    sizes: Offsets,
) -> None:
    """As `batch.copy`; where memory takes part that is elsewhere, all is read first.

    Raises:
        Unreachable: of either memory; what was written until then stays.
    """
    if isinstance(source, np.ndarray) and isinstance(destination, np.ndarray):
        copy(source, from_, destination, to, sizes)
        return
    packed = np.cumsum(sizes) - sizes
    if isinstance(source, np.ndarray):
        data = np.empty(int(sizes.sum()), np.uint8)
        copy(source, from_, data, packed, sizes)
    else:
        data = source.gather(from_, sizes)
    if isinstance(destination, np.ndarray):
        copy(data, packed, destination, to, sizes)
    else:
        destination.scatter(to, sizes, data)


def read(memory: Bytes | Elsewhere, offset: int, size: int) -> Bytes:
    """A copy of ``size`` bytes; the caller has checked the bounds. Raises as `move`."""
    if isinstance(memory, np.ndarray):
        data: Bytes = memory[offset : offset + size].copy()
        return data
    return memory.gather(np.array([offset]), np.array([size]))


def write(memory: Bytes | Elsewhere, offset: int, data: Bytes) -> None:
    """Sets bytes; as `read`."""
    if isinstance(memory, np.ndarray):
        memory[offset : offset + len(data)] = data
    else:
        memory.scatter(np.array([offset]), np.array([len(data)]), data)


@cache
def _system_call(name: str) -> Any:
    """None where there is none, as on other systems than Linux."""
    call = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if call is not None:
        call.argtypes = [
            *(ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong),
            *(ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong),
        ]
        call.restype = ctypes.c_ssize_t
    return call
