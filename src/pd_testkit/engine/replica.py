"""One data-parallel rank: its scheduler, its share of the requests, and its steps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from pd_testkit.engine.connector import Connector, Report
from pd_testkit.engine.counts import Counts, Stats, Transferred
from pd_testkit.engine.generation import (
    Generation,
    Hold,
    Load,
    LoadFailed,
    Token,
    TooLong,
)
from pd_testkit.engine.model import Batch, Model
from pd_testkit.engine.progress import Progress, answer_limit, span
from pd_testkit.engine.rank import Rank
from pd_testkit.engine.settings import Settings
from pd_testkit.engine.timeline import Held
from pd_testkit.engine.tokenizer import Tokenizer
from pd_testkit.reference.block_manager import BlockManager
from pd_testkit.reference.engine_scheduler import EngineScheduler, Scheduled
from pd_testkit.reference.metadata import ConnectorMetadata, RemoteTransfer
from pd_testkit.reference.request import Request
from pd_testkit.reference.scheduler_side import Endpoint, SchedulerSide

_log = logging.getLogger(__name__)

Delivery = tuple[Progress, Token | Exception]


class Pace(Protocol):
    """How long things take at least, in seconds."""

    def step(self, prompt_tokens: int, decodes: int) -> float:
        """A step that computes so many tokens of prompts, and one of so many answers."""

    def load(self, size: int) -> float:
        """A load of so many bytes."""


class Replica:
    """One data-parallel rank's. Not for more than one thread.

    Args:
        moved: takes each load that ended well.
        freed: takes what was held for a D, once it is not any more.
    """

    def __init__(
        self,
        settings: Settings,
        model: Model,
        tokenizer: Tokenizer,
        ranks: Sequence[Rank],
        endpoint: Endpoint,
        connector: Connector,
        *,
        clock: Callable[[], float],
        pace: Pace | None,
        moved: Callable[[Transferred], None],
        freed: Callable[[Held], None],
    ) -> None:
        self.connector = connector
        self._model = model
        self._tokenizer = tokenizer
        self._endpoint = endpoint
        self._clock = clock
        self._pace = pace
        self._moved = moved
        self._freed = freed
        self._caches = [rank.caches for rank in ranks]
        self._blocks = BlockManager(
            settings.num_blocks, settings.block_size, prefix_caching=settings.prefix_caching
        )
        self._scheduler = EngineScheduler(
            self._blocks,
            SchedulerSide(
                endpoint,
                producer=settings.role != "decode",
                consumer=settings.role != "prefill",
                block_size=settings.block_size,
            ),
            max_running=settings.max_running,
            max_batch_tokens=settings.max_batch_tokens,
            chunked_prefill=settings.chunked_prefill,
            recompute_failed=settings.recompute_failed,
        )
        self._answers: dict[str, Progress] = {}
        self._transfers: dict[str | int, str] = {}
        """Of P: what D will ask for, to the request's id."""
        self._holds: dict[str, tuple[str | int, float]] = {}
        """Of P: what is held for a D, by the request's id, and since when."""
        self._counts = Counts()
        self._out: list[Delivery] = []
        self._due = 0.0
        self._waits = False
        """Nothing has been done since the last step was due."""

    def __len__(self) -> int:
        """Answers under way."""
        return len(self._answers)

    def __contains__(self, request_id: str) -> bool:
        return self._scheduler.find(request_id) is not None

    def add(self, generation: Generation) -> Progress:
        """Queue a request.

        Raises:
            TooLong: the KV cache, or a step, is too small for it.
            ValueError: the hand-off makes no sense.
        """
        part, request_id = generation.transfer, generation.request_id
        transfer_id = _transfer_id(generation)
        if transfer_id is not None and transfer_id in self._transfers:
            raise ValueError(f"transfer {transfer_id!r} is in use")
        request = Request(
            request_id,
            generation.prompt,
            answer_limit(generation),
            _checked(part, len(generation.prompt)) if isinstance(part, Load) else None,
            remote_decode=isinstance(part, Hold),
        )
        progress = Progress(generation, self._tokenizer, request)
        try:
            self._scheduler.add(request)
        except ValueError as error:
            raise TooLong(str(error)) from None
        progress.arrive(self._clock())
        self._answers[request_id] = progress
        if transfer_id is not None:
            self._transfers[transfer_id] = request_id
        return progress

    def abort(self, progress: Progress) -> None:
        """Nobody waits for it any more. Nothing happens if it has ended."""
        request_id = progress.generation.request_id
        if self._answers.get(request_id) is progress:
            self._end(progress)
            self._scheduler.abort(request_id)

    def release(self, load: Load) -> None:
        """Have P free what it holds for that load."""
        name = f"released {load.transfer_id}"
        self.connector.start(ConnectorMetadata(receive={name: _source(load, None)}), ())

    def advance(self) -> bool:
        """Take in what has come, and do one step if it is time; True: there is more to do now."""
        self._take(self.connector.poll())
        if self._clock() < self._due:
            return self.connector.ready
        self._waits = False
        began = self._clock()
        scheduled = self._scheduler.step()
        self.connector.start(scheduled.metadata, scheduled.aborted)
        self._admit(scheduled, began)
        if scheduled.tokens:
            self._compute(scheduled, began)
        return bool(scheduled.tokens or scheduled.preempted) or self.connector.ready

    def deliver(self) -> list[Delivery]:
        """Tokens and errors whose time has come."""
        if not self._out or self._clock() < self._due:
            return []
        return self.flush()

    def flush(self) -> list[Delivery]:
        """Those whose time has not come, too."""
        out, self._out = self._out, []
        return out

    @property
    def deadline(self) -> float | None:
        """By the clock: when to advance at the latest."""
        deadlines = [self.connector.deadline]
        if self._waits:  # the time may have come since anybody looked
            deadlines.append(self._due)
        return min((at for at in deadlines if at is not None), default=None)

    def stats(self) -> Stats:
        """Now."""
        scheduler, blocks = self._scheduler, self._blocks
        return Stats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            loading=len(scheduler.loading) + len(scheduler.draining),
            held=len(scheduler.held),
            kv_usage=1 - blocks.free_blocks / blocks.num_blocks,
            free_blocks=blocks.free_blocks,
            blocks=blocks.num_blocks,
            **vars(self._counts),
        )

    def _admit(self, scheduled: Scheduled, now: float) -> None:
        for request_id, admitted in scheduled.admitted.items():
            progress, counts = self._answers[request_id], self._counts
            if progress.admitted:
                continue  # it was preempted, or its load failed
            progress.admitted = True
            prompt = len(progress.request.prompt)
            counts.prefix_queries += prompt
            counts.prefix_hits += admitted.cached
            progress.cached, progress.external = admitted.cached, admitted.external
            if progress.request.source is not None:
                counts.external_queries += prompt - admitted.cached
            if admitted.external:
                progress.load_began = now
        for request_id in scheduled.tokens:
            progress = self._answers[request_id]
            if progress.began is None:
                progress.began = now
                self._counts.prompt_tokens += len(progress.request.prompt)
        self._counts.preemptions += len(scheduled.preempted)

    def _compute(self, scheduled: Scheduled, began: float) -> None:
        batch = [(self._answers[request_id], n) for request_id, n in scheduled.tokens.items()]
        requests = [progress.request for progress, _ in batch]
        samples = [progress.request.missing == count for progress, count in batch]
        logits = self._model.forward(
            Batch(
                tokens=[span(progress.request, count) for progress, count in batch],
                starts=[request.computed for request in requests],
                block_tables=[request.block_table for request in requests],
                samples=samples,
            ),
            self._caches,
        )
        prompts = sum(
            min(count, max(0, len(request.prompt) - request.computed))
            for request, (_, count) in zip(requests, batch, strict=True)
        )
        self._counts.computed_tokens += prompts
        decodes = sum(request.computed >= len(request.prompt) for request in requests)
        self._sample([each for (each, _), last in zip(batch, samples, strict=True) if last], logits)
        if self._pace is not None:
            self._due = began + self._pace.step(prompts, decodes)
            self._waits = True

    def _sample(self, sampling: Sequence[Progress], logits: Any) -> None:
        tokens: dict[str, Token] = {}
        for progress, row in zip(sampling, logits, strict=True):
            request_id = progress.request.request_id
            try:
                tokens[request_id] = progress.push(progress.choose(row))
            except Exception as error:  # of this answer alone
                _log.exception("request %r: its next token could not be chosen", request_id)
                self._out.append((progress, error))
                self.abort(progress)
        self._counts.generated_tokens += len(tokens)
        stopped = {name for name, token in tokens.items() if token.finish_reason == "stop"}
        sampled = {name: token.id for name, token in tokens.items()}
        ended = self._scheduler.complete(sampled, stopped)
        for request_id, token in tokens.items():
            progress = self._answers[request_id]
            if request_id in ended:
                token = self._finished(progress, token, ended[request_id])
            self._out.append((progress, token))

    def _finished(self, progress: Progress, token: Token, params: dict[str, Any] | None) -> Token:
        del self._answers[progress.request.request_id]
        part, prompt = progress.generation.transfer, len(progress.request.prompt)
        if params is None or not isinstance(part, Hold):
            return token
        transfer_id = _transfer_id(progress.generation)
        assert transfer_id is not None
        self.connector.hold(
            progress.request.request_id,
            transfer_id,
            params["remote_block_ids"],
            prompt,
        )
        self._holds[progress.request.request_id] = transfer_id, self._clock()
        return replace(
            token,
            transfer=params
            | {
                "transfer_id": transfer_id,
                "remote_block_size": self._blocks.block_size,
                "remote_tokens": prompt,
                "tp_size": self._endpoint.tp_size,
            },
        )

    def _take(self, report: Report) -> None:
        counts = self._counts
        for request_id, transferred in report.received.items():
            counts.moved(transferred)
            self._moved(transferred)
            if (progress := self._answers.get(request_id)) is not None:
                counts.external_hits += progress.external
                progress.cached += progress.external
                progress.load_ended(self._clock(), transferred)
        for request_id in report.failed:
            if (progress := self._answers.get(request_id)) is not None:
                progress.load_ended(self._clock(), None)
        for request_id in report.sent & self._holds.keys():
            transfer_id, since = self._holds.pop(request_id)
            self._freed(
                Held(
                    id=request_id,
                    transfer_id=str(transfer_id),
                    held_at=since,
                    freed_at=self._clock(),
                )
            )
        counts.failed_transfers += sum(request_id in self for request_id in report.failed)
        counts.failed_digests += report.differing
        counts.expired_holds += report.expired
        errors = self._scheduler.update(report.sent, report.received, report.failed)
        for request_id in errors:
            progress = self._answers[request_id]
            self._end(progress)
            self._out.append((progress, LoadFailed(f"the KV of {request_id!r} could not be had")))
        if report.sent:
            self._transfers = {
                transfer_id: request_id
                for transfer_id, request_id in self._transfers.items()
                if request_id not in report.sent
            }

    def _end(self, progress: Progress) -> None:
        """It ends before its last token."""
        generation = progress.generation
        del self._answers[generation.request_id]
        transfer_id = _transfer_id(generation)
        if transfer_id is not None:
            del self._transfers[transfer_id]
            self.connector.refuse(transfer_id)


def _transfer_id(generation: Generation) -> str | int | None:
    """What P will hold the request's blocks for."""
    part = generation.transfer
    if not isinstance(part, Hold):
        return None
    return generation.request_id if part.transfer_id is None else part.transfer_id


def _checked(load: Load, prompt: int) -> RemoteTransfer:
    """Where the KV of a prompt of so many tokens lies.

    Raises:
        ValueError: P has no blocks, or too few for its tokens.
    """
    blocks, tokens = load.block_ids, load.tokens
    if blocks == ():
        raise ValueError("a remote prefill of no blocks")
    room = len(blocks) * load.block_size if blocks and load.block_size else None
    if tokens is not None and room is not None and tokens > room:
        raise ValueError(f"{tokens} tokens do not fit into P's blocks, which hold {room}")
    return _source(load, prompt if blocks is None and tokens is None else tokens)


def _source(load: Load, tokens: int | None) -> RemoteTransfer:
    return RemoteTransfer(
        local_block_ids=(),
        remote_block_ids=load.block_ids or (),
        remote_engine_id=load.engine_id,
        remote_host=load.host,
        remote_port=load.port,
        remote_handshake_port=load.port,
        remote_tp_size=load.tp_size,
        remote_dp_size=load.dp_size,
        remote_dp_rank=load.dp_rank,
        transfer_id=load.transfer_id,
        tokens=tokens,
        remote_block_size=load.block_size,
    )
