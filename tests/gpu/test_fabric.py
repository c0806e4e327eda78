"""The fabric, its faults, its sanitizer and the stand-in of mori over memory of a GPU."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.gpu.places import DEVICES

if TYPE_CHECKING:
    from pd_testkit.fabric import Region
    from pd_testkit.stubs import Installation

BLOCK = 4096
OURS = [0, 7 * BLOCK, 3 * BLOCK]
THEIRS = [11 * BLOCK, 2 * BLOCK, 30 * BLOCK]
SIZES = [BLOCK, 4 * BLOCK, BLOCK - 3]

pytestmark = pytest.mark.parametrize("device", DEVICES)


def tensor_of(seed: int, device: str) -> Any:
    import torch

    from tests.gpu.device_side import pattern

    return torch.from_numpy(pattern(seed)).to(device)


def digest_of(tensor: Any) -> str:
    """Of what the device holds, read back by torch and not by the fabric."""
    from tests.gpu.device_side import digest

    return digest(tensor.cpu().numpy())


class Two:
    """P's and D's tensors on the device, on one fabric."""

    def __init__(self, device: str, *faults: Any) -> None:
        from pd_testkit.fabric import Fabric, FabricOptions

        self.fabric = Fabric(FabricOptions(), faults, 7)
        self.tensors = {"P": tensor_of(2, device), "D": tensor_of(1, device)}
        self.regions: dict[str, Region] = {
            name: self.fabric.engine(name).register(tensor) for name, tensor in self.tensors.items()
        }
        self.fabric.engines["D"].connect("P")

    def read(self, *ranges: list[int]) -> str:
        session = self.fabric.engines["D"].session(self.regions["D"], self.regions["P"].handle)
        transfer = session.read(*ranges)
        self.fabric.run_until_idle()
        return transfer.status.name


def expected() -> str:
    """D's digest after a read of `OURS` from `THEIRS`."""
    from tests.gpu.device_side import digest, pattern

    ours, theirs = pattern(1), pattern(2)
    for at, come_from, size in zip(OURS, THEIRS, SIZES, strict=True):
        ours[at : at + size] = theirs[come_from : come_from + size]
    return digest(ours)


def test_blocks_arrive_and_no_other_byte_changes(device: str) -> None:
    from tests.gpu.device_side import digest, pattern

    two = Two(device)
    assert two.read(OURS, THEIRS, SIZES) == "SUCCESS"
    assert digest_of(two.tensors["D"]) == expected()
    assert digest_of(two.tensors["P"]) == digest(pattern(2))


def test_a_byte_that_the_network_changes_is_seen_in_the_digest(
    device: str, record_property
) -> None:
    from pd_testkit.fabric import Corrupt

    record_property("clauses", "PAIR-053")
    two = Two(device, Corrupt(nth=1))
    assert two.read(OURS, THEIRS, SIZES) == "SUCCESS"
    assert digest_of(two.tensors["D"]) != expected()


def test_a_read_from_an_engine_that_was_killed_changes_no_byte(
    device: str, record_property
) -> None:
    from tests.gpu.device_side import digest, pattern

    record_property("clauses", "PAIR-067")
    two = Two(device)
    two.fabric.engines["P"].kill()
    assert two.read(OURS, THEIRS, SIZES) != "SUCCESS"
    assert digest_of(two.tensors["D"]) == digest(pattern(1))


def test_the_sanitizer_poisons_freed_blocks_and_names_who_touched_them(device: str) -> None:
    """A transfer that reads a freed block, and a kernel that writes to one."""
    from pd_testkit.fabric import Violation
    from tests.gpu.device_side import pattern

    two = Two(device)
    sanitizer, region, tensor = two.fabric.sanitizer, two.regions["P"], two.tensors["P"]
    sanitizer.watch(region, block_size=BLOCK, poison=0xFF)
    sanitizer.allocate(region, [2, 3])
    sanitizer.free(region, [2])
    held = tensor.cpu().numpy()
    assert set(held[2 * BLOCK : 3 * BLOCK]) == {0xFF}
    assert (held[3 * BLOCK :] == pattern(2)[3 * BLOCK :]).all()
    assert two.read([0], [2 * BLOCK], [BLOCK]) == "SUCCESS"
    tensor[2 * BLOCK + 9] = 0
    sanitizer.allocate(region, [2])
    assert [(report.violation, report.block_ids) for report in sanitizer.reports] == [
        (Violation.READ_OF_FREED, (2,)),
        (Violation.WRITE_OF_FREED, (2,)),
    ]


def test_the_stand_in_of_mori_moves_memory_of_a_gpu(
    device: str, pd_stubs: Callable[..., Installation]
) -> None:
    """As an implementation under the stand-ins registers it: by tensor, and by bare address."""
    from tests.gpu.device_side import DEADLINE_S, digest, pattern

    pd_stubs("mori", replace=True)
    io = importlib.import_module("mori.io")
    engines, memory = {}, {}
    tensors = {"P": tensor_of(2, device), "D": tensor_of(1, device)}
    for name, tensor in tensors.items():
        engine = engines[name] = io.IOEngine(name, io.IOEngineConfig(host="127.0.0.1", port=0))
        engine.create_backend(io.BackendType.RDMA)
        if name == "P":
            memory[name] = engine.register_torch_tensor(tensor)
        else:
            index = -1 if tensor.device.index is None else tensor.device.index
            gpu = io.MemoryLocationType.GPU
            memory[name] = engine.register_memory(tensor.data_ptr(), tensor.numel(), index, gpu)
    engines["D"].register_remote_engine(engines["P"].get_engine_desc())
    session = engines["D"].create_session(memory["D"], memory["P"])
    status = session.batch_read(OURS, THEIRS, SIZES, session.allocate_transfer_uid())
    ended = status.WaitFor(int(DEADLINE_S * 1000))
    assert status.Succeeded(), f"{ended} {status.Message()}"
    assert digest_of(tensors["D"]) == expected()
    assert digest_of(tensors["P"]) == digest(pattern(2))
