"""One tensor-parallel rank: its caches, and the worker that moves KV into and out of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from pd_testkit.engine.model import Caches
from pd_testkit.engine.settings import Settings
from pd_testkit.engine.shape import ModelShape
from pd_testkit.reference.kv_memory import cache_names, cache_shape
from pd_testkit.reference.metadata import RemoteTransfer
from pd_testkit.reference.side_channel_messages import Geometry, TransferId
from pd_testkit.reference.terms import Terms
from pd_testkit.reference.transport import Transport
from pd_testkit.reference.worker import WorkerSide

EARLY = 4096
"""Decode ranks that may wait for prompts that this one does not hold yet."""


class RankTransport(Transport, Protocol):
    """A transport that has memory to give, and an end."""

    def allocate(self, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Zeroed memory that can be registered."""

    def close(self) -> None:
        """Give all back. Harmless twice."""


def geometry(settings: Settings, shape: ModelShape) -> Geometry:
    """What peers are told of this engine's caches."""
    return Geometry(
        model=f"{shape.name} of seed {settings.seed}",
        layers=shape.layers,
        block_size=settings.block_size,
        kv_heads=shape.kv_heads,
        head_dim=shape.cache_dim,
        itemsize=np.dtype(settings.dtype).itemsize,
        layout=settings.layout,
        mla=shape.mla,
        tp_size=settings.tp_size,
        dp_size=settings.dp_size,
    )


def terms(settings: Settings) -> Terms:
    """What this engine's workers and its peers' keep to."""
    return Terms(
        verifies=settings.kv_digest,
        claims=True,
        converts=True,
        hold_s=settings.hold_s,
        early=EARLY,
    )


class Rank:
    """The caches of one TP rank, and its worker once it listens.

    On the device ``cpu`` the model's caches are the worker's memory. Another has caches of its own:
    blocks are copied to the worker's memory when they are held, and from there when they have
    been loaded.

    Attributes:
        caches: as the model takes them.
    """

    def __init__(
        self, settings: Settings, shape: ModelShape, tp_rank: int, transport: RankTransport
    ) -> None:
        self._settings = settings
        self._geometry = geometry(settings, shape)
        self._rank = tp_rank
        self._transport = transport
        size = cache_shape(self._geometry, settings.num_blocks)
        self._memory = {
            name: transport.allocate(size, settings.dtype) for name in cache_names(self._geometry)
        }
        self._shared = {name: torch.from_numpy(memory) for name, memory in self._memory.items()}
        self._apart = settings.device != "cpu"
        self.caches: Caches = self._memory
        if self._apart:
            device = settings.device
            self.caches = {
                name: torch.zeros_like(shared, device=device)
                for name, shared in self._shared.items()
            }
        self._worker: WorkerSide | None = None

    @property
    def worker(self) -> WorkerSide:
        assert self._worker is not None, "the rank does not listen"
        return self._worker

    def listen(
        self,
        port: int,
        engine_id: str,
        *,
        clock: Callable[[], float],
        wake: Callable[[], None],
        arrived: Callable[[str, RemoteTransfer], None] | None = None,
    ) -> int:
        """Let peers come; gives the port, which 0 leaves open.

        Raises:
            OSError: the port is taken.
        """
        settings = self._settings
        self._worker = WorkerSide(
            self._transport,
            engine_id,
            self._geometry,
            self._memory,
            tp_rank=self._rank,
            host=settings.host,
            port=port,
            writes=settings.writes,
            patience_s=settings.transfer_s,
            clock=clock,
            wake=wake,
            terms=terms(settings),
            arrived=arrived,
        )
        return self._worker.address[1]

    def hold(self, transfer_id: TransferId, block_ids: Sequence[int], tokens: int) -> None:
        """Keep these blocks for a peer."""
        if self._apart:
            ids = torch.tensor(block_ids)
            for name, shared in self._shared.items():
                shared[ids] = self.caches[name][ids].to("cpu")
        self.worker.hold(transfer_id, block_ids, tokens=tokens)

    def take_in(self, transfer: RemoteTransfer) -> None:
        """Its bytes have come: let the model see them. What was skipped it has: whole blocks."""
        if self._apart:
            ids = torch.tensor(
                transfer.local_block_ids[transfer.skip // self._geometry.block_size :]
            )
            for name, shared in self._shared.items():
                self.caches[name][ids] = shared[ids].to(self._settings.device)

    def corrupt(self, transfer: RemoteTransfer) -> None:
        """Change one byte of the first token that was loaded: its exponent, as a small change of a
        number need not show."""
        name = self.worker.memory.names[-1]
        block, token = divmod(transfer.skip, self._geometry.block_size)
        view = self.worker.memory.view(name)
        element = view[transfer.local_block_ids[block], token, 0, :1].view(np.uint8)
        element[-1] = 0x41 if element[-1] != 0x41 else 0x42  # little-endian

    def hush(self) -> None:
        """Listen no more. Harmless twice."""
        if self._worker is not None:
            self._worker.shutdown()
            self._worker = None

    def close(self) -> None:
        """Give all back. Harmless twice."""
        self.hush()
        self._transport.close()
