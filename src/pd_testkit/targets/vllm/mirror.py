"""KV memory on a device, which the test's process sees in shared memory. In a child only.

The connector moves what is on the device; what is compared was read back from there.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import numpy as np
import torch

from pd_testkit.fabric.device_memory import device_memory_at

if TYPE_CHECKING:
    from pd_testkit.fabric.memory import Bytes


_PAGE = 4096
"""Bytes. As the caches of a model are, which are large: vLLM's MoRIIO registers whole pages."""


class Mirror:
    """
    Args:
        device: as torch names it.
        shared: bytes that the test's process sees, and may change between two steps.

    Attributes:
        tensor: the memory on the device: flat, of bytes, all zero at first.
    """

    def __init__(self, device: str, shared: Bytes) -> None:
        self.tensor, self._whole = _paged(len(shared), device)
        self._shared = shared
        self._known = np.zeros_like(shared)
        """What both had when they were last compared."""

    def push(self) -> None:
        """What the test's process has changed goes to the device, and nothing else: a transfer may
        be writing beside it."""
        (changed,) = np.nonzero(self._shared != self._known)
        if len(changed):
            self._known[changed] = self._shared[changed]
            at = torch.from_numpy(changed).to(self.tensor.device)
            self.tensor[at] = torch.from_numpy(self._known[changed]).to(self.tensor.device)
            self._settle()

    def pull(self) -> None:
        """What has changed on the device goes to the test's process, and nothing else."""
        self._settle()
        there = np.array(self.tensor.cpu().numpy())
        (changed,) = np.nonzero(there != self._known)
        self._shared[changed] = self._known[changed] = there[changed]

    def _settle(self) -> None:
        """What was asked of the GPU is done: whoever moves its bytes asks no stream."""
        if self.tensor.device.type != "cpu":
            torch.cuda.synchronize(self.tensor.device)


def _paged(nbytes: int, device: str) -> tuple[torch.Tensor, object]:
    """Memory whose storage begins at a page, all zero, and what owns it."""
    if device == "cpu":
        memory = mmap.mmap(-1, nbytes)
        return torch.frombuffer(memory, dtype=torch.uint8), memory
    whole = torch.zeros(nbytes + _PAGE, dtype=torch.uint8, device=device)
    number = int(whole.device.index or 0)
    address = -(-whole.data_ptr() // _PAGE) * _PAGE
    return device_memory_at(address, nbytes, number).flat, whole
