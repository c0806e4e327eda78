"""The trace: what happened on a fabric, one line per event.

A line is the virtual time in seconds, the event, and its ``key=value`` pairs:

| event | when |
|---|---|
| ``join`` ``die`` ``restart`` | an engine's life; ``generation`` counts from 1 |
| ``register`` ``deregister`` | a memory region |
| ``connect`` | a handshake, with its status |
| ``post`` | a transfer is on the wire: ``id``, ``kind``, ``from``, ``to``, ``blocks``, ``bytes`` |
| ``refuse`` | a transfer was refused in the call that posted it |
| ``fault`` | a fault took effect |
| ``land`` | bytes arrived |
| ``done`` | the initiator was told the status |
| ``notify`` | the peer was told the uid |

No address and no real time is in it, so that the same calls with the same seed give the same
bytes, on any machine.
"""

from __future__ import annotations

from collections.abc import Iterator

from pd_testkit.fabric.clock import VirtualClock


class Trace:
    """Lines in the order in which they happened; ``bytes(trace)`` is all of it."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._lines: list[str] = []

    def record(self, event: str, **values: object) -> None:
        pairs = "".join(f" {key.rstrip('_')}={value}" for key, value in values.items())
        self._lines.append(f"{self._clock.now:.9f} {event}{pairs}")

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._lines))

    def __len__(self) -> int:
        return len(self._lines)

    def __bytes__(self) -> bytes:
        return "".join(f"{line}\n" for line in self._lines).encode()
