"""Frames and trackers: what ``copy=False`` and ``track=True`` give."""

from __future__ import annotations

from threading import Event
from typing import Any

from pd_testkit.stubs.zmq.error import NotDone


class MessageTracker:
    """Says when messages were sent. Here a sent message is done at once."""

    def __init__(self, *towatch: Any) -> None:
        self.events = {item for item in towatch if isinstance(item, Event)}
        self.peers = {item for item in towatch if isinstance(item, MessageTracker)}

    @property
    def done(self) -> bool:
        return all(event.is_set() for event in self.events) and all(
            peer.done for peer in self.peers
        )

    def wait(self, timeout: float = -1) -> None:
        """Raises `NotDone` where it is not done: nothing that this waits for runs elsewhere."""
        if not self.done:
            raise NotDone


class Frame:
    """One part of a message. ``data`` is copied: later changes to a buffer do not show."""

    def __init__(
        self,
        data: Any = b"",
        track: bool = False,
        copy: bool | None = None,
        copy_threshold: int | None = None,
        *,
        more: bool = False,
    ) -> None:
        self.bytes = to_bytes(data)
        self.more = more
        self.tracker = MessageTracker() if track else None

    @property
    def buffer(self) -> memoryview:
        return memoryview(self.bytes)

    def __bytes__(self) -> bytes:
        return self.bytes

    def __len__(self) -> int:
        return len(self.bytes)

    def __eq__(self, other: object) -> bool:
        """Equal to a frame of the same bytes, not to bytes; as pyzmq's."""
        return self.bytes == other.bytes if isinstance(other, Frame) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.bytes)

    def __repr__(self) -> str:
        return f"<zmq.Frame({self.bytes!r})>"


def to_bytes(data: Any) -> bytes:
    """The content of a frame or a buffer; TypeError for text and other objects, as pyzmq."""
    if isinstance(data, Frame):
        return data.bytes
    if isinstance(data, str):
        raise TypeError("str objects not allowed. Use: socket.send_string")
    try:
        return bytes(memoryview(data))
    except TypeError:
        raise TypeError(f"{type(data).__name__!r} does not support the buffer interface.") from None
