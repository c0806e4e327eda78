"""Registered memory: real bytes, and the value that names them on another engine."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pd_testkit.fabric.batch import Offsets
    from pd_testkit.fabric.engine import Engine

Bytes = npt.NDArray[np.uint8]


class Elsewhere(Protocol):
    """Memory that this process cannot touch by an address: another process's, or a GPU's."""

    @property
    def address(self) -> int:
        """There."""

    @property
    def nbytes(self) -> int:
        """Its size."""

    def gather(self, offsets: Offsets, sizes: Offsets) -> Bytes:
        """The bytes at these offsets, one piece after the other."""

    def scatter(self, offsets: Offsets, sizes: Offsets, data: Bytes) -> None:
        """The inverse of `gather`."""


class RegionHandle(NamedTuple):
    """Names a region to another engine. A plain tuple of plain values: send it over any wire."""

    engine: str
    generation: int
    """Of the engine; a handle from before its restart is stale."""
    region: int
    """Unique on a fabric, never reused."""
    address: int
    """In the engine's process."""
    size: int
    """Bytes."""
    key: str = ""
    """What a network needs beside these to reach the memory; the fabric needs nothing."""


class Region:
    """Memory of one engine that the fabric may read and write.

    Registered memory must stay where it is until it is deregistered or its engine dies. The
    region keeps a reference to the buffer, or to ``owner``, until then and no longer; of a bare
    address the caller alone keeps it alive. The fabric never touches a byte outside of
    [address, address + size), and none at all afterwards.

    Attributes:
        address: where this process has the bytes; `handle` has the engine's own address of them,
            which is another one where the engine lives in another process.
    """

    def __init__(
        self,
        engine: Engine,
        region_id: int,
        memory: Bytes | Elsewhere,
        owner: Any,
        there: int | None = None,
    ) -> None:
        self.engine = engine
        self.address = memory.ctypes.data if isinstance(memory, np.ndarray) else memory.address
        self.handle = RegionHandle(
            engine.name,
            engine.generation,
            region_id,
            self.address if there is None else there,
            memory.nbytes,
        )
        self._memory: Bytes | Elsewhere | None = memory
        self._owner = owner

    @property
    def id(self) -> int:
        return self.handle.region

    @property
    def size(self) -> int:
        """Bytes."""
        return self.handle.size

    @property
    def registered(self) -> bool:
        return self._memory is not None

    def deregister(self) -> None:
        """Take it off the fabric; transfers to and from it fail from now on."""
        self.engine.deregister(self)

    def _release(self) -> None:
        self._memory = self._owner = None

    def __repr__(self) -> str:
        state = "" if self.registered else ", deregistered"
        return f"<Region {self.id} of {self.engine.name}, {self.size} bytes{state}>"


def memory_of(buffer: Any) -> tuple[Bytes, Any]:
    """A buffer's bytes as a flat array over the same memory, and the object that owns them.

    Raises:
        TypeError: no buffer, array or tensor.
        ValueError: not contiguous, read-only, or not in host memory.
    """
    if isinstance(buffer, np.ndarray):
        if not buffer.flags.c_contiguous:
            raise ValueError("the array is not C-contiguous")
        memory = buffer.reshape(-1).view(np.uint8)
    elif hasattr(buffer, "data_ptr"):
        return _tensor_memory(buffer), buffer
    else:
        view = memoryview(buffer)
        if not view.c_contiguous:
            raise ValueError("the buffer is not C-contiguous")
        memory = np.frombuffer(view, dtype=np.uint8) if view.nbytes else np.empty(0, np.uint8)
    if not memory.flags.writeable and memory.nbytes:
        raise ValueError("the buffer is read-only; a NIC writes to what it registers")
    return memory, buffer


def memory_at(address: int, size: int) -> Bytes:
    """The bytes at an address of this process.

    Raises:
        ValueError: a null address, or a negative size.
    """
    if size < 0 or address < 0 or (address == 0 and size):
        raise ValueError(f"no memory of {size} bytes at address {address:#x}")
    if size == 0:
        return np.empty(0, dtype=np.uint8)
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


def _tensor_memory(tensor: Any) -> Bytes:
    """A torch tensor's bytes, through its data pointer: torch is not imported for it."""
    device = getattr(getattr(tensor, "device", None), "type", "cpu")
    if device != "cpu":
        raise ValueError(f"the tensor is on device {device!r}; only host memory can be moved here")
    if not tensor.is_contiguous():
        raise ValueError("the tensor is not contiguous")
    return memory_at(int(tensor.data_ptr()), int(tensor.numel()) * int(tensor.element_size()))
