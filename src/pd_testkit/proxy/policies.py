"""Which of the engines that could serve a request does."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from hashlib import blake2b
from operator import attrgetter
from typing import Protocol

from pd_testkit.proxy.instances import Instance

LOAD_FACTOR = 1.25
"""How far above the mean load an engine may get by affinity: consistent hashing with bounded
loads (Mirrokni, Thorup, Zadimoghaddam, 2018)."""


class Policy(Protocol):
    """A choice among engines. It leaves no trace: the router numbers the choices it follows."""

    keyed: bool
    """Does it look at the prompt?"""

    def choose(self, candidates: Sequence[Instance], key: bytes) -> Instance:
        """One of the candidates, of which there is at least one.

        Args:
            key: a digest of the prompt's beginning; empty where the policy is not keyed.
        """


class RoundRobin:
    """The one whose last turn is longest ago.

    So the shares stay even when instances join, leave, or are passed over for a while, which
    those of a counter modulo their number do not.
    """

    keyed = False

    def choose(self, candidates: Sequence[Instance], key: bytes) -> Instance:
        return min(candidates, key=_turn)


class LeastLoaded:
    """The one with the fewest requests per DP rank; among equals, by turns."""

    keyed = False

    def choose(self, candidates: Sequence[Instance], key: bytes) -> Instance:
        return min(candidates, key=_load)


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


_turn = attrgetter("turn")


def _load(instance: Instance) -> tuple[float, int]:
    return instance.in_flight / instance.engine.dp_size, instance.turn


def _weight(key: bytes, url: str) -> bytes:
    return blake2b(key + url.encode(), digest_size=8).digest()
