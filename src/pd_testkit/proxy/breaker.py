"""A circuit breaker: an engine that keeps failing is left alone for a while, then tried once."""

from __future__ import annotations

from typing import Literal

State = Literal["closed", "open", "half-open"]


class Breaker:
    """One engine's record.

    Closed, all requests pass. After ``threshold`` failures in a row it is open for
    ``cool_down_s``; then it is half-open: one request, the probe, is let through, and its outcome
    closes the breaker or opens it again.

    Args:
        threshold: failures in a row that open it; at least one.
        cool_down_s: seconds that it stays open.
    """

    __slots__ = ("_cool_down_s", "_failures", "_probe", "_threshold", "retry_at")

    def __init__(self, threshold: int, cool_down_s: float) -> None:
        self._threshold = threshold
        self._cool_down_s = cool_down_s
        self._failures = 0
        self._probe: object = None
        self.retry_at: float | None = None
        """When the next probe may go; None while closed."""

    def state(self, now: float) -> State:
        """For people; `allows` is what counts."""
        if self.retry_at is None:
            return "closed"
        return "open" if now < self.retry_at else "half-open"

    def allows(self, now: float) -> bool:
        """May a request be sent?"""
        return self.retry_at is None or (now >= self.retry_at and self._probe is None)

    def enter(self, request: object) -> None:
        """A request goes to the engine; it is the probe if the breaker is half-open."""
        if self.retry_at is not None:
            self._probe = request

    def leave(self, request: object) -> None:
        """The request is over; a probe without an outcome makes room for the next one."""
        if self._probe is request:
            self._probe = None

    def answering(self, request: object) -> None:
        """The request's answer has begun. A probe closes the breaker; one failure opens it."""
        if self._probe is request and self.retry_at is not None:
            self.retry_at = self._probe = None
            self._failures = self._threshold - 1

    def succeeded(self) -> None:
        """The engine answered, if only that the request is wrong."""
        self._failures = 0
        self.retry_at = self._probe = None

    def failed(self, now: float) -> None:
        """The connection broke, nothing came, or the engine said that it is at fault."""
        self._failures += 1
        if self._failures >= self._threshold:
            self._failures = self._threshold
            self.retry_at = now + self._cool_down_s
            self._probe = None
