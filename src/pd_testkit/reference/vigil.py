"""Asks now and then whether the peers that somebody waits for still live."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future

from pd_testkit.reference.peers import Address
from pd_testkit.reference.side_channel_messages import Handshake


class Vigil:
    """One worker's. Polled; does not block.

    Args:
        ask: who listens at an address.
        every_s: between two rounds.
        clock: seconds.
    """

    def __init__(
        self,
        ask: Callable[[Address], Future[Handshake]],
        every_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._ask = ask
        self._every_s = every_s
        self._clock = clock
        self._asked: dict[Address, Future[Handshake]] = {}
        self._next: float | None = None

    def poll(self, waiting: Mapping[str, Mapping[Address, str]]) -> frozenset[str]:
        """Who waits in vain, of those who wait for engines at addresses: another one is there, or
        none."""
        answered = {address: asked for address, asked in self._asked.items() if asked.done()}
        for address in answered:
            del self._asked[address]
        alive = {address: _engine_id(asked) for address, asked in answered.items()}
        now = self._clock()
        if not waiting:
            self._next = None
        elif self._next is None:
            self._next = now + self._every_s
        elif now >= self._next and not self._asked:
            addresses = {address for peers in waiting.values() for address in peers}
            self._asked = {address: self._ask(address) for address in addresses}
            self._next = now + self._every_s
        return frozenset(
            name
            for name, peers in waiting.items()
            if any(
                alive.get(address, engine_id) != engine_id for address, engine_id in peers.items()
            )
        )

    @property
    def deadline(self) -> float | None:
        """When to poll at the latest."""
        return None if self._asked else self._next


def _engine_id(asked: Future[Handshake]) -> str | None:
    return None if asked.exception() is not None else asked.result().engine_id
