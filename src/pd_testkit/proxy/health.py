"""How the engines are, asked of them: one that does not answer gets no requests until it does."""

from __future__ import annotations

from collections.abc import Callable

from pd_testkit.proxy.instances import Instance, Registry
from pd_testkit.proxy.upstream import Connection, Head, Pool

PATH = "/health"
TIMEOUT_S = 5.0
"""For an answer: an engine that computes may take its time."""


class HealthChecks:
    """Asks each engine once per interval, by ``GET /health``.

    Any answer below 500 is that of an engine that lives; it may not know the path. An engine that
    is P and D at one URL is asked once.

    Args:
        interval_s: seconds; 0: nobody is asked.
        misses: failed checks in a row after which an engine is down.
        changed: is called with an engine's URL, and whether it is well, when that changes.
    """

    def __init__(
        self,
        pool: Pool,
        registry: Registry,
        interval_s: float,
        misses: int,
        changed: Callable[[str, bool], None],
    ) -> None:
        self._pool = pool
        self._registry = registry
        self._interval_s = interval_s
        self._misses = misses
        self._changed = changed
        self._due_at: float | None = None
        self._asked: set[str] = set()

    def tick(self, now: float) -> None:
        """Ask, if it is time to."""
        if self._due_at is None:
            self._due_at = now + self._interval_s
        if self._interval_s == 0 or now < self._due_at:
            return
        self._due_at = now + self._interval_s
        for url in {each.engine.url for each in self._all()} - self._asked:
            self._asked.add(url)
            check = _Check(url, self.over)
            check.connection = self._pool.send(url, PATH, {}, None, check, "GET")
            check.connection.hand_over(check, now + TIMEOUT_S)

    def over(self, url: str, lives: bool) -> None:
        """A check has come to its end."""
        self._asked.discard(url)
        was = is_ = True
        for instance in self._all():
            if instance.engine.url == url:
                was = instance.misses < self._misses
                instance.misses = 0 if lives else instance.misses + 1
                is_ = instance.misses < self._misses
        if was != is_:
            self._changed(url, is_)

    def _all(self) -> list[Instance]:
        return self._registry.instances("prefill") + self._registry.instances("decode")


class _Check:
    """The sink of an engine's answer."""

    def __init__(self, url: str, over: Callable[[str, bool], None]) -> None:
        self.connection: Connection
        self._url = url
        self._over = over
        self._lives = False

    def received(self, head: Head | None, body: bytes, done: bool) -> None:
        if head is not None:
            self._lives = head.status < 500
        if done:
            self._over(self._url, self._lives)

    def lost(self) -> None:
        self._over(self._url, False)

    silent = lost
