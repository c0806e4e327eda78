"""Whether an event stream that is passed on was a whole answer, and how long: by its bytes."""

from __future__ import annotations

_DONE = b"[DONE]"
_ERRORS = (b'data: {"error"', b'data:{"error"', b"\nevent: error")
"""An engine's error in mid-stream. None of these can be in a text: in JSON a quote or a line's end
has a backslash before it."""
_TAIL = 32
"""Bytes that may have to be seen together with the next ones; more than any of those above."""


class EventStream:
    """Looks on while a stream of completions goes by."""

    __slots__ = ("_failed", "_tail", "events")

    def __init__(self) -> None:
        self.events = 0
        """That have ended: engines send one per step, and one or two of their own."""
        self._tail = b"\n"
        self._failed = False

    def feed(self, data: bytes) -> None:
        """The next bytes, cut anywhere."""
        self.events += (self._tail[-1:] + data).count(b"\n\n")
        seen = self._tail + data
        if b"error" in seen and any(error in seen for error in _ERRORS):
            self._failed = True
        self._tail = seen[-_TAIL:]

    @property
    def complete(self) -> bool:
        """It ends with ``[DONE]``, and told of no error."""
        return not self._failed and self._tail.rstrip().endswith(_DONE)
