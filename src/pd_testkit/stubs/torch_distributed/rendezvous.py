"""Where the ranks of one group meet: rounds of collectives, and matched sends and receives.

Time enters only as the ``timeout`` of a wait. A wait also ends, at once, when a rank that it
needs has left.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from pd_testkit.stubs.torch_distributed.errors import DistBackendError


class Round:
    """One collective: what each rank brought, until all have taken the result."""

    def __init__(self, what: str, number: int) -> None:
        self.what = what
        self.number = number
        self.brought: dict[int, Any] = {}
        self.taken = 0
        self.failure: str | None = None


class Post:
    """A send or a receive that waits for its counterpart."""

    def __init__(self, kind: str, rank: int, peer: int | None, tag: int, tensor: Any) -> None:
        self.kind = kind
        self.rank = rank
        self.peer = peer
        self.tag = tag
        self.tensor = tensor
        self.matched_rank: int | None = None

    @property
    def what(self) -> str:
        if self.kind == "send":
            return f"send to rank {self.peer} (tag {self.tag})"
        source = "any rank" if self.peer is None else f"rank {self.peer}"
        return f"recv from {source} (tag {self.tag})"

    def answers(self, other: Post) -> bool:
        return (
            self.kind != other.kind
            and self.tag == other.tag
            and self.peer in (None, other.rank)
            and other.peer in (None, self.rank)
        )


class Rendezvous:
    """The meeting place of ``size`` ranks, shared by their threads; ranks count from 0 here."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size
        self._condition = threading.Condition()
        self._rounds: dict[int, Round] = {}
        self._arrivals = [0] * size
        self._posts: list[Post] = []
        self._left: dict[int, str] = {}

    def leave(self, rank: int, reason: str) -> None:
        """``rank`` will take part in nothing more; who waits for it fails with ``reason``."""
        with self._condition:
            self._left.setdefault(rank, reason)
            self._condition.notify_all()

    def arrive(self, rank: int, what: str, value: Any) -> Round:
        """Brings ``value`` to the rank's next round, without waiting.

        Raises:
            DistBackendError: the other ranks are in another collective, or gave this round up.
        """
        with self._condition:
            number = self._arrivals[rank]
            self._arrivals[rank] += 1
            current = self._rounds.setdefault(number, Round(what, number))
            if current.failure is None and current.what != what:
                there = sorted(current.brought)
                current.failure = (
                    f"collective {number} of group {self.name!r} is {current.what} on ranks "
                    f"{there} and {what} on rank {rank}"
                )
            if current.failure is None:
                current.brought[rank] = value
            self._condition.notify_all()
            if current.failure is not None:
                raise DistBackendError(current.failure)
            return current

    def is_complete(self, current: Round) -> bool:
        with self._condition:
            return len(current.brought) == self.size

    def result(self, rank: int, current: Round, timeout: float) -> list[Any]:
        """What all ranks brought, in rank order; waits at most ``timeout`` seconds for them.

        Raises:
            DistBackendError: ranks are missing (named, with why where it is known).
        """
        with self._condition:
            self._wait(
                lambda: (
                    len(current.brought) == self.size
                    or current.failure is not None
                    or bool(self._gone(current))
                ),
                timeout,
            )
            if len(current.brought) < self.size and current.failure is None:
                absent = [other for other in range(self.size) if other not in current.brought]
                missing = self._gone(current) or absent  # some may only be late
                current.failure = self._missing(
                    f"{current.what} (collective {current.number})", missing, timeout
                )
                self._condition.notify_all()
            if current.failure is not None:
                raise DistBackendError(f"rank {rank}: {current.failure}")
            values = [current.brought[other] for other in range(self.size)]
            current.taken += 1
            if current.taken == self.size:
                del self._rounds[current.number]
            return values

    def post(self, post: Post) -> Post:
        """Offers a send or a receive, first come first matched; a matched pair is complete."""
        with self._condition:
            for other in self._posts:
                if post.answers(other):
                    self._posts.remove(other)
                    _hand_over(*((post, other) if post.kind == "send" else (other, post)))
                    self._condition.notify_all()
                    return post
            self._posts.append(post)
            return post

    def await_match(self, post: Post, timeout: float) -> int:
        """The rank that took or gave the tensor; waits at most ``timeout`` seconds for it.

        Raises:
            DistBackendError: nobody answered. The offer is withdrawn.
        """
        with self._condition:
            others = [rank for rank in range(self.size) if rank != post.rank]
            needed = others if post.peer is None else [post.peer]
            self._wait(
                lambda: post.matched_rank is not None or all(rank in self._left for rank in needed),
                timeout,
            )
            if post.matched_rank is None:
                if post in self._posts:
                    self._posts.remove(post)
                raise DistBackendError(
                    f"rank {post.rank}: {self._missing(post.what, needed, timeout)}"
                )
            return post.matched_rank

    def _gone(self, current: Round) -> list[int]:
        """The ranks that left without having come to this round."""
        return sorted(rank for rank in self._left if rank not in current.brought)

    def _wait(self, ready: Callable[[], bool], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not ready():
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return
            # A bounded step: Condition.wait cannot take torch's "no limit" (years in seconds).
            self._condition.wait(min(remaining, 3600.0))

    def _missing(self, what: str, missing: Sequence[int], timeout: float) -> str:
        reasons = [f"rank {rank} {self._left[rank]}" for rank in missing if rank in self._left]
        why = "; ".join(reasons) if reasons else f"they did not come within {timeout:g} s"
        return f"{what} of group {self.name!r} lacks ranks {list(missing)}: {why}"


def _hand_over(send: Post, recv: Post) -> None:
    recv.tensor = send.tensor
    send.matched_rank, recv.matched_rank = recv.rank, send.rank
