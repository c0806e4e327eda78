"""What a test makes go wrong between sockets, and how often it did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from pd_testkit.stubs.zmq.pipe import Message

Match = Callable[[Message, str], bool]


@dataclass
class Fault:
    """A rule for messages: ``seconds`` None drops, otherwise delays by that much."""

    seconds: float | None
    remaining: int | None
    when: Match

    def claims(self, parts: Message, endpoint: str) -> bool:
        return self.remaining != 0 and self.when(parts, endpoint)


class Faults:
    """Rules, tried in the order in which they were set; the first that matches counts."""

    def __init__(self) -> None:
        self.fired: Counter[str] = Counter()
        """``drop`` and ``delay`` count messages, ``disconnect`` and ``reconnect`` connections."""
        self._rules: list[Fault] = []

    def drop(self, count: int | None = 1, when: Match | None = None) -> None:
        """Loses the next ``count`` messages (None: all) for which ``when(parts, endpoint)``.

        ``parts`` are as on the wire (with a REQ's empty delimiter), ``endpoint`` is that of the
        connection.
        """
        self._rules.append(Fault(None, count, when or _always))

    def delay(self, seconds: float, count: int | None = 1, when: Match | None = None) -> None:
        """Holds the next ``count`` messages for ``seconds`` of the clock.

        A connection keeps its order: what is sent after a delayed message arrives after it.
        """
        if not seconds >= 0:
            raise ValueError(f"a delay of {seconds} s")
        self._rules.append(Fault(seconds, count, when or _always))

    def clear(self) -> None:
        """Forgets the rules, not the counters."""
        self._rules.clear()

    def claim(self, parts: Message, endpoint: str) -> Fault | None:
        """The rule that applies to this message; it is used up by one."""
        for rule in self._rules:
            if rule.claims(parts, endpoint):
                if rule.remaining is not None:
                    rule.remaining -= 1
                self.fired["drop" if rule.seconds is None else "delay"] += 1
                return rule
        return None


def _always(parts: Message, endpoint: str) -> bool:
    return True
