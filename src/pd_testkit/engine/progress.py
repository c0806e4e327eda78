"""One answer under way: its tokens become text, and end it."""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Any

import numpy.typing as npt

from pd_testkit.engine.counts import Transferred
from pd_testkit.engine.generation import Course, Generation, Hold, Token
from pd_testkit.engine.sampling import Choice, choose
from pd_testkit.engine.tokenizer import StopMatcher, Tokenizer
from pd_testkit.reference.request import Request


class Progress:
    """One request's, on the engine's thread.

    Attributes:
        request: as the scheduler sees it.
        admitted: it has left the queue once.
        began: by the clock, when its first step was scheduled; None before.
        cached: tokens of the prompt that are not computed here, as far as is known.
        load_began: by the clock, when P was asked for its KV; None: no P was.

    Raises:
        ValueError: a stop string is empty.
    """

    def __init__(self, generation: Generation, tokenizer: Tokenizer, request: Request) -> None:
        sampling = generation.sampling
        self.generation = generation
        self.request = request
        self.admitted = False
        self.began: float | None = None
        self.cached = 0
        self.external = 0
        self.load_began: float | None = None
        self._load_ended: float | None = None
        self._loaded: Transferred | None = None
        self._arrived = 0.0
        self._ends: Collection[int] = tokenizer.ends
        self._generator = random.Random(sampling.seed)
        self._detokenizer = tokenizer.detokenizer()
        self._matcher = StopMatcher(sampling.stop)

    def arrive(self, now: float) -> None:
        """It is in the queue."""
        self._arrived = now

    def load_ended(self, now: float, loaded: Transferred | None) -> None:
        """Its KV is there; None: it cannot be had."""
        self._load_ended, self._loaded = now, loaded

    def choose(self, logits: npt.NDArray[Any]) -> Choice:
        """The next token."""
        return choose(
            logits,
            self.generation.sampling,
            self._generator,
            prompt=self.request.prompt,
            answer=self.request.output,
            ends=self._ends,
        )

    def push(self, choice: Choice) -> Token:
        """The token that was chosen next, which the request does not have yet."""
        sampling, request = self.generation.sampling, self.request
        count = len(request.output) + 1
        ends = choice.id in self._ends and not sampling.ignore_eos
        full = count == request.max_tokens
        text = "" if ends else self._detokenizer.push(choice.id)
        if ends or full:
            text += self._detokenizer.flush()
        if count > sampling.min_tokens:
            text = self._matcher.push(text)
        if ends or full:
            text += self._matcher.flush()
        stopped = ends or self._matcher.stopped
        first = count == 1
        return Token(
            choice.id,
            text,
            choice.logprob,
            choice.top,
            "stop" if stopped else "length" if full else None,
            cached_tokens=self.cached if first else 0,
            queued_s=max(0.0, (self.began or 0.0) - self._arrived) if first else 0.0,
            course=self._course() if first else None,
        )

    def _course(self) -> Course:
        began, loaded = self.began or self._arrived, self._loaded
        if loaded is None:
            return Course(began, self.load_began, self._load_ended)
        return Course(began, self.load_began, self._load_ended, loaded.seconds, loaded.bytes)


def span(request: Request, count: int) -> tuple[int, ...]:
    """The request's next ``count`` tokens to compute."""
    start, prompt = request.computed, len(request.prompt)
    end = start + count
    return (
        *request.prompt[start:end],
        *request.output[max(0, start - prompt) : max(0, end - prompt)],
    )


def answer_limit(generation: Generation) -> int:
    """Most tokens of the answer: a P gives one."""
    return 1 if isinstance(generation.transfer, Hold) else generation.sampling.max_tokens
