"""What a child has in place of hardware. Nothing of vLLM is changed. In a child only."""

from __future__ import annotations

import torch


def without_accelerator() -> None:
    """Torch has no current accelerator on a plain CPU, and Mooncake's worker asks for its number;
    all that it does with it is to set vLLM's device, which on a CPU changes nothing."""
    torch.accelerator.current_device_index = lambda: 0
