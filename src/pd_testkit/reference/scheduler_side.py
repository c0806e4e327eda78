"""The connector's scheduler half: who loads what from whom, and who keeps blocks for whom."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pd_testkit.reference.metadata import ConnectorMetadata
from pd_testkit.reference.request import Request


@dataclass(frozen=True)
class Endpoint:
    """Where a peer finds this engine."""

    engine_id: str
    host: str
    port: int
    handshake_port: int
    """Base port of the side channel."""
    tp_size: int = 1
    dp_size: int = 1
    dp_rank: int = 0


@dataclass(frozen=True)
class Finished:
    """What becomes of a finished request's KV."""

    params: dict[str, Any] | None
    """``kv_transfer_params`` of the response, for the decode engine."""
    keeps_blocks: bool
    """True: free them only when the workers say that they were sent."""


NOT_HANDED_OFF = Finished(None, keeps_blocks=False)


class SchedulerSide:
    """One engine's. A pure state machine: the workers see it through `build_metadata` only.

    Args:
        producer: it hands KV off.
        consumer: it takes KV; None: if it is no producer.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        producer: bool,
        block_size: int,
        synchronous: bool = False,
        consumer: bool | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._synchronous = synchronous
        self._producer = producer
        self._consumer = not producer if consumer is None else consumer
        self._block_size = block_size
        self._pending = ConnectorMetadata()
        self._asked: set[str] = set()
        self._transfer_ids: dict[str, int | str] = {}
        self._requests: dict[int | str, dict[str, None]] = {}

    def match(self, request: Request, computed: int) -> tuple[int, bool]:
        """Tokens to load beyond the ``computed`` ones, and whether the request waits for them."""
        if not self._wants_load(request):
            return 0, False
        tokens = max(0, self._remote_tokens(request) - computed)
        return tokens, tokens > 0 and not self._synchronous

    def allocated(self, request: Request, block_table: Sequence[int], external: int) -> None:
        """The request has its blocks: queue the load of the last ``external`` remote tokens.

        With all of them cached locally nothing is left to load, and the transfer is queued all
        the same, without blocks: the peer must hear that it can free its own.
        """
        if not self._wants_load(request):
            return
        remote = self._remote_tokens(request)
        first, last = self._blocks_for(remote - external), self._blocks_for(remote)
        self._queue(request, block_table, first, last)
        assert request.source is not None
        self._asked.add(request.request_id)
        self._transfer_ids[request.request_id] = request.source.transfer_id
        self._requests.setdefault(request.source.transfer_id, {})[request.request_id] = None

    def build_metadata(self) -> ConnectorMetadata:
        """The step's message to the workers; what was queued is in it and no longer here."""
        metadata, self._pending = self._pending, ConnectorMetadata()
        return metadata

    def finished(self, request: Request, block_table: Sequence[int]) -> Finished:
        """The request ended well."""
        self._forget(request)
        if not (self._producer and request.remote_decode):
            return NOT_HANDED_OFF
        params = {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_engine_id": self._endpoint.engine_id,
            "remote_host": self._endpoint.host,
            "remote_port": self._endpoint.port,
            "remote_handshake_port": self._endpoint.handshake_port,
            "remote_block_ids": list(block_table[: self._blocks_for(len(request.prompt))]),
            "remote_tp_size": self._endpoint.tp_size,
            "remote_dp_size": self._endpoint.dp_size,
            "remote_dp_rank": self._endpoint.dp_rank,
            "transfer_id": request.request_id,
        }
        return Finished(params, keeps_blocks=True)

    def aborted(self, request: Request) -> Finished:
        """The request is gone. A peer that keeps blocks for it is told, if it was not yet."""
        self._withdraw(request)
        if self._wants_load(request):
            self._queue(request, (), 0, 0)
        self._forget(request)
        return NOT_HANDED_OFF

    def preempted(self, request: Request) -> None:
        """The request lost its blocks; what was loaded into them is computed again locally."""
        self._withdraw(request)

    @property
    def has_pending(self) -> bool:
        """Something waits to be told to the workers."""
        return bool(self._pending.receive)

    @property
    def transfer_ids(self) -> dict[str, int | str]:
        """This engine's request id to the peer's transfer id."""
        return dict(self._transfer_ids)

    @property
    def request_ids(self) -> dict[int | str, str]:
        """The peer's transfer id to this engine's request id; of several, the oldest."""
        return {transfer: next(iter(ids)) for transfer, ids in self._requests.items()}

    def _wants_load(self, request: Request) -> bool:
        loads = self._consumer and request.source is not None
        return loads and request.request_id not in self._asked

    def _remote_tokens(self, request: Request) -> int:
        """Tokens of the prompt that the peer holds: a token appended since may lie beyond."""
        source = request.source
        assert source is not None
        held = source.tokens
        if held is None:
            held = len(source.remote_block_ids) * (source.remote_block_size or self._block_size)
        return min(len(request.prompt), held)

    def _queue(self, request: Request, block_table: Sequence[int], first: int, last: int) -> None:
        """Queue the transfer of the blocks at positions ``first`` to ``last``, exclusive.

        Where block sizes differ, the blocks of both sides start at the last token before these at
        which a block starts on either side.
        """
        source = request.source
        assert source is not None
        ours, theirs = self._block_size, source.remote_block_size or self._block_size
        skip = 0
        if first < last:
            common = math.lcm(ours, theirs) if source.remote_block_ids else last * ours
            skip = first * ours % common
        first -= skip // ours
        start, end = first * ours, last * ours
        held = slice(start // theirs, -(-end // theirs))
        self._pending.receive[request.request_id] = replace(
            source,
            local_block_ids=tuple(block_table[first:last]),
            remote_block_ids=source.remote_block_ids[held],
            tokens=None if source.tokens is None else self._remote_tokens(request) - start,
            skip=skip,
            start=start,
        )
        self._pending.map_transfer_id(request.request_id, source.transfer_id)

    def _withdraw(self, request: Request) -> None:
        """Load nothing into blocks that the request no longer has; its peer is told anyway."""
        if request.request_id in self._pending.receive:
            self._queue(request, (), 0, 0)

    def _forget(self, request: Request) -> None:
        self._asked.discard(request.request_id)
        transfer_id = self._transfer_ids.pop(request.request_id, None)
        if transfer_id is None:
            return
        siblings = self._requests[transfer_id]
        del siblings[request.request_id]
        if not siblings:
            del self._requests[transfer_id]

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self._block_size)
