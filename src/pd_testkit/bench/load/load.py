"""A load as its user describes it, and the requests that it consists of. Pure but for the files."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pd_testkit.bench.client import Planned, chat, completion
from pd_testkit.bench.endpoint import Ask
from pd_testkit.bench.load import arrivals, workload
from pd_testkit.bench.load.lengths import Length
from pd_testkit.bench.load.workload import Prefixes, Prompt
from pd_testkit.bench.texts import Texts

CLOSED, TRACE = "closed", "trace"
ARRIVALS = ("constant", "poisson", "burst", "ramp")
"""Of an open loop that has a rate."""
PARTICULARS = (
    *("prompt_lengths", "answer_lengths", "chat", "exact", "prefix_tokens", "prefix_groups"),
    *("burst", "ramp_from", "ramp_s", "file"),
)
"""What sets loads apart of which times, mean lengths and users are the same."""


@dataclass(frozen=True)
class Load:
    """Attributes:
    arrivals: `CLOSED`, `TRACE`, or one of `ARRIVALS`.
    concurrency: users of a closed loop.
    rate: requests per second of an open loop; of a ramp, at its end.
    burst: requests at once.
    ramp_from, ramp_s: of a ramp, requests per second at its begin, and how long it takes.
    requests: that are measured; None: by `duration_s`, or as many as the trace has.
    duration_s: within which they are sent; None: by their number.
    warm_up: requests before those, that are not measured.
    prompts, replay: files that they come from; None: they are synthetic.
    exact: answers have `max_tokens`, whatever the model would say.
    """

    arrivals: str
    concurrency: int | None
    rate: float | None
    requests: int | None
    duration_s: float | None
    prompt_tokens: Length
    max_tokens: Length
    burst: int = 8
    ramp_from: float = 0.0
    ramp_s: float = 30.0
    warm_up: int = 0
    prefixes: Prefixes | None = None
    prompts: Path | None = None
    replay: Path | None = None
    chat: bool = False
    stream: bool = True
    exact: bool = True

    @property
    def closed(self) -> bool:
        return self.arrivals == CLOSED

    @property
    def drawn(self) -> bool:
        """Whether texts are needed."""
        return self.prompts is None

    def told(self) -> dict[str, Any]:
        """For a result file."""
        told: dict[str, Any] = {
            "arrivals": self.arrivals,
            "concurrency": self.concurrency,
            "rate": self.rate,
            "requests": self.requests,
            "duration_s": self.duration_s,
            "warm_up": self.warm_up,
            "prompt_tokens": round(self.prompt_tokens.mean),
            "prompt_lengths": str(self.prompt_tokens),
            "max_tokens": round(self.max_tokens.mean),
            "answer_lengths": str(self.max_tokens),
            "chat": self.chat,
            "stream": self.stream,
            "exact": self.exact,
        }
        if self.arrivals == "burst":
            told["burst"] = self.burst
        if self.arrivals == "ramp":
            told |= {"ramp_from": self.ramp_from, "ramp_s": self.ramp_s}
        if self.prefixes is not None:
            told |= {
                "prefix_tokens": self.prefixes.tokens,
                "prefix_groups": self.prefixes.groups,
            }
        if (file := self.prompts or self.replay) is not None:
            told["file"] = file.name
        return told

    def plan(
        self, texts: Texts, model: str, seed: int, name: str, first: int = 0, mode: str = ""
    ) -> tuple[list[Planned], Iterator[Planned]]:
        """The warm-up's requests, and those that are measured: in an open loop with the seconds
        after the begin at which they are due; in a closed loop of a stated duration without an end.

        Args:
            name: of the run, for the requests' ids. Runs of different names, or modes, have prompts
                of the same lengths that begin differently: one finds nothing of another's cached.
            first: the first request's index.

        Raises:
            NoWorkload: a file is none.
        """
        found = self._prompts(texts, seed, f"{name}/{mode}")
        numbers = itertools.count(first)

        def planned(prompt: Prompt, due: float | None, *, warm_up: bool = False) -> Planned:
            index = next(numbers)
            return Planned(
                index=index,
                ask=self._ask(prompt, model),
                due=due,
                prompt_tokens=prompt.tokens,
                warm_up=warm_up,
                mode=mode,
                headers={"X-Request-Id": f"{name}-{index}"},
            )

        before = [
            planned(prompt, None, warm_up=True) for prompt in itertools.islice(found, self.warm_up)
        ]
        return before, (
            planned(prompt, due)
            for prompt, due in itertools.islice(self._timed(found, seed), self.requests)
        )

    def _prompts(self, texts: Texts, seed: int, name: str) -> Iterator[Prompt]:
        if self.replay is not None:
            return iter(workload.trace(self.replay, texts, self.max_tokens, seed, name))
        if self.prompts is not None:
            return itertools.cycle(workload.prompts(self.prompts, self.max_tokens, seed))
        return workload.synthetic(
            texts, self.prompt_tokens, self.max_tokens, seed, self.prefixes, name
        )

    def _timed(self, found: Iterator[Prompt], seed: int) -> Iterator[tuple[Prompt, float | None]]:
        if self.closed:
            return ((prompt, None) for prompt in found)
        end = self.duration_s
        pairs: Iterator[tuple[Prompt, float]]
        if self.arrivals == TRACE:
            pairs = _since_the_first(found)
        else:
            pairs = zip(found, self._arrivals(seed), strict=False)
        return itertools.takewhile(lambda pair: end is None or pair[1] < end, pairs)

    def _arrivals(self, seed: int) -> Iterator[float]:
        rate = self.rate or 1.0
        if self.arrivals == "constant":
            return arrivals.constant(rate)
        if self.arrivals == "burst":
            return arrivals.bursts(rate, self.burst)
        if self.arrivals == "ramp":
            return arrivals.ramp(self.ramp_from, rate, self.ramp_s)
        return arrivals.poisson(rate, random.Random(f"{seed}/arrivals"))

    def _ask(self, prompt: Prompt, model: str) -> Ask:
        options: dict[str, Any] = {"stream": self.stream, "exact": self.exact}
        text = prompt.text
        if isinstance(text, list):
            return chat(model, text, prompt.max_tokens, **options)
        if self.chat:
            messages = [{"role": "user", "content": text}]
            return chat(model, messages, prompt.max_tokens, **options)
        return completion(model, text, prompt.max_tokens, **options)


def _since_the_first(found: Iterator[Prompt]) -> Iterator[tuple[Prompt, float]]:
    """Of a trace; the warm-up may have had the entries before."""
    first = None
    for prompt in found:
        at = prompt.at or 0.0
        first = at if first is None else first
        yield prompt, at - first


def particulars(told: Mapping[str, Any]) -> dict[str, Any]:
    """`PARTICULARS` of a load, which is told as `Load.told` has it. What is as always is empty: no
    such option, completions, exact answers, and lengths that are one number, which their mean
    tells."""
    usual = {
        "prompt_lengths": str(told.get("prompt_tokens")),
        "answer_lengths": str(told.get("max_tokens")),
        "chat": False,
        "exact": True,
    }
    return {
        name: "" if value in (None, usual.get(name)) else value
        for name in PARTICULARS
        for value in (told.get(name),)
    }
