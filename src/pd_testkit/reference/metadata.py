"""What the connector's scheduler half tells the workers to transfer in one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

REQUIRED_PARAMS = (
    "remote_engine_id",
    "remote_host",
    "remote_port",
    "remote_handshake_port",
    "remote_block_ids",
    "remote_tp_size",
    "remote_dp_size",
    "remote_dp_rank",
    "transfer_id",
)
"""``kv_transfer_params`` that a transfer cannot be described without.

None has a default: an assumed TP size or DP rank reads another rank's memory, and the answer
looks right.
"""


@dataclass(frozen=True)
class RemoteTransfer:
    """One request's transfer between local blocks and a peer's."""

    local_block_ids: tuple[int, ...]
    remote_block_ids: tuple[int, ...]
    """May be longer or shorter than the local ones; see `copies`. None at all where only the peer
    knows them, and writes."""
    remote_engine_id: str | None
    """None: whichever engine is there."""
    remote_host: str
    remote_port: int
    remote_handshake_port: int
    """Base port of the peer's side channel."""
    remote_tp_size: int
    remote_dp_size: int
    remote_dp_rank: int
    transfer_id: int | str
    """What the peer knows the request by."""
    tokens: int | None = None
    """Of the prompt, that the peer holds or, with local blocks, that lie in the blocks of both
    sides; None: as many as these hold."""
    skip: int = 0
    """Of the ``tokens`` those that the local blocks hold already."""
    start: int = 0
    """Position in the prompt of the first token in the blocks of both sides."""
    remote_block_size: int | None = None
    """None: as the local one."""

    @classmethod
    def from_params(cls, block_ids: Sequence[int], params: Mapping[str, Any]) -> RemoteTransfer:
        """Describe the transfer to or from local ``block_ids``.

        Raises:
            KeyError: ``params`` lacks one of `REQUIRED_PARAMS`; names it.
        """
        for name in REQUIRED_PARAMS:
            if params.get(name) is None:
                raise KeyError(f"kv_transfer_params lacks {name!r}")
        values = {name: params[name] for name in REQUIRED_PARAMS}
        values["remote_block_ids"] = tuple(values["remote_block_ids"])
        return cls(local_block_ids=tuple(block_ids), **values)


@dataclass
class ConnectorMetadata:
    """The message to the workers, while a step is being scheduled. Plain data, cheap to send."""

    receive: dict[str, RemoteTransfer] = field(default_factory=dict)
    """By request id."""
    save: dict[str, RemoteTransfer] = field(default_factory=dict)
    transfer_ids: dict[str, int | str] = field(default_factory=dict)
    """This engine's request id to the peer's transfer id."""

    def add_receive(
        self, request_id: str, block_ids: Sequence[int], params: Mapping[str, Any]
    ) -> None:
        """Queue a receive into ``block_ids``; replaces an earlier one of the request.

        Raises:
            KeyError: a required parameter is missing; nothing is queued then.
        """
        self.receive[request_id] = RemoteTransfer.from_params(block_ids, params)

    def add_save(
        self, request_id: str, block_ids: Sequence[int], params: Mapping[str, Any]
    ) -> None:
        """Queue a save from ``block_ids``; else as `add_receive`."""
        self.save[request_id] = RemoteTransfer.from_params(block_ids, params)

    def map_transfer_id(self, request_id: str, transfer_id: int | str) -> None:
        """Record what the peer knows the request by."""
        self.transfer_ids[request_id] = transfer_id

    def snapshot(self) -> ConnectorMetadata:
        """A copy that later calls do not change."""
        return ConnectorMetadata(dict(self.receive), dict(self.save), dict(self.transfer_ids))
