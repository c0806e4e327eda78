"""One request's answers, from the core to the client."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, cast
from zlib import crc32

from aiohttp import web

from pd_testkit.engine import answers, wire
from pd_testkit.engine.answers import Choice, Form, Usage
from pd_testkit.engine.faults import Faults
from pd_testkit.engine.generation import Core, Generation, Load, LoadFailed, Sampling, Token
from pd_testkit.engine.metrics import Metrics
from pd_testkit.engine.openai import Asked, Limits, Refused
from pd_testkit.engine.replies import REQUEST_ID, encode, json_reply
from pd_testkit.engine.request_faults import CutOff, RequestFaults
from pd_testkit.engine.timeline import Events, Following
from pd_testkit.engine.tokenizer import Tokenizer
from pd_testkit.proxy.timeline import Timeline

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Engine:
    """What is served."""

    core: Core
    tokenizer: Tokenizer
    limits: Limits
    here: wire.Here
    metrics: Metrics
    faults: Faults
    dp_size: int = 1
    timeline: Events = field(default_factory=Timeline)


@dataclass(frozen=True)
class Job:
    """A request that was found well.

    Attributes:
        parts: in a hand-off, one per prompt.
        name: the client's for the request, or one of ours.
        arrived: by `time.monotonic`.
    """

    form: Form
    asked: Asked
    parts: Sequence[wire.HandOff]
    dp_rank: int | None
    name: str
    arrived: float


class Exchange:
    """Serves one request."""

    def __init__(self, engine: Engine, job: Job, faults: RequestFaults) -> None:
        self._engine = engine
        self._job = job
        self._faults = faults
        asked = job.asked
        self._usage = Usage(sum(map(len, asked.prompts)))
        self._cached: set[int] = set()
        self._choices = [
            Choice(
                job.form,
                index,
                engine.tokenizer,
                engine.tokenizer.decode(prompt) if asked.echo else "",
                prompt if asked.token_ids else None,
                asked.samplings[0].logprobs is not None,
                asked.tokens_as_ids,
            )
            for index, prompt in enumerate(p for p in asked.prompts for _ in range(asked.n))
        ]
        self._head: dict[str, Any] = {
            "id": f"{job.form.prefix}-{job.name}",
            "object": job.form.chunk if asked.stream else job.form.whole,
            "created": int(time.time()),
            "model": engine.limits.model,
        }

    async def serve(self, http: web.Request) -> web.StreamResponse:
        """The response; a stream is through then.

        Raises:
            Refused: the core cannot serve it, and nothing was sent yet.
        """
        asked = self._job.asked
        async with aclosing(_merged(self._answers())) as tokens:
            try:
                await self._faults.token(0, 0.0)
                if not asked.stream:
                    return await self._whole(tokens)
                # The core may refuse, as long as the status is not sent.
                first = await anext(tokens)
                return await self._stream(http, first, tokens)
            except CutOff:
                if http.transport is not None:
                    http.transport.close()
                raise
            except LoadFailed as failed:
                raise Refused(500, str(failed)) from None
            except ValueError as wrong:
                raise Refused(400, str(wrong)) from None
            except RuntimeError:
                if self._engine.core.alive:
                    raise
                raise Refused(503, "the engine is ending, or has failed") from None

    async def _whole(self, tokens: AsyncIterator[tuple[int, Token]]) -> web.Response:
        last = self._job.arrived
        async for index, token in tokens:
            self._count(index, token)
            self._choices[index].tokens.append(token)
            now = time.monotonic()
            await self._faults.token(self._usage.completion, now - last)
            last = time.monotonic()
        body = {
            **self._head,
            "choices": [choice.whole() for choice in self._choices],
            "usage": self._usage.told(),
            **self._transfers([c.tokens[-1] for c in self._choices[:: self._job.asked.n]]),
        }
        return json_reply(body)

    async def _stream(
        self,
        http: web.Request,
        first: tuple[int, Token],
        rest: AsyncIterator[tuple[int, Token]],
    ) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        )
        if REQUEST_ID in http.headers:
            response.headers[REQUEST_ID] = http.headers[REQUEST_ID]
        await response.prepare(http)
        try:
            await self._events(response, first, rest)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except (LoadFailed, ValueError) as failed:
            await response.write(_event(answers.error(500, str(failed))))
        except Exception as failed:
            _log.exception("a stream failed")
            await response.write(_event(answers.error(500, type(failed).__name__)))
        await response.write_eof()
        return response

    async def _events(
        self,
        response: web.StreamResponse,
        first: tuple[int, Token],
        rest: AsyncIterator[tuple[int, Token]],
    ) -> None:
        asked, started = self._job.asked, set[int]()
        last = self._job.arrived
        async for index, token in _from(first, rest):
            self._count(index, token)
            delta = self._choices[index].delta(token, first=index not in started)
            started.add(index)
            chunk = {**self._head, "choices": [delta]}
            if index == 0 and token.finish_reason is not None:
                chunk |= self._transfers([token])
            if asked.continuous_usage:
                chunk["usage"] = self._usage.told()
            took = time.monotonic() - last
            await response.write(_event(chunk))
            await self._faults.token(self._usage.completion, took)
            last = time.monotonic()
        if asked.include_usage:
            usage = {**self._head, "choices": [], "usage": self._usage.told()}
            await response.write(_event(usage))
        await response.write(b"data: [DONE]\n\n")

    def _count(self, index: int, token: Token) -> None:
        if token.finish_reason == "error":
            raise LoadFailed("the engine could not go on")
        self._usage.completion += 1
        prompt = index // self._job.asked.n
        if prompt not in self._cached:
            self._cached.add(prompt)
            self._usage.cached += token.cached_tokens

    def _transfers(self, last: Sequence[Token]) -> Mapping[str, Any]:
        """Of each prompt's first answer the last token."""
        held = [token.transfer for token in last]
        return wire.answer_fields(held, self._job.asked.hand_off, self._engine.here)

    def _answers(self) -> list[AsyncGenerator[Token, None]]:
        """All prompts' answers, in the order of the choices."""
        job = self._job
        streams = []
        # The core's ids have to be unlike, whatever clients call their requests.
        unique, numbers = uuid.uuid4().hex[:12], itertools.count()
        for prompt, sampling, part in zip(
            job.asked.prompts, job.asked.samplings, job.parts, strict=True
        ):
            loaded, dp_rank = asyncio.Event(), job.dp_rank
            if dp_rank is None and job.asked.n > 1 and isinstance(part, Load):
                # All of them where the KV is: prefix caches are each rank's own.
                dp_rank = crc32(unique.encode()) % self._engine.dp_size
            for answer in range(job.asked.n):
                generation = Generation(
                    f"{self._head['id']}-{unique}-{next(numbers)}",
                    prompt,
                    _seeded(sampling, answer),
                    part if answer == 0 else None,
                    dp_rank,
                )
                streams.append(self._answer(generation, loaded, isinstance(part, Load)))
        return streams

    async def _answer(
        self, generation: Generation, loaded: asyncio.Event, shared: bool
    ) -> AsyncGenerator[Token, None]:
        """The tokens of one answer.

        P's KV is fetched once: further answers wait until the first one has it, and find it in
        the prefix cache.
        """
        times = self._engine.metrics.answer(len(generation.prompt), self._job.arrived)
        following = Following(generation, self._job.name, self._job.arrived)
        reason = "abort"
        try:
            if shared and generation.transfer is None:
                await loaded.wait()
            tokens = cast(AsyncGenerator[Token, None], self._engine.core.generate(generation))
            async with aclosing(tokens):
                async for token in tokens:
                    loaded.set()
                    now = time.monotonic()
                    times.token(now, token.queued_s)
                    following.token(token, now)
                    if token.finish_reason is not None:
                        reason = token.finish_reason
                    yield token
        except Exception:
            reason = "error"
            raise
        finally:
            times.ended(reason)
            self._engine.timeline.add(following.ended(reason, time.monotonic()))


def _seeded(sampling: Sampling, answer: int) -> Sampling:
    """Each answer has a seed of its own; vLLM counts them up, too."""
    return sampling if sampling.seed is None else replace(sampling, seed=sampling.seed + answer)


def _event(told: Mapping[str, Any]) -> bytes:
    return b"data: " + encode(told) + b"\n\n"


async def _from(
    first: tuple[int, Token], rest: AsyncIterator[tuple[int, Token]]
) -> AsyncIterator[tuple[int, Token]]:
    yield first
    async for each in rest:
        yield each


async def _merged(
    streams: Sequence[AsyncGenerator[Token, None]],
) -> AsyncGenerator[tuple[int, Token], None]:
    """The tokens of all answers as they come, each with its answer's index. What is left of them
    is closed with it."""
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for token in only:
                yield 0, token
        return
    queue: asyncio.Queue[tuple[int, Token | Exception | None]] = asyncio.Queue()

    async def pump(index: int, stream: AsyncGenerator[Token, None]) -> None:
        try:
            async with aclosing(stream):
                async for token in stream:
                    queue.put_nowait((index, token))
        except Exception as error:
            queue.put_nowait((index, error))
        else:
            queue.put_nowait((index, None))

    tasks = [asyncio.ensure_future(pump(*each)) for each in enumerate(streams)]
    left = len(tasks)
    try:
        while left:
            index, got = await queue.get()
            if isinstance(got, Exception):
                raise got
            if got is None:
                left -= 1
            else:
                yield index, got
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
