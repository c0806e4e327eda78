"""Faults while bytes move between devices: what L1 and L2 promise of them, on real memory."""

from __future__ import annotations

import pytest

from tests.gpu.places import PATHS, Path

POSTS = 8
BLOCK = 4096


@pytest.mark.parametrize("path", PATHS)
def test_a_load_whose_peer_is_killed_fails_and_the_next_life_is_met_anew(
    path: Path, record_property
) -> None:
    """Transfers that were under way end, well or not; those that are posted later fail. The peer's
    next life has other memory, and only that is read."""
    from tests.gpu.device_side import SIZE, digest, here, other, pattern

    record_property("clauses", "PAIR-065 PAIR-067 PAIR-068 PAIR-069")
    whole = [0], [0], [SIZE]
    with here(path, "consumer", 1) as consumer:
        with other(path, "producer-1", 2) as producer:
            old = producer.handle()
            assert consumer.end(consumer.post("read", old, *whole)) == "SUCCESS"
            assert consumer.digest() == digest(pattern(2))
            under_way = [consumer.post("read", old, *whole) for _ in range(POSTS)]
            producer.kill()
            ended = [consumer.end(transfer) for transfer in under_way]
            assert set(ended) <= {"SUCCESS", "RDMA_ERROR", "NOT_FOUND"}
            assert consumer.end(consumer.post("read", old, *whole)) != "SUCCESS"
        with other(path, "producer-2", 3) as producer:
            new = producer.handle()
            assert consumer.end(consumer.post("read", new, *whole)) == "SUCCESS"
            assert consumer.digest() == digest(pattern(3))
            assert consumer.end(consumer.post("read", old, *whole)) != "SUCCESS"
            assert consumer.digest() == digest(pattern(3))


@pytest.mark.parametrize("path", PATHS)
def test_a_write_to_a_peer_that_was_killed_fails(path: Path) -> None:
    """And changes nothing of ours."""
    from tests.gpu.device_side import here, other, pattern

    with here(path, "writer", 1) as writer, other(path, "reader", 2) as reader:
        handle = reader.handle()
        transfers = [
            writer.post("write", handle, [0], [number * BLOCK], [BLOCK]) for number in range(POSTS)
        ]
        assert {writer.end(transfer) for transfer in transfers} == {"SUCCESS"}
        reader.kill()
        assert writer.end(writer.post("write", handle, [0], [0], [BLOCK])) != "SUCCESS"
        assert (writer.content() == pattern(1)).all()


@pytest.mark.parametrize("path", PATHS)
def test_what_was_deregistered_is_read_into_no_more(path: Path) -> None:
    from tests.gpu.device_side import here, other, pattern

    with here(path, "consumer", 1) as consumer, other(path, "producer", 2) as producer:
        consumer.region.deregister()
        late = consumer.post("read", producer.handle(), [0], [0], [BLOCK])
        assert consumer.end(late) != "SUCCESS"
        assert (consumer.content() == pattern(1)).all()
