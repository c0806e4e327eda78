"""Puts a load on a deployment and says what came of it, and whether the generator kept up."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pd_testkit.bench.client import Client, Observed, Planned
from pd_testkit.bench.kv.movement import Engines
from pd_testkit.bench.load.generator import Clock, closed_loop, open_loop
from pd_testkit.bench.load.load import Load
from pd_testkit.bench.measures import Objectives, Summary, summarise
from pd_testkit.bench.results import Counted, Request
from pd_testkit.bench.texts import Texts

BUSY = 0.8
"""Share of a core above which the generator's own speed may be what is measured."""
LATE_S = 0.01
"""Above this, at the 99th percentile, requests of an open loop were sent too late. A timer of the
event loop has a resolution of a millisecond."""
_WARMING_UP = 8


@dataclass(frozen=True)
class Phase:
    """A part of a run; its requests have its mode."""

    load: Load
    mode: str = ""


class LoadRun:
    """Args:
    client: of all requests.
    engines: behind the endpoint, of which the counters come.
    note: gets what is known, at once.
    name, seed: of the run.
    done: indices of requests that are not sent again.
    begins: called whenever a phase is prepared, and what it measures begins; may set the clock.

    Attributes:
        busy: the share of a core that this process took while it measured; the highest of all
            phases.
    """

    def __init__(
        self,
        client: Client,
        clock: Clock,
        engines: Engines,
        note: Callable[[Request | Counted], None],
        name: str,
        seed: int,
        done: Collection[int] = frozenset(),
        begins: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._clock = clock
        self._engines = engines
        self._note = note
        self._name = name
        self._seed = seed
        self._done = done
        self._begins = begins
        self.busy = 0.0

    async def carry_out(self, phases: Sequence[Phase], texts: Texts, model: str) -> None:
        """One phase after the other.

        Raises:
            NoWorkload: a file is none.
            Unexpected: an engine does not give its metrics.
        """
        first = 0
        for phase in phases:
            load = phase.load
            planned = load.plan(texts, model, self._seed, self._name, first, phase.mode)
            first += load.warm_up + (load.requests or 0)
            await self._phase(phase, *planned)

    async def _phase(self, phase: Phase, before: list[Planned], found: Iterator[Planned]) -> None:
        load = phase.load
        plans = (plan for plan in found if plan.index not in self._done)
        if not load.closed or load.requests is not None:
            # Made before the first is due: what it takes to make them delays none.
            listed = list(plans)
            if not listed:
                return
            plans = (plan for plan in listed)
        users = load.concurrency or _WARMING_UP
        await self._warm_up(before, users)
        counters = await self._engines.snapshot()
        counters = await self._engines.settled(counters, 0)
        self._begins()
        began, used = self._clock.now(), time.process_time()
        tokens: list[int] = []

        def seen(observed: Observed) -> None:
            tokens.append(observed.request.prompt_tokens or 0)
            self._note(observed.request)

        if load.closed:
            end = began + load.duration_s if load.duration_s is not None else float("inf")
            await closed_loop(plans, users, self._client.carry_out, seen, self._clock, end)
        else:
            later = began - (listed[0].due or 0.0 if self._done else 0.0)
            due = (replace(plan, due=(plan.due or 0.0) + later) for plan in listed)
            await open_loop(due, self._client.carry_out, seen, self._clock)
        ended = self._clock.now()
        self.busy = max(self.busy, (time.process_time() - used) / max(ended - began, 1e-9))
        if self._engines.any:
            now = await self._engines.settled(counters, sum(tokens))
            prefill, decode = (
                after.since(earlier).counts() for after, earlier in zip(now, counters, strict=True)
            )
            counted = Counted(
                began=began, ended=ended, prefill=prefill, decode=decode, mode=phase.mode
            )
            self._note(counted)

    async def _warm_up(self, plans: list[Planned], users: int) -> None:
        def seen(observed: Observed) -> None:
            self._note(observed.request)

        await closed_loop(iter(plans), users, self._client.carry_out, seen, self._clock)


def warnings(
    summary: Summary, requests: Sequence[Request], texts: Texts | None, busy: float, *, exact: bool
) -> tuple[str, ...]:
    """Why the numbers may not be what they seem.

    Args:
        texts: that the prompts were made of; None: they came from a file.
        busy: see `LoadRun`.
        exact: answers were to have as many tokens as were asked for.
    """
    whole = [request for request in requests if not request.warm_up and not request.error]
    short = sum(
        exact
        and request.max_tokens is not None
        and request.output_tokens is not None
        and request.output_tokens < request.max_tokens
        for request in whole
    )
    untold = sum(request.prompt_tokens is None for request in whole)
    late = summary.late.percentiles[99] if summary.late else 0.0
    return tuple(
        text
        for text, wrong in (
            (
                f"the load generator took {busy * 100:.0f} % of a core: its own limit may be what "
                "was measured",
                busy > BUSY,
            ),
            (
                f"requests were sent late, 99 % of them by up to {late * 1e3:.0f} ms: the load "
                "generator, or the machine that it shares, could not keep up",
                late > LATE_S,
            ),
            (
                f"{short} answers have fewer tokens than were asked for: the server does not know "
                "ignore_eos",
                short,
            ),
            (
                f"{untold} answers came without usage: each piece was counted as one token",
                untold,
            ),
            (
                "nothing counts the endpoint's tokens: lengths of prompts are estimates",
                texts is not None and not texts.exact,
            ),
        )
        if wrong
    )


def summary_of(
    requests: Sequence[Request], objectives: Objectives, busy: float
) -> tuple[Summary, Mapping[str, Any]]:
    """What the table shows, and what the result file says."""
    summary = summarise(requests, objectives)
    told: dict[str, Any] = summary.told()
    if objectives:
        told["objectives"] = {
            name: value
            for name in ("ttft", "tpot", "e2e")
            if (value := getattr(objectives, name)) is not None
        }
    seconds = summary.seconds or 1.0
    pieces = sum(len(request.pieces) for request in requests if not request.warm_up)
    told["capacity"] = {"cpu_share": round(busy, 3), "events_per_s": round(pieces / seconds, 1)}
    return summary, told
