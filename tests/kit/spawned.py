"""What children of the stubs' tests run. It imports stubs only when it is called."""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any


def name_the_stub(answer: Connection) -> None:
    import mori.io

    answer.send((mori.io.__spec__.origin, int(mori.io.BackendType.RDMA)))


def pass_on(handle: Any, rank: int, answer: Connection) -> None:
    """Sends back the first two messages of a queue."""
    from aiter.dist.shm_broadcast import MessageQueue

    queue = MessageQueue.create_from_handle(handle, rank)
    answer.send([queue.dequeue(timeout=30), queue.dequeue(timeout=30)])
