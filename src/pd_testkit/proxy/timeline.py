"""The last requests that are over, with the times of what happened to them.

Entries are kept as they come, by the monotonic clock; when somebody asks, their times become Unix
times by one offset, so that intervals stay what they were whoever sets the clock.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from functools import cache
from itertools import islice
from typing import Any, Generic, TypeVar

import msgspec

ENTRIES = 8192
"""That are remembered."""
PAGE = 250
"""Entries that are told of at once: who is served meanwhile should not have to wait."""

Entry = TypeVar("Entry", bound=msgspec.Struct)


class Passage(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A request's way over the proxy; a time is None where it did not get so far.

    Attributes:
        client_id: what the client called it, ``X-Request-Id``; empty if it did not.
        request_id: the engines' of the last attempt.
        kind: as in the metrics, and `outcome`, too.
        prefill, decode: URLs.
        prefill_called_at: of the last attempt, as all that follow.
        first_byte_at: of D's body.
    """

    client_id: str
    request_id: str
    kind: str
    stream: bool
    prefill: str
    decode: str
    outcome: str
    status: int
    retries: int
    received_at: float
    prefill_called_at: float | None
    prefill_answered_at: float | None
    decode_called_at: float | None
    first_byte_at: float | None
    ended_at: float

    @property
    def total_s(self) -> float:
        return self.ended_at - self.received_at

    @property
    def prefill_s(self) -> float | None:
        """Until P's answer was whole."""
        return _between(self.prefill_called_at, self.prefill_answered_at)

    @property
    def first_s(self) -> float | None:
        return _between(self.received_at, self.first_byte_at)

    @property
    def wait_s(self) -> float | None:
        """From D's call to the first byte of its stream."""
        return _between(self.decode_called_at, self.first_byte_at) if self.stream else None

    @property
    def decode_s(self) -> float | None:
        """D's time after the first byte; all of its time without a stream."""
        if self.first_byte_at is None:
            return None
        begun = self.first_byte_at if self.stream else self.decode_called_at
        return _between(begun, self.ended_at)

    def logged(self, path: str, size: int) -> dict[str, Any]:
        """For a line of the log.

        Args:
            path, size: asked for, and bytes of the body that the client has.
        """
        return {
            "request_id": self.request_id,
            "path": path,
            "kind": self.kind,
            "stream": self.stream,
            "prefill": self.prefill,
            "decode": self.decode,
            "outcome": self.outcome,
            "status": self.status,
            "retries": self.retries,
            "bytes": size,
            "total_ms": _ms(self.total_s),
            "prefill_ms": _ms(self.prefill_s),
            "first_ms": _ms(self.first_s),
            "decode_ms": _ms(self.decode_s),
        }


def _between(begun: float | None, ended: float | None) -> float | None:
    return None if begun is None or ended is None else ended - begun


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else int(seconds * 1e6) / 1e3


class Timeline(Generic[Entry]):
    """The last entries, in the order in which they were added, numbered from 0. For any thread.

    An entry's attributes that end in ``_at`` are times of `time.monotonic`.

    Args:
        offset: from that clock to Unix time; None: what it is now.
    """

    def __init__(self, entries: int = ENTRIES, offset: float | None = None) -> None:
        self._entries: deque[Entry] = deque(maxlen=entries)
        self._next = 0
        self._offset = time.time() - time.monotonic() if offset is None else offset
        self._lock = threading.Lock()

    def add(self, entry: Entry) -> None:
        with self._lock:
            self._next += 1
            self._entries.append(entry)

    def told(self, since: int, now: float) -> dict[str, Any]:
        """What is there of the entries from that number on, `PAGE` of them at most.

        -> ``now``; ``first``: the number of the oldest one that is remembered; ``next``: what to
        ask for to go on; ``entries``: each with its ``sequence``. Times are Unix seconds.
        """
        with self._lock:
            first = self._next - len(self._entries)
            begin = min(max(since, first), self._next)
            wanted = list(islice(self._entries, begin - first, begin - first + PAGE))
        return {
            "now": now + self._offset,
            "first": first,
            "next": begin + len(wanted),
            "entries": [
                {"sequence": number, **self._in_unix_time(entry)}
                for number, entry in enumerate(wanted, begin)
            ],
        }

    def _in_unix_time(self, entry: Entry) -> dict[str, Any]:
        told = msgspec.structs.asdict(entry)
        for name in _times(type(entry)):
            if told[name] is not None:
                told[name] += self._offset
        return told


@cache
def _times(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    return tuple(name for name in kind.__struct_fields__ if name.endswith("_at"))


def number(given: str | None) -> int:
    """Of the entry that ``?since=`` names; 0 without one.

    Raises:
        ValueError: it is none.
    """
    if given is None:
        return 0
    if not (given.isascii() and given.isdecimal() and len(given) < 16):
        raise ValueError(f"since={given[:40]!r} is no entry's number")
    return int(given)
