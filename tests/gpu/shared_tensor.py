"""A tensor of another process, through `torch.multiprocessing`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as processes

from tests.gpu.device_side import DEADLINE_S, pattern


def _serve(device: str, seed: int, connection: Any, queue: Any) -> None:
    """Give the tensor, then what it holds whenever somebody asks; until the end."""
    tensor = torch.from_numpy(pattern(seed)).to(device)
    queue.put(tensor)
    while _asked(connection):
        if device != "cpu":
            torch.cuda.synchronize()
        connection.send_bytes(tensor.cpu().numpy().tobytes())


def _asked(connection: Any) -> bool:
    try:
        return bool(connection.recv())
    except EOFError:
        return False


class Owner:
    """The other process."""

    def __init__(self, connection: Any, seed: int) -> None:
        self._connection = connection
        self.expected = pattern(seed)

    def content(self) -> np.ndarray:
        """What the owner itself reads."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._connection.send(True)
        assert self._connection.poll(DEADLINE_S), "no answer in time"
        return np.frombuffer(self._connection.recv_bytes(), np.uint8)


@contextmanager
def shared(device: str, seed: int) -> Iterator[tuple[torch.Tensor, Owner]]:
    context = processes.get_context("spawn")
    ours, theirs = context.Pipe()
    queue = context.Queue()
    process = context.Process(target=_serve, args=(device, seed, theirs, queue))
    process.start()
    theirs.close()
    try:
        yield queue.get(timeout=DEADLINE_S), Owner(ours, seed)
    finally:
        ours.close()  # the owner's next look at it ends it
        process.join(DEADLINE_S)
        process.kill()
        process.join()
        process.close()
        queue.close()
        queue.join_thread()
