"""Who holds which KV blocks: the oracle of the flows through a proxy.

P holds a prefill's blocks from the moment it has answered until D has fetched them. A flow is in
order when every hand-off was fetched exactly once, by the request that it was made for.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from typing import Any

SENTINEL: Mapping[str, Any] = {
    "x_sentinel": "né \U0001f600 \u2028 end",
    "x_numbers": {
        "address": 2**64 - 1,
        "ratio": 0.1,
        "whole": 1.0,
        "small": 1e-7,
    },
    "x_nested": [[1, 2], [], {"none": None, "yes": True, "": ""}],
    "x_null": None,
}
"""Fields of a hand-off that no proxy can know."""

_Key = tuple[str, Any]


class Ledger:
    """The blocks that P engines hold for D. Used by the engines' thread and by the test's."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._changed = threading.Condition()
        self._numbers = itertools.count(1)
        self._held: dict[_Key, str] = {}
        self._made: dict[_Key, Mapping[str, Any]] = {}
        self._faults: list[str] = []
        self._fetched = 0

    def offer(self, engine_id: str, port: int) -> dict[str, Any]:
        """A hand-off with blocks of its own, as P's answer carries it."""
        number = next(self._numbers)
        params = {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_engine_id": engine_id,
            # Neither sorted nor contiguous, and of another length each time.
            "remote_block_ids": [9 * number + i for i in range(1 + number % 3)][::-1],
            "remote_host": "127.0.0.1",
            "remote_port": port,
            "transfer_id": number,
            "tp_size": 1,
            "dp_rank": 0,
            **SENTINEL,
        }
        with self._changed:
            self._made[engine_id, number] = params
        return params

    def hold(self, params: Mapping[str, Any], owner: str) -> None:
        """P has prefilled ``owner`` and answers: it keeps the blocks until D has them."""
        with self._changed:
            self._held[_key(params)] = owner

    def fetch(self, params: Mapping[str, Any], owner: str) -> None:
        """D was told of these blocks for the prompt ``owner``: it reads them and tells P."""
        with self._changed:
            key = _key(params)
            made, holder = self._made.get(key), self._held.pop(key, None)
            if made is None:
                self._faults.append(f"D was sent to {key}, which no P handed out")
            elif holder is None:
                self._faults.append(f"D was sent to {key}, which P does not hold (any more)")
            elif holder != owner:
                self._faults.append(f"D's {owner[:60]} was sent to the KV of P's {holder[:60]}")
            elif params.get("remote_block_ids") != made["remote_block_ids"]:
                self._faults.append(
                    f"D reads {params.get('remote_block_ids')}, P holds {made['remote_block_ids']}"
                )
            self._fetched += 1
            self._changed.notify_all()

    def release(self, params: Mapping[str, Any]) -> None:
        """P is told that nobody fetches these blocks; they may have been fetched already."""
        with self._changed:
            key = _key(params)
            if key not in self._made:
                self._faults.append(f"D was told of {key}, which no P handed out")
            self._held.pop(key, None)
            self._changed.notify_all()

    def fault(self, what: str) -> None:
        """Something was seen that must not happen."""
        with self._changed:
            self._faults.append(what)
            self._changed.notify_all()

    def lose(self, engine_id: str) -> None:
        """The P engine is dead, and its memory with it."""
        with self._changed:
            self._held = {key: who for key, who in self._held.items() if key[0] != engine_id}
            self._changed.notify_all()

    def assert_settled(self, fetched: int | None = None) -> None:
        """No P holds blocks for nobody, and each hand-off was fetched by its own request.

        Args:
            fetched: so many were fetched in all; None: any number.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._faults or (not self._held and fetched in (None, self._fetched)),
                self._patience_s,
            )
            assert not self._faults, "; ".join(self._faults)
            assert not self._held, f"P holds blocks that no D ever fetches: {self._held}"
            assert fetched in (None, self._fetched), (
                f"D fetched {self._fetched} prefills, {fetched} expected"
            )


def _key(params: Mapping[str, Any]) -> _Key:
    return str(params.get("remote_engine_id")), params.get("transfer_id")
