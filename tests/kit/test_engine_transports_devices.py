"""Memory on a GPU: what a transport takes of it, by a tensor's own words. No GPU is needed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pd_testkit.engine.transports import open_transport
from pd_testkit.engine.transports.device_memory import DeviceMemory, device_memory


class Tensor:
    """As torch's, of 6 elements of 4 bytes at 0x7000."""

    def __init__(self, kind: str, index: int | None, *, contiguous: bool = True) -> None:
        self.device = SimpleNamespace(type=kind, index=index)
        self._contiguous = contiguous

    def is_contiguous(self) -> bool:
        return self._contiguous

    def data_ptr(self) -> int:
        return 0x7000

    def numel(self) -> int:
        return 6

    def element_size(self) -> int:
        return 4


def test_a_tensor_on_a_gpu_is_known() -> None:
    assert device_memory(Tensor("cuda", 1)) == DeviceMemory(0x7000, 24, 1)
    assert device_memory(Tensor("cuda", None)) == DeviceMemory(0x7000, 24, 0)


@pytest.mark.parametrize("buffer", [np.zeros(3), b"bytes", Tensor("cpu", None)])
def test_host_memory_is_none(buffer: Any) -> None:
    assert device_memory(buffer) is None


def test_a_tensor_with_gaps_is_refused() -> None:
    with pytest.raises(ValueError, match="not contiguous"):
        device_memory(Tensor("cuda", 0, contiguous=False))


@pytest.mark.parametrize("kind", ["shm", "zmq"])
def test_transports_of_host_memory_refuse_a_gpu_s_in_one_line(kind: str) -> None:
    transport = open_transport(kind, "device-refused")
    try:
        with pytest.raises(ValueError, match=r"^the tensor is on device 'cuda'; only host memory"):
            transport.register(Tensor("cuda", 0))
    finally:
        transport.close()
