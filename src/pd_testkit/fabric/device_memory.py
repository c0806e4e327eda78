"""Memory of a GPU of this process, as the fabric reaches it: through torch, by copies."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from pd_testkit.fabric.batch import Offsets
from pd_testkit.fabric.memory import Bytes


class DeviceMemory:
    """What was asked of the GPU on the current stream comes before, as with any use of a tensor.

    Args:
        flat: torch's view of the bytes, one-dimensional, of uint8.

    Attributes:
        flat: see above.
        address: on the device.
        nbytes: its size.
    """

    def __init__(self, flat: Any) -> None:
        self.flat = flat
        self.address = int(flat.data_ptr())
        self.nbytes = int(flat.numel())

    def gather(self, offsets: Offsets, sizes: Offsets) -> Bytes:
        """The bytes at these offsets, one piece after the other, in one copy from the device."""
        import torch

        ends = np.cumsum(sizes)
        positions = np.arange(int(sizes.sum())) + np.repeat(offsets - (ends - sizes), sizes)
        index = torch.from_numpy(positions).to(self.flat.device)
        return np.array(self.flat[index].cpu().numpy())

    def scatter(self, offsets: Offsets, sizes: Offsets, data: Bytes) -> None:
        """The inverse of `gather`; of pieces that overlap the last one stays."""
        import torch

        there, at = torch.from_numpy(np.array(data)).to(self.flat.device), 0
        for offset, size in zip(offsets.tolist(), sizes.tolist(), strict=True):
            self.flat[offset : offset + size] = there[at : at + size]
            at += size
        if self.flat.device.type == "cuda":
            # A transfer that has ended has ended for whoever reads it on another stream, too.
            torch.cuda.synchronize(self.flat.device)


class _Array:
    """https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html, which torch takes for
    ROCm too."""

    def __init__(self, address: int, size: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 3,
        }


def device_memory_of(buffer: Any) -> DeviceMemory | None:
    """A torch tensor's on a GPU. None: it is no such one.

    Raises:
        ValueError: the tensor is not contiguous.
    """
    if getattr(getattr(buffer, "device", None), "type", None) != "cuda":
        return None
    if not buffer.is_contiguous():
        raise ValueError("the tensor is not contiguous")
    import torch

    return DeviceMemory(buffer.detach().view(-1).view(torch.uint8))


def device_memory_at(address: int, size: int, device: int) -> DeviceMemory:
    """The bytes at an address of the GPU of that number.

    Raises:
        ValueError: a null address, or a size that is not above 0.
    """
    if size < 1 or address < 1:
        raise ValueError(f"no memory of {size} bytes at address {address:#x} of GPU {device}")
    import torch

    return DeviceMemory(torch.as_tensor(_Array(address, size), device=f"cuda:{device}"))


def uses_gpus() -> bool:
    """Whether this process has begun to: without that it has nothing on one."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())
