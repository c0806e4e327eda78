"""KV memory on a device, which the test's process sees in shared memory. In a child only.

The connector moves what is on the device; what is compared was read back from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from pd_testkit.fabric.memory import Bytes


class Mirror:
    """
    Args:
        device: as torch names it.
        shared: bytes that the test's process sees, and may change between two steps.

    Attributes:
        tensor: the memory on the device: flat, of bytes, all zero at first.
    """

    def __init__(self, device: str, shared: Bytes) -> None:
        self.tensor = torch.zeros(len(shared), dtype=torch.uint8, device=device)
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
