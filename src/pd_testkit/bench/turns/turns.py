"""What conversations cost, turn by turn: times, prompts, and what became of their KV. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pd_testkit.bench.measures import Distribution, timing
from pd_testkit.bench.results import Counted, Request

_ANY_ENGINE = frozenset({"aggregated"})
"""Modes in which P, too, answers whole requests: its cache counts as D's does."""


@dataclass(frozen=True)
class Movement:
    """What became of some prompts' KV, as the engines that answered them count it.

    Attributes:
        queries: tokens of prompts that were looked up in the prefix cache.
        local: of them, found there.
        external: of them, that came from another engine.
        bytes: that were moved between engines.

    None: no engine tells.
    """

    queries: float | None = None
    local: float | None = None
    external: float | None = None
    bytes: float | None = None

    @classmethod
    def of(cls, counted: Iterable[Counted], mode: str = "") -> Movement:
        """All of them together."""
        sides: list[Mapping[str, float]] = []
        moved: list[Mapping[str, float]] = []
        for each in counted:
            sides += [each.decode, each.prefill] if mode in _ANY_ENGINE else [each.decode]
            moved += [each.decode, each.prefill]  # a side that writes counts what it wrote
        return cls(
            _sum(sides, "local_queries"),
            _sum(sides, "local_hits"),
            _sum(sides, "external_hits"),
            _sum(moved, "transfer_bytes"),
        )

    def local_rate(self, prompt_tokens: int) -> float | None:
        """Share of the prompts' tokens that the engine had itself.

        Args:
            prompt_tokens: of the prompts, where the engine counts no queries: one without a prefix
                cache.
        """
        return _share(self.local, self.queries or prompt_tokens)

    def external_rate(self, prompt_tokens: int) -> float | None:
        """Share of the prompts' tokens that came from another engine."""
        return _share(self.external, self.queries or prompt_tokens)


def _sum(sides: Iterable[Mapping[str, float]], name: str) -> float | None:
    told = [side[name] for side in sides if name in side]
    return sum(told) if told else None


def _share(part: float | None, whole: float) -> float | None:
    return None if part is None or not whole else part / whole


@dataclass(frozen=True)
class Turn:
    """The same turn of all conversations.

    Attributes:
        requests: that were answered.
        failed: that were not.
        cumulative_tokens: of a prompt, on average: all that was said so far.
        kv_bytes: of their KV.
        e2e, ttft: in seconds.
        movement: of all the prompts together.
    """

    turn: int
    requests: int
    failed: int
    prompt_tokens: int
    kv_bytes: float | None
    e2e: Distribution | None
    ttft: Distribution | None
    movement: Movement

    @property
    def cumulative_tokens(self) -> float | None:
        return self.prompt_tokens / self.requests if self.requests and self.prompt_tokens else None

    @property
    def local_rate(self) -> float | None:
        return self.movement.local_rate(self.prompt_tokens)

    @property
    def external_rate(self) -> float | None:
        return self.movement.external_rate(self.prompt_tokens)

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "turn": self.turn,
            "requests": self.requests,
            "failed": self.failed,
            "cumulative_tokens": self.cumulative_tokens,
            "kv_bytes": self.kv_bytes,
            "e2e": self.e2e.told() if self.e2e else None,
            "ttft": self.ttft.told() if self.ttft else None,
            "local_hit_rate": self.local_rate,
            "external_hit_rate": self.external_rate,
            "bytes_moved": self.movement.bytes,
            "moved_tokens": self.movement.external,
        }


def turns(
    requests: Collection[Request],
    counted: Collection[Counted],
    kv_bytes_per_token: float | None,
    mode: str = "",
) -> list[Turn]:
    """Of one mode's requests that are no warm-up, in order."""
    mine = [each for each in requests if each.mode == mode and not each.warm_up]
    numbers = sorted({each.turn for each in mine if each.turn is not None})
    return [
        _turn(
            number,
            [each for each in mine if each.turn == number],
            [each for each in counted if each.mode == mode and each.turn == number],
            kv_bytes_per_token,
            mode,
        )
        for number in numbers
    ]


def _turn(
    number: int,
    requests: Collection[Request],
    counted: Collection[Counted],
    kv_bytes_per_token: float | None,
    mode: str,
) -> Turn:
    whole = [each for each in requests if not each.error]
    timings = [timing(each) for each in whole]
    tokens = sum(each.prompt_tokens or 0 for each in whole)
    known = kv_bytes_per_token is not None and whole and tokens
    return Turn(
        turn=number,
        requests=len(whole),
        failed=len(requests) - len(whole),
        prompt_tokens=tokens,
        kv_bytes=tokens / len(whole) * kv_bytes_per_token if known and kv_bytes_per_token else None,
        e2e=Distribution.of(each.e2e for each in timings),
        ttft=Distribution.of(each.ttft for each in timings if each.ttft is not None),
        movement=Movement.of(counted, mode),
    )


def measured_kv_bytes(counted: Iterable[Counted]) -> float | None:
    """Bytes of KV per token, as the engines moved it; None where nothing moved that was counted."""
    moved = Movement.of(counted)
    return moved.bytes / moved.external if moved.bytes and moved.external else None
