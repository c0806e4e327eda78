"""Memory of a GPU, as a transport names it to peers. It has not been run on a GPU yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DeviceMemory:
    """
    Attributes:
        address: on the device.
        nbytes: of it.
        device: the GPU's number in this process.
    """

    address: int
    nbytes: int
    device: int


def device_memory(buffer: Any) -> DeviceMemory | None:
    """Of a torch tensor on a GPU: torch calls CUDA's and ROCm's ``cuda``. None: it is no such one.

    Raises:
        ValueError: the tensor is not contiguous.
    """
    device: Any = getattr(buffer, "device", None)
    if getattr(device, "type", None) != "cuda":
        return None
    if not buffer.is_contiguous():
        raise ValueError("the tensor is not contiguous")
    nbytes = int(buffer.numel()) * int(buffer.element_size())
    return DeviceMemory(int(buffer.data_ptr()), nbytes, int(device.index or 0))
