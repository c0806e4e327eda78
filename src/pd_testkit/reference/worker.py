"""A worker's half of the connector: moves KV blocks over the fabric, in read mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from pd_testkit.fabric import Engine, Region, RegionHandle, Session, Status, Transfer
from pd_testkit.reference.copies import block_copies, merge
from pd_testkit.reference.layer_cache import LayerCache
from pd_testkit.reference.metadata import ConnectorMetadata, RemoteTransfer

Tell = Callable[[RemoteTransfer], None]
"""Says over the side channel that this reader is done with the peer's blocks."""


@dataclass(frozen=True)
class LayerHandle:
    """One layer's cache, as a peer needs it to read from it."""

    region: RegionHandle
    block_bytes: int
    num_blocks: int


@dataclass(frozen=True)
class Handshake:
    """What a worker tells its peers before the first transfer. Plain values only."""

    engine: str
    """Its name on the fabric."""
    layers: dict[str, LayerHandle]


@dataclass(frozen=True)
class Completions:
    """What ended since the last poll, by request id."""

    sent: frozenset[str] = frozenset()
    received: frozenset[str] = frozenset()
    failed: frozenset[str] = frozenset()
    """Receives; no byte of them can arrive any more."""


@dataclass
class _Load:
    transfer: RemoteTransfer
    reads: list[Transfer] = field(default_factory=list)
    """One per layer; none: the peer was out of reach."""


class WorkerSide:
    """One worker of one engine; a producer when peers read from it, a consumer when it reads.

    Args:
        engine: this worker on the fabric.
        tell: called once per request and reader, when nothing reads the peer's blocks any more.
        readers: peers that read each of this worker's requests.
    """

    def __init__(self, engine: Engine, tell: Tell, *, readers: int = 1) -> None:
        self._engine = engine
        self._tell = tell
        self._readers = readers
        self._regions: dict[str, Region] = {}
        self._layers: dict[str, LayerHandle] = {}
        self._peers: dict[str, dict[str, Session]] = {}
        self._loads: dict[str, _Load] = {}
        self._done_readers: dict[str, set[str]] = {}
        self._sent: set[str] = set()

    def register(self, layers: Mapping[str, npt.NDArray[Any]], block_size: int) -> None:
        """Register the KV memory: layer name to cache, shaped as `LayerCache` says.

        Raises:
            ValueError: a layer is registered already, or is not contiguous.
        """
        for name, cache in layers.items():
            if name in self._regions:
                raise ValueError(f"layer {name!r} is registered already")
            region = self._engine.register(cache)
            layout = LayerCache(cache.shape, cache.itemsize, block_size)
            self._regions[name] = region
            self._layers[name] = LayerHandle(region.handle, layout.block_bytes, layout.num_blocks)

    def handshake(self) -> Handshake:
        """For the peers; see `connect`."""
        return Handshake(self._engine.name, dict(self._layers))

    def connect(self, engine_id: str, peer: Handshake) -> None:
        """Meet the worker that ``engine_id`` stands for in hand-offs.

        Raises:
            ValueError: its layers or its blocks' sizes are not this worker's.
            ConnectionError: it does not answer.
        """
        sizes = {name: layer.block_bytes for name, layer in peer.layers.items()}
        if sizes != {name: layer.block_bytes for name, layer in self._layers.items()}:
            raise ValueError(f"the KV layout of {engine_id!r} is another: {sizes}")
        status = self._engine.connect(peer.engine)
        if status is not Status.SUCCESS:
            raise ConnectionError(f"handshake with {engine_id!r}: {status.name}")
        self._peers[engine_id] = {
            name: self._engine.session(self._regions[name], layer.region)
            for name, layer in peer.layers.items()
        }

    def start_loads(self, metadata: ConnectorMetadata) -> None:
        """Post the reads of one step, without waiting: each layer's blocks in one batch.

        A request without local blocks has all of its KV; its peer is told at once.
        """
        for request_id, transfer in metadata.receive.items():
            if transfer.local_block_ids:
                self._loads[request_id] = _Load(transfer, self._read(transfer))
            else:
                self._tell(transfer)

    def reader_done(self, request_id: str, reader: str) -> None:
        """The peer ``reader`` has told that it is done; telling twice counts once."""
        readers = self._done_readers.setdefault(request_id, set())
        readers.add(reader)
        if len(readers) >= self._readers:
            del self._done_readers[request_id]
            self._sent.add(request_id)

    def poll(self) -> Completions:
        """What ended since the last call.

        A load ends when all of its layers have, well or not: blocks must not be freed while a
        sibling of a failed read still writes into them.
        """
        received: set[str] = set()
        failed: set[str] = set()
        for request_id, load in list(self._loads.items()):
            statuses = [read.status for read in load.reads]
            if not all(status.done for status in statuses):
                continue
            good = bool(statuses) and all(status is Status.SUCCESS for status in statuses)
            (received if good else failed).add(request_id)
            del self._loads[request_id]
            self._tell(load.transfer)
        sent, self._sent = self._sent, set()
        return Completions(frozenset(sent), frozenset(received), frozenset(failed))

    def shutdown(self) -> None:
        """Give all memory and peers back; loads in flight fail unreported. Harmless twice."""
        for region in self._regions.values():
            region.deregister()
        for sessions in self._peers.values():
            for session in sessions.values():
                self._engine.disconnect(session.remote.engine)
        for held in (self._regions, self._layers, self._peers, self._loads, self._done_readers):
            held.clear()
        self._sent.clear()

    def _read(self, transfer: RemoteTransfer) -> list[Transfer]:
        sessions = self._peers.get(transfer.remote_engine_id, {})
        local, remote = transfer.local_block_ids, transfer.remote_block_ids
        reads = []
        for name, session in sessions.items():
            copies = merge(*block_copies(self._layers[name].block_bytes, local, remote))
            reads.append(session.read(*copies))
        return reads
