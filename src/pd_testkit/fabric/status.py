"""What became of a transfer."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """A transfer's status. Values above 10 are errors, as in mori's ``StatusCode``."""

    SUCCESS = 0
    INIT = 1
    """Made, not posted."""
    IN_PROGRESS = 2
    INVALID_ARGS = 11
    """Lengths differ, or an offset or size is out of a region's bounds. Known when posting."""
    NOT_FOUND = 12
    """No such engine or region. Known when posting."""
    RDMA_ERROR = 13
    """The network or the remote side failed it: a dead peer, a stale handle, a fault."""
    BAD_STATE = 14
    """The initiator is dead, or not connected to the peer. Known when posting."""

    @property
    def done(self) -> bool:
        return self not in (Status.INIT, Status.IN_PROGRESS)

    @property
    def failed(self) -> bool:
        return self > 10
