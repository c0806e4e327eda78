"""What somebody between P and D may do to what they say to each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

Frames = list[bytes]
"""One message. Where there are no messages, what came at once, as its only frame."""


class Way(str, Enum):
    """Where a message goes."""

    ASKED = "asked"
    """From D to P."""
    ANSWERED = "answered"
    """From P to D."""


Tamper = Callable[[Way, int, Frames], Sequence[Frames]]
"""What to pass on in place of the n-th message (from 0) of its way; nothing drops it."""


class Between(Protocol):
    """Somebody who listens in P's place and passes D's messages on to P, and P's answers back.

    Attributes:
        address: host and port for D.
        tamper: what happens on the way; may be set anew at any time.
    """

    address: tuple[str, int]
    tamper: Tamper

    def messages(self, way: Way) -> list[Frames]:
        """All that came that way so far, before tampering."""

    def repeat_answers(self) -> None:
        """Give every answer of P's to D again, as P gave it, and pass from then on what comes;
        returns when that is done."""

    def close(self) -> None:
        """Give all back."""


class Strangers(Protocol):
    """Peers that send whatever they like to a listener."""

    def send(self, frames: Frames, peer: int = 0) -> None:
        """Say something; whether it is heard is nobody's concern."""

    def answer(self, peer: int = 0, seconds: float = 5.0) -> Frames | None:
        """What the listener says next; None: nothing in that time."""

    def is_answered_after(self, junk: Frames, question: Frames, seconds: float) -> bool:
        """Whether the listener, when it has taken the junk, answers the question in that time."""

    def vanish(self) -> None:
        """Be gone, as soon as what was sent is on its way and before any answer is read."""

    def close(self) -> None:
        """Give all back. Harmless twice."""


def untouched(way: Way, index: int, frames: Frames) -> Sequence[Frames]:
    """Passes everything."""
    return [frames]


def silence(way: Way, index: int, frames: Frames) -> Sequence[Frames]:
    """Passes nothing."""
    return []


def answers(change: Callable[[Frames], Sequence[Frames]]) -> Tamper:
    """Passes what D asks, and changes what P answers."""

    def tamper(way: Way, index: int, frames: Frames) -> Sequence[Frames]:
        return change(frames) if way is Way.ANSWERED else [frames]

    return tamper
