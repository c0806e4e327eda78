"""Memory that the fabric reaches through torch: here a CPU's, in the place of a GPU's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pd_testkit.fabric import Fabric, Region, Status, Violation
from pd_testkit.fabric.device_memory import DeviceMemory, device_memory_of, uses_gpus

torch = pytest.importorskip("torch", reason="not applicable: torch is not installed")

SIZE = 4096
BLOCK = 256


class OnDevice:
    """A tensor of the CPU that says that it is on a GPU: as there, its address is of no use."""

    device = SimpleNamespace(type="cuda", index=0)

    def __init__(self, values: np.ndarray) -> None:
        self.tensor = torch.from_numpy(values.copy())

    def data_ptr(self) -> int:
        raise AssertionError("nobody may use the address")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tensor, name)

    def content(self) -> np.ndarray:
        return self.tensor.numpy()


def values(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, SIZE, np.uint8)


def test_pieces_are_gathered_one_after_the_other() -> None:
    content = values(1)
    memory = DeviceMemory(torch.from_numpy(content.copy()))
    seen = memory.gather(np.array([100, 0, 4095, 7]), np.array([3, 2, 1, 0]))
    assert seen.tolist() == [*content[100:103], *content[0:2], content[4095]]


def test_of_scattered_pieces_that_overlap_the_last_one_stays() -> None:
    content = values(2)
    memory = DeviceMemory(torch.from_numpy(content.copy()))
    memory.scatter(np.array([10, 12]), np.array([4, 4]), np.arange(8, dtype=np.uint8))
    content[10:16] = [0, 1, 4, 5, 6, 7]
    assert (memory.gather(np.array([0]), np.array([SIZE])) == content).all()


def test_all_elements_of_a_tensor_are_its_bytes() -> None:
    tensor = torch.arange(6, dtype=torch.int32).view(2, 3)
    on_device = OnDevice(np.zeros(0, np.uint8))
    on_device.tensor = tensor
    memory = device_memory_of(on_device)
    assert memory is not None
    assert memory.nbytes == 24
    assert memory.gather(np.array([4]), np.array([4])).tolist() == [1, 0, 0, 0]


def test_a_tensor_of_the_host_is_none() -> None:
    assert device_memory_of(torch.zeros(4)) is None
    assert device_memory_of(bytearray(4)) is None
    assert not uses_gpus()


def test_a_tensor_that_is_not_contiguous_is_refused() -> None:
    on_device = OnDevice(np.zeros(0, np.uint8))
    on_device.tensor = torch.zeros(4, 4)[:, :2]
    with pytest.raises(ValueError, match="not contiguous"):
        device_memory_of(on_device)


@pytest.fixture(params=["device-device", "host-device", "device-host"])
def sides(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """P's and D's memory."""
    return tuple(
        OnDevice(values(seed)) if place == "device" else torch.from_numpy(values(seed))
        for seed, place in enumerate(request.param.split("-"))
    )


def content(memory: Any) -> np.ndarray:
    return memory.content() if isinstance(memory, OnDevice) else memory.numpy()


def joined(fabric: Fabric, sides: tuple[Any, Any]) -> tuple[Region, Region]:
    regions = tuple(
        fabric.engine(name).register(side) for name, side in zip("PD", sides, strict=True)
    )
    assert fabric.engines["D"].connect("P") is Status.SUCCESS
    return regions


def test_the_fabric_moves_blocks_and_touches_no_other_byte(sides: tuple[Any, Any]) -> None:
    fabric = Fabric()
    p, d = joined(fabric, sides)
    session = fabric.engines["D"].session(d, p.handle)
    read = session.read([0, 5 * BLOCK], [7 * BLOCK, BLOCK], [BLOCK, BLOCK - 3])
    fabric.run_until_idle()
    assert read.status is Status.SUCCESS
    expected = values(1)
    expected[:BLOCK] = values(0)[7 * BLOCK : 8 * BLOCK]
    expected[5 * BLOCK : 6 * BLOCK - 3] = values(0)[BLOCK : 2 * BLOCK - 3]
    assert (content(sides[1]) == expected).all()
    assert (content(sides[0]) == values(0)).all()
    write = session.write([0], [9 * BLOCK], [BLOCK])
    fabric.run_until_idle()
    assert write.status is Status.SUCCESS
    assert (content(sides[0])[9 * BLOCK : 10 * BLOCK] == expected[:BLOCK]).all()
    assert fabric.peek(p, 9 * BLOCK, BLOCK) == expected[:BLOCK].tobytes()
    fabric.poke(p, 3, b"abc")
    assert content(sides[0])[3:6].tobytes() == b"abc"


def test_the_sanitizer_poisons_and_tells_who_wrote_a_freed_block() -> None:
    fabric = Fabric()
    memory = OnDevice(values(3))
    region = fabric.engine("D").register(memory)
    sanitizer = fabric.sanitizer
    sanitizer.watch(region, block_size=BLOCK, poison=0xFF)
    sanitizer.allocate(region, [2, 3])
    sanitizer.free(region, [2])
    assert set(memory.content()[2 * BLOCK : 3 * BLOCK]) == {0xFF}
    assert (memory.content()[3 * BLOCK :] == values(3)[3 * BLOCK :]).all()
    memory.tensor[2 * BLOCK + 9] = 0  # as a kernel that still runs does
    sanitizer.allocate(region, [2])
    assert [(report.violation, report.block_ids) for report in sanitizer.reports] == [
        (Violation.WRITE_OF_FREED, (2,))
    ]
