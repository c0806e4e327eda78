"""Which of the engines that could serve a request does."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from typing import Protocol

from pd_testkit.proxy.instances import Instance

LOAD_FACTOR = 1.25
"""How far above the mean load an engine may get by affinity: consistent hashing with bounded
loads (Mirrokni, Thorup, Zadimoghaddam, 2018)."""


class Policy(Protocol):
    """A choice among engines; each leg has one of its own."""

    keyed: bool
    """Does it look at the prompt?"""

    def choose(self, candidates: Sequence[Instance], key: bytes) -> Instance:
        """One of the candidates, of which there is at least one.

        Args:
            key: the beginning of the prompt; empty where the policy is not keyed.
        """


class RoundRobin:
    """The one whose last turn is longest ago.

    So the shares stay even when instances join, leave, or are left out for a while, which those
    of a counter modulo their number don't.
    """

    keyed = False

    def __init__(self) -> None:
        self._turn = 0

    def choose(self, candidates: Sequence[Instance], key: bytes) -> Instance:
        self._turn += 1
        chosen = min(candidates, key=_turn)
        chosen.turn = self._turn
        return chosen


class LeastLoaded:
    """The one with the fewest requests per DP rank; among equals, by turns."""

    keyed = False

    def __init__(self) -> None:
        self._turn = 0

    def choose(self, candidates: Sequence[Instance], key: bytes) -> Instance:
        self._turn += 1
        chosen = min(candidates, key=_load_then_turn)
        chosen.turn = self._turn
        return chosen


class Random:
    """Any of them, with equal odds."""

    keyed = False

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choose(self, candidates: Sequence[Instance], key: bytes) -> Instance:
        return self._rng.choice(candidates)


class PrefixAffinity:
    """Prompts that begin alike go to one engine, which has their KV cached.

    By rendezvous hashing, so that an engine that joins or leaves moves only its own share. An
    engine whose load would be above `LOAD_FACTOR` times the mean is passed over.
    """

    keyed = True

    def choose(self, candidates: Sequence[Instance], key: bytes) -> Instance:
        total = sum(candidate.in_flight for candidate in candidates)
        room = math.ceil(LOAD_FACTOR * (total + 1) / len(candidates))
        return max(
            (candidate for candidate in candidates if candidate.in_flight < room),
            key=lambda candidate: _weight(key, candidate.engine.url),
        )


def policy(name: str, rng: random.Random) -> Policy:
    """The policy of that name, of `pd_testkit.proxy.settings.POLICIES`.

    Raises:
        ValueError: there is none.
    """
    if name == "round_robin":
        return RoundRobin()
    if name == "least_loaded":
        return LeastLoaded()
    if name == "random":
        return Random(rng)
    if name == "prefix_affinity":
        return PrefixAffinity()
    raise ValueError(f"no policy is called {name!r}")


def _turn(instance: Instance) -> int:
    return instance.turn


def _load_then_turn(instance: Instance) -> tuple[float, int]:
    return instance.in_flight / instance.engine.dp_size, instance.turn


def _weight(key: bytes, url: str) -> bytes:
    return hashlib.blake2b(key, digest_size=8, key=hashlib.sha256(url.encode()).digest()).digest()
