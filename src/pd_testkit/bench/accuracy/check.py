"""What the accuracy test is made of: checks, the deployment they ask, and what became of each."""

from __future__ import annotations

import shlex
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from pd_testkit.bench.accuracy.expectations import Band, Question
from pd_testkit.bench.endpoint import Endpoint, Unexpected
from pd_testkit.bench.kv.movement import DEFAULT_BLOCK_SIZE, Engines
from pd_testkit.bench.prompts import Prompts

MAX_CURL = 2000
"""Characters of a command that is shown; a longer one is in the JSON only."""


@dataclass(frozen=True)
class Deployment:
    """What is checked, and what it is compared with.

    Attributes:
        endpoint: the router's.
        oracle: an aggregated endpoint of the same model; None: there is none.
        exact: the oracle computes the same numbers as the engines, so that log probabilities are
            compared as well as tokens.
        engines: behind the endpoint.
        block_sizes: of P's and D's KV caches.
        seed: of all prompts.
        kv_check: whether the KV must be seen to move.
        questions, band: to ask, and the share of right answers; None: no expectation was stated.
        admin_key: of the engines, for faults; empty: none.
    """

    endpoint: Endpoint
    oracle: Endpoint | None = None
    exact: bool = False
    engines: Engines = field(default_factory=lambda: Engines((), ()))
    block_sizes: tuple[int, ...] = (DEFAULT_BLOCK_SIZE,)
    seed: int = 0
    kv_check: bool = True
    questions: tuple[Question, ...] = ()
    band: Band | None = None
    admin_key: str = ""

    @property
    def block_size(self) -> int:
        """The largest."""
        return max(self.block_sizes)

    def prompts(self, check: str) -> Prompts:
        """Of one check: the same with the same seed, whichever checks are run."""
        return Prompts(f"{self.seed}/{check}")


class NotApplicable(Exception):
    """The check cannot be made here; the message says why."""


class Outcome(str, Enum):
    """What became of a check."""

    KEPT = "kept"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True)
class Check:
    """Attributes:
    name: how to ask for it.
    promise: what is checked, in a few words.
    run: gives what was seen; raises `Unexpected` or `NotApplicable`.
    """

    name: str
    promise: str
    run: Callable[[Deployment], Awaitable[str]]


@dataclass(frozen=True)
class Result:
    """What became of one check.

    Attributes:
        detail: what was seen, or why it is not applicable.
        asked, expected, got: of a failure.
        again: a command that asks the same, or makes this check alone.
    """

    name: str
    promise: str
    outcome: Outcome
    seconds: float
    detail: str = ""
    asked: str = ""
    expected: str = ""
    got: str = ""
    again: str = ""

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "outcome": self.outcome.value, "seconds": round(self.seconds, 3)}


async def run(checks: Sequence[Check], deployment: Deployment) -> AsyncIterator[Result]:
    """Make the checks one after the other: each goes its own way, whatever became of the others."""
    for check in checks:
        began = time.monotonic()
        found = await _made(check, deployment)
        yield Result(check.name, check.promise, seconds=time.monotonic() - began, **found)


async def _made(check: Check, deployment: Deployment) -> dict[str, Any]:
    try:
        return {"outcome": Outcome.KEPT, "detail": await check.run(deployment)}
    except NotApplicable as reason:
        return {"outcome": Outcome.NOT_APPLICABLE, "detail": str(reason)}
    except Unexpected as wrong:
        return {
            "outcome": Outcome.FAILED,
            "asked": wrong.asked,
            "expected": wrong.expected,
            "got": wrong.got,
            "again": wrong.again or _again(check, deployment),
        }


def _again(check: Check, deployment: Deployment) -> str:
    words = ["pd-testkit", "accuracy", "--endpoint", deployment.endpoint.url]
    for flag, engines in (
        ("--prefill-endpoint", deployment.engines.prefill),
        ("--decode-endpoint", deployment.engines.decode),
    ):
        for engine in engines:
            words += [flag, engine.url]
    return shlex.join([*words, "--seed", str(deployment.seed), "--check", check.name])


def succeeded(results: Collection[Result]) -> bool:
    """Whether something was checked, and nothing failed."""
    outcomes = {result.outcome for result in results}
    return Outcome.KEPT in outcomes and Outcome.FAILED not in outcomes
