"""P engines, D engines and clients on a virtual clock, behind the proxy's own router.

The router is the real one. The engines are what `pd_testkit.engine` is without a model: steps of
continuous batching, as `reference.engine_scheduler` makes them, that take as long as a profile of
`engine.timing` says; prefix caches, by whole blocks and without an end; transfers of what D lacks.
"""

from __future__ import annotations

import heapq
import json
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import NamedTuple

from pd_testkit.engine.timing import Pace, Profile
from pd_testkit.proxy.instances import Engine, Leg
from pd_testkit.proxy.messages import Call, Response
from pd_testkit.proxy.route import Route
from pd_testkit.proxy.router import Router
from pd_testkit.proxy.settings import Settings

BLOCK_SIZE = 16
MAX_BATCH_TOKENS = 2048
CALL_S = 0.002
"""From the proxy to an engine: HTTP, and what the engine does before its first step."""
_PATH = "/v1/completions"
_HAND_OFF = {"do_remote_prefill": True, "remote_engine_id": "p", "remote_block_ids": [1]}
_PREFILLED = Response(200, json.dumps({"kv_transfer_params": _HAND_OFF}).encode())


class Events:
    """What happens, in the order of time; seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()

    def after(self, seconds: float, happens: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now + seconds, next(self._number), happens))

    def run(self) -> None:
        """To the end."""
        while self._due:
            self.now, _, happens = heapq.heappop(self._due)
            happens()


@dataclass(eq=False)
class Job:
    """A request on one engine; sizes in tokens."""

    conversation: int
    prompt: int
    answer: int
    loads: bool
    """What the engine lacks of the prompt comes from P."""
    begun: Callable[[], None]
    ended: Callable[[], None]
    computed: int = 0
    said: int = 0


class SimulatedEngine:
    """A P or a D."""

    def __init__(self, profile: Profile, events: Events) -> None:
        self._pace = Pace(profile, profile.kv_bytes_per_token)
        self._bytes = profile.kv_bytes_per_token
        self._events = events
        self._cached: dict[int, int] = {}
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._stepping = False

    def take(self, job: Job) -> None:
        self._waiting.append(job)
        self._step()

    def _step(self) -> None:
        if self._stepping:
            return
        budget = MAX_BATCH_TOKENS
        batch: list[tuple[Job, int]] = []
        for job in self._running:
            budget -= self._schedule(job, budget, batch)
        while self._waiting and budget:
            job = self._waiting.popleft()
            cached = self._cached.get(job.conversation, 0) // BLOCK_SIZE * BLOCK_SIZE
            job.computed = min(cached, job.prompt - 1)
            if job.loads and cached < job.prompt:
                self._load(job, job.prompt - cached)
            else:
                self._running.append(job)
                budget -= self._schedule(job, budget, batch)
        if not batch:
            return
        decodes = sum(job.computed >= job.prompt for job, _ in batch)
        prompts = sum(n for job, n in batch if job.computed < job.prompt)
        self._stepping = True
        self._events.after(self._pace.step(prompts, decodes), lambda: self._stepped(batch))

    def _schedule(self, job: Job, budget: int, batch: list[tuple[Job, int]]) -> int:
        tokens = min(budget, max(1, job.prompt - job.computed))
        if tokens:
            batch.append((job, tokens))
        return tokens

    def _load(self, job: Job, tokens: int) -> None:
        self._events.after(self._pace.load(tokens * self._bytes), lambda: self._loaded(job))

    def _loaded(self, job: Job) -> None:
        job.computed = job.prompt - 1
        self._running.append(job)
        self._step()

    def _stepped(self, batch: list[tuple[Job, int]]) -> None:
        self._stepping = False
        for job, tokens in batch:
            job.computed += tokens
            if job.computed < job.prompt:
                continue
            job.said += 1
            self._cached[job.conversation] = job.computed
            if job.said == 1:
                job.begun()
            if job.said == job.answer:
                self._running.remove(job)
                job.ended()
        self._step()


@dataclass(frozen=True)
class Workload:
    """Conversations, as many at once as there are clients; each client has one after the other.

    Attributes:
        tokens: that each turn adds to the prompt beside the last answer: one of these, +-25 %.
        answer: tokens of an answer; +-25 %.
        conversations: of each client.
        think_s: between an answer and the next turn: mean of an exponential distribution.
    """

    clients: int
    tokens: tuple[int, ...]
    turns: int = 5
    answer: int = 64
    conversations: int = 2
    think_s: float = 0.5
    seed: int = 0


class Ask(NamedTuple):
    """One turn of a conversation."""

    conversation: int
    turn: int
    """From one."""
    prompt: list[int]
    """Token ids."""
    answer: int
    """Tokens."""
    think_s: float
    """Before it."""


def asks(workload: Workload, client: int, salt: int = 0) -> Iterator[Ask]:
    """What one client asks, one after the other; the same under each mode.

    Args:
        salt: prompts of another one share no beginning with these.
    """
    rng = random.Random(f"{workload.seed} {client}")
    for index in range(workload.conversations):
        conversation = client * workload.conversations + index
        prompt = [salt, *divmod(conversation, 256)]
        for turn in range(1, workload.turns + 1):
            size = rng.choice(workload.tokens) * rng.uniform(0.75, 1.25)
            prompt = prompt + [turn] * round(size)
            answer = max(1, round(workload.answer * rng.uniform(0.75, 1.25)))
            think_s = rng.expovariate(1 / workload.think_s)
            yield Ask(conversation, turn, prompt, answer, think_s)
            prompt = prompt + [0] * answer


class Ended(NamedTuple):
    """One turn's times, in seconds."""

    kind: str
    """Of `proxy.route.Kind`: which way it went; empty: not known."""
    ttft_s: float
    e2e_s: float


@dataclass(frozen=True)
class Deployment:
    """P and D engines, all of one kind."""

    profile: Profile
    prefill: int = 1
    decode: int = 1
    settings: Settings = field(default_factory=Settings)


class Simulation:
    """One run.

    Attributes:
        turns: those that have ended.
    """

    def __init__(self, deployment: Deployment, workload: Workload, mode: str) -> None:
        self.turns: list[Ended] = []
        self._events = Events()
        numbers = count(1)
        settings = replace(deployment.settings, mode=mode)
        self._router = Router(settings, new_id=lambda: f"{next(numbers):032x}")
        self._engines: dict[str, SimulatedEngine] = {}
        legs: tuple[tuple[Leg, int], ...] = (
            ("prefill", deployment.prefill),
            ("decode", deployment.decode),
        )
        for leg, index in ((leg, index) for leg, size in legs for index in range(size)):
            profile = replace(deployment.profile, seed=len(self._engines))
            url = f"http://{leg}{index}:8000"
            self._engines[url] = SimulatedEngine(profile, self._events)
            self._router.registry.register(Engine(leg, url, static=True), 0.0)
        for client in range(workload.clients):
            self._go_on(asks(workload, client))

    def run(self) -> list[Ended]:
        """To the end."""
        self._events.run()
        return self.turns

    def _go_on(self, client: Iterator[Ask]) -> None:
        ask = next(client, None)
        if ask is not None:
            self._events.after(ask.think_s, lambda: self._ask(ask, client))

    def _ask(self, ask: Ask, client: Iterator[Ask]) -> None:
        events, asked, prompt = self._events, self._events.now, len(ask.prompt)
        body = {"model": "m", "prompt": ask.prompt, "stream": True, "max_tokens": ask.answer}
        route = self._router.start(body, _PATH, {}, asked)
        assert isinstance(route, Route), route
        first = 0.0

        def prefilled() -> None:
            call = route.answered(_PREFILLED, events.now)
            assert isinstance(call, Call), call
            take(call, Job(ask.conversation, prompt, ask.answer, True, begun, ended))

        def begun() -> None:
            nonlocal first
            first = events.now
            route.started(200, first)
            route.first_byte(first)

        def ended() -> None:
            route.finished(events.now, ok=True, answer_tokens=ask.answer)
            self.turns.append(Ended(route.kind, first - asked, events.now - asked))
            self._go_on(client)

        def take(call: Call, job: Job) -> None:
            engine = self._engines[call.engine.url]
            events.after(CALL_S, lambda: engine.take(job))

        if route.kind == "pd":
            take(route.call, Job(ask.conversation, prompt, 1, False, lambda: None, prefilled))
        else:
            take(route.call, Job(ask.conversation, prompt, ask.answer, False, begun, ended))
