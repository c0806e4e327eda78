"""Producer to consumer on one machine, on two GPUs or on one: bytes equal, read back to compare."""

from __future__ import annotations

import pytest

from tests.gpu.places import DEVICES, PATHS, Path

BLOCK = 4096
OURS = [0, 7 * BLOCK, 3 * BLOCK]
THEIRS = [11 * BLOCK, 2 * BLOCK, 30 * BLOCK]
SIZES = [BLOCK, 4 * BLOCK, BLOCK - 3]


@pytest.mark.parametrize("path", PATHS)
def test_blocks_that_are_read_and_written_arrive_and_no_other_byte_changes(
    path: Path, record_property
) -> None:
    """Reads, then writes of what was ours; both sides' whole memories are compared."""
    from tests.gpu.device_side import digest, here, other, pattern

    record_property("clauses", "PAIR-001 PAIR-002 PAIR-003 PAIR-004")
    with here(path, "consumer", 1) as consumer, other(path, "producer", 2) as producer:
        ours, theirs = pattern(1), pattern(2)
        read = consumer.post("read", producer.handle(), OURS, THEIRS, SIZES)
        assert consumer.end(read) == "SUCCESS"
        for at, come_from, size in zip(OURS, THEIRS, SIZES, strict=True):
            ours[at : at + size] = theirs[come_from : come_from + size]
        assert consumer.digest() == digest(ours)
        assert producer.ask("digest") == digest(theirs)

        write = consumer.post("write", producer.handle(), [0], [100 * BLOCK], [16 * BLOCK])
        assert consumer.end(write) == "SUCCESS"
        theirs[100 * BLOCK : 116 * BLOCK] = ours[: 16 * BLOCK]
        assert producer.ask("digest") == digest(theirs)
        assert consumer.digest() == digest(ours)


@pytest.mark.parametrize("device", DEVICES)
def test_two_processes_share_a_tensor_by_torch_s_own_handles(device: str) -> None:
    """On a GPU these are CUDA's IPC handles, on which NIXL's cuda_ipc rests too."""
    from tests.gpu.shared_tensor import shared

    with shared(device, seed=3) as tensor_and_peer:
        tensor, peer = tensor_and_peer
        assert tensor.device.type == device
        assert (tensor.cpu().numpy() == peer.expected).all()
        tensor.fill_(77)
        assert set(peer.content()) == {77}
