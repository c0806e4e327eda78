"""What D's MoRIIO scheduler tells P's workers by messages of its own, in WRITE mode.

It sends them over sockets that it keeps by address, to P's notify ports. Here the sockets are
stood in for, as no peer listens.
"""

from __future__ import annotations

from functools import partial
from typing import Any
from urllib.parse import urlsplit

import msgpack

from pd_testkit.contract import RequestId, TransferId, TransferMeta


class Notifications(dict[str, Any]):
    """In place of the scheduler's sockets; what is sent over any of them is kept."""

    def __init__(self) -> None:
        super().__init__()
        self._sent: list[tuple[str, dict[str, Any]]] = []

    def __contains__(self, path: object) -> bool:
        return True

    def __missing__(self, path: str) -> Any:
        socket = self[path] = _Socket(partial(self._keep, path))
        return socket

    def take(self, request_of: dict[TransferId, RequestId]) -> dict[RequestId, TransferMeta]:
        """What was sent since the last call; a release names its transfer only."""
        sent, self._sent = self._sent, []
        told = {}
        for path, message in sent:
            transfer_id = message["transfer_id"]
            address = urlsplit(path)
            told[message.get("req_id") or request_of[transfer_id]] = TransferMeta(
                local_block_ids=tuple(message.get("block_notify_list", ())),
                remote_block_ids=(),
                remote_host=address.hostname,
                remote_port=address.port,
                transfer_id=transfer_id,
            )
        return told

    def _keep(self, path: str, data: bytes) -> None:
        self._sent.append((path, msgpack.loads(data)))


class _Socket:
    def __init__(self, send: Any) -> None:
        self.send = send

    def close(self, linger: int = 0) -> None:
        """There is nothing to close."""
