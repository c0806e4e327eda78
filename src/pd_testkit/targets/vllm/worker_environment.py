"""What a child has in place of hardware. Nothing of vLLM is changed. In a child only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from typing import Any

import torch

from pd_testkit.fabric.remote import RemoteFabric
from pd_testkit.stubs import Installation, install


def without_accelerator() -> None:
    """Torch has no current accelerator on a plain CPU, and Mooncake's worker asks for its number;
    all that it does with it is to set vLLM's device, which on a CPU changes nothing."""
    torch.accelerator.current_device_index = lambda: 0


class _Done:
    """An event of a stream, as on a CPU: what was asked for before it is done when it is made."""

    def record(self, stream: None) -> None:
        """Nothing is under way."""

    def synchronize(self) -> None:
        """Nothing to wait for."""


def without_streams() -> None:
    """MoRIIO's producer, where it writes, waits for the stream that computes the KV. A plain CPU
    has none: the KV is there when the step is."""
    torch.cuda.current_stream = lambda: None  # type: ignore[assignment,misc]
    torch.cuda.Event = _Done  # type: ignore[assignment,misc]


@cache
def _mori() -> Installation:
    """For the process's life: vLLM's connector keeps the names that it has imported."""
    return install("mori", replace=True)


@contextmanager
def mori_on(address: str) -> Iterator[None]:
    """The kit's mori, whose engines move bytes on the fabric that is served there."""
    with closing(RemoteFabric(address)) as fabric:
        served: Any = fabric
        with _mori().on(served):
            yield
