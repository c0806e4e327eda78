"""The engine's core: answers requests, step by step, on a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import queue
import threading
import time
import uuid
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from pd_testkit.engine import side_channels
from pd_testkit.engine.connector import Connector, TransferFaults
from pd_testkit.engine.counts import Stats, Transferred, total
from pd_testkit.engine.generation import Generation, Hold, Load, Token, TooLong
from pd_testkit.engine.model import Model
from pd_testkit.engine.progress import Progress, answer_limit
from pd_testkit.engine.rank import Rank, RankTransport
from pd_testkit.engine.replica import Delivery, Pace, Replica
from pd_testkit.engine.settings import Settings
from pd_testkit.engine.timeline import Events
from pd_testkit.engine.tokenizer import Tokenizer
from pd_testkit.engine.transports import open_transport
from pd_testkit.proxy.timeline import Timeline
from pd_testkit.reference.ports import dp_rank_of
from pd_testkit.reference.scheduler_side import Endpoint

_ASK_S = 0.0005
"""Between two looks at transfers whose transport does not say when they end."""
_REMEMBERED = 65536
"""Loads that `EngineCore.transfers` has not been asked for."""

_log = logging.getLogger(__name__)

OpenTransport = Callable[[str, Callable[[], None]], RankTransport]
"""By the worker's name, and what to call when a transfer has ended or a notification has come."""


class Stopped(RuntimeError):
    """The engine does not run, or ended under a request."""


class _Answer:
    """One consumer of tokens, in its event loop."""

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self.replica: Replica | None = None
        self.progress: Progress | None = None
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[Token | Exception] = asyncio.Queue()


class EngineCore:
    """A `generation.Core`.

    Args:
        transport: opens one for each worker; None: of ``settings.transport``.
        polls: the transports do not wake when transfers end: they have to be asked.
        engine_id: of this life; None: a random one.
        pace: how long steps and loads take at least.
        transfer_faults: what is to happen to loads.
        clock: seconds.

    Attributes:
        timeline: gets what this engine held for a D.
    """

    def __init__(
        self,
        settings: Settings,
        model: Model,
        tokenizer: Tokenizer,
        *,
        transport: OpenTransport | None = None,
        polls: bool = False,
        engine_id: str | None = None,
        pace: Pace | None = None,
        transfer_faults: TransferFaults | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine_id = engine_id or uuid.uuid4().hex
        self._settings = settings
        self._model = model
        self._tokenizer = tokenizer
        self._open = transport or self._transport
        self._polls = polls
        self._pace = pace
        self._faults = transfer_faults
        self._clock = clock
        self._awake = threading.Event()
        self._lock = threading.Lock()
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.timeline: Events = Timeline()
        self._answers: dict[Progress, _Answer] = {}
        self._moved: deque[Transferred] = deque(maxlen=_REMEMBERED)
        self._stats: Sequence[Stats] = ()
        self._replicas: list[Replica] = []
        self._ranks: list[Rank] = []
        self._thread: threading.Thread | None = None
        self._alive = False
        self._error: Exception | None = None
        self._closing = False

    def start(self) -> None:
        """Open the side channels, and begin.

        Raises:
            OSError: a port is taken, or memory is short.
        """
        try:
            self._replicas = list(self._start_replicas())
        except BaseException:
            self._give_back()
            raise
        self._stats = [replica.stats() for replica in self._replicas]
        self._alive = True
        self._thread = threading.Thread(target=self._run, name=f"engine {self.engine_id[:8]}")
        self._thread.start()

    def close(self) -> None:
        """End all answers, and give all back. Harmless twice."""
        self._closing = True
        self.wake()
        if self._thread is not None:
            self._thread.join()
        self._give_back()

    def wake(self) -> None:
        """Something has happened that the core may have to act on. On any thread."""
        self._awake.set()

    @property
    def alive(self) -> bool:
        """It can serve: started, not closed, and its steps go on."""
        return self._alive and not self._closing

    @property
    def side_channel(self) -> tuple[str, int]:
        """Host and port of DP rank 0's TP rank 0; the others follow."""
        return self._ranks[0].worker.address

    async def generate(self, generation: Generation) -> AsyncIterator[Token]:
        """The answer's tokens as they come. Closing the iterator aborts the request.

        Raises:
            TooLong: prompt and answer do not fit.
            ValueError: the hand-off makes no sense, or the request id is in use.
            LoadFailed: where failed loads are not computed again.
            Stopped: the engine does not run, or no longer.
        """
        answer = _Answer(generation)
        self._command(lambda: self._add(answer))
        ended = False
        try:
            while not ended:
                token = await answer.queue.get()
                ended = isinstance(token, Exception) or token.finish_reason is not None
                if isinstance(token, Exception):
                    raise token
                yield token
        finally:
            if not ended and self._alive:
                self._command(lambda: self._abort(answer))

    def release(self, load: Load) -> None:
        """Have P free what it holds: the request was refused before the core was asked."""
        self._command(lambda: self._release(load))

    def fail(self, part: str, bug: BaseException) -> None:
        """A thread of the engine's has died: end all answers with that. On any thread."""

        def end() -> None:
            if self._error is None:
                raise RuntimeError(f"{part} has died: {type(bug).__name__}: {bug}") from bug

        with contextlib.suppress(Stopped):
            self._command(end)

    def stats(self) -> Stats:
        """As of the last step."""
        return total(self._stats)

    def ranks(self) -> Sequence[Stats]:
        """The same of each data-parallel rank."""
        return self._stats

    def transfers(self) -> Sequence[Transferred]:
        """Loads that ended well since the last call, in the order of their ends."""
        return [self._moved.popleft() for _ in range(len(self._moved))]

    # -- on the core's thread

    def _run(self) -> None:
        error: Exception = Stopped("the engine was closed")
        try:
            while not self._closing:
                self._turn()
        except Exception as bug:
            _log.exception("the engine's loop has ended")
            error = Stopped(f"the engine has failed: {type(bug).__name__}: {bug}")
        with self._lock:
            self._alive = False
            self._error = error
        for replica in self._replicas:
            self._send(replica.flush())
        # No replica knows of all that are left: one may have been ending as the error came.
        self._put([(answer, error) for answer in self._answers.values()])
        self._answers.clear()
        while not self._commands.empty():  # who has just come
            self._commands.get()()

    def _turn(self) -> None:
        self._awake.clear()
        while not self._commands.empty():
            self._commands.get()()
        more = False
        for replica in self._replicas:
            self._send(replica.deliver())
            more |= replica.advance()
        self._stats = [replica.stats() for replica in self._replicas]
        for replica in self._replicas:
            self._send(replica.deliver())
        if not more:
            self._awake.wait(self._idle_s())

    def _idle_s(self) -> float | None:
        """For which nothing has to be done if nobody wakes; None: for ever."""
        if self._polls and any(replica.connector.silent for replica in self._replicas):
            return _ASK_S
        deadlines = (replica.deadline for replica in self._replicas)
        first = min((at for at in deadlines if at is not None), default=None)
        return None if first is None or first == float("inf") else max(0.0, first - self._clock())

    def _add(self, answer: _Answer) -> None:
        generation = answer.generation
        if self._error is not None:
            self._put([(answer, self._error)])
            return
        try:
            replica = self._replica(generation)
            answer.progress = replica.add(generation)
        except ValueError as error:
            self._put([(answer, error)])
            if isinstance(generation.transfer, Load):
                self._replicas[0].release(generation.transfer)
            return
        except Exception as bug:
            self._put([(answer, bug)])
            raise
        answer.replica = replica
        self._answers[answer.progress] = answer

    def _release(self, load: Load) -> None:
        if self._error is None:
            self._replicas[0].release(load)

    def _replica(self, generation: Generation) -> Replica:
        """The data-parallel rank for a request.

        Raises:
            TooLong: it does not fit into the model's context.
            ValueError: its id is in use, or there is no such rank.
        """
        request_id, prompt = generation.request_id, len(generation.prompt)
        answer, most = answer_limit(generation), self._model.shape.max_tokens
        if not prompt or answer < 1:
            raise ValueError(f"request {request_id!r} has no prompt or nothing to generate")
        if prompt + answer > most:
            raise TooLong(f"{prompt} tokens and {answer} of the answer exceed {most}")
        if any(request_id in replica for replica in self._replicas):
            raise ValueError(f"request id {request_id!r} is in use")
        part, role = generation.transfer, self._settings.role
        if (isinstance(part, Hold) and role == "decode") or (
            isinstance(part, Load) and role == "prefill"
        ):
            raise ValueError(f"a {role} engine has no part in a {type(part).__name__.lower()}")
        if generation.dp_rank is None and isinstance(part, Hold) and part.transfer_id is not None:
            return self._replicas[dp_rank_of(part.transfer_id, len(self._replicas))]
        if generation.dp_rank is None:
            return min(self._replicas, key=len)
        if not 0 <= generation.dp_rank < len(self._replicas):
            raise ValueError(f"no DP rank {generation.dp_rank} of {len(self._replicas)}")
        return self._replicas[generation.dp_rank]

    def _abort(self, answer: _Answer) -> None:
        progress, replica = answer.progress, answer.replica
        if progress is not None and replica is not None and self._error is None:
            self._answers.pop(progress, None)
            replica.abort(progress)

    def _send(self, deliveries: Sequence[Delivery]) -> None:
        items = []
        for progress, item in deliveries:
            answer = self._answers.get(progress)
            if answer is None:
                continue  # its consumer is gone
            items.append((answer, item))
            if isinstance(item, Exception) or item.finish_reason is not None:
                del self._answers[progress]
        self._put(items)

    def _put(self, items: Sequence[tuple[_Answer, Token | Exception]]) -> None:
        by_loop = defaultdict(list)
        for answer, item in items:
            by_loop[answer.loop].append((answer, item))
        for loop, of_loop in by_loop.items():
            try:
                loop.call_soon_threadsafe(_put_all, of_loop)
            except RuntimeError:  # the loop is closed, and so is who waited
                for answer, _ in of_loop:
                    self._abort(answer)

    # -- parts

    def _command(self, command: Callable[[], None]) -> None:
        with self._lock:
            if not self.alive:
                raise Stopped(str(self._error or "the engine does not run"))
            self._commands.put(command)
        self.wake()

    def _transport(self, name: str, wake: Callable[[], None]) -> RankTransport:
        settings = self._settings
        return open_transport(
            settings.transport,
            name,
            host=settings.host,
            patience_s=settings.transfer_s,
            clock=self._clock,
            wake=wake,
        )

    def _start_replicas(self) -> Iterator[Replica]:
        settings = self._settings
        for dp_rank in range(settings.dp_size):
            for tp_rank in range(settings.tp_size):
                name = f"{self.engine_id}.dp{dp_rank}.tp{tp_rank}"
                transport = self._open(name, self.wake)
                self._ranks.append(Rank(settings, self._model.shape, tp_rank, transport))
        connectors = [self._connector(dp_rank) for dp_rank in range(settings.dp_size)]
        host, port = settings.host, self._listen(connectors)
        for dp_rank, connector in enumerate(connectors):
            endpoint = Endpoint(
                self.engine_id,
                host,
                port,
                port,
                tp_size=settings.tp_size,
                dp_size=settings.dp_size,
                dp_rank=dp_rank,
            )
            yield Replica(
                settings,
                self._model,
                self._tokenizer,
                self._ranks_of(dp_rank),
                endpoint,
                connector,
                clock=self._clock,
                pace=self._pace,
                moved=self._moved.append,
                freed=self.timeline.add,
            )

    def _ranks_of(self, dp_rank: int) -> Sequence[Rank]:
        size = self._settings.tp_size
        return self._ranks[dp_rank * size : (dp_rank + 1) * size]

    def _connector(self, dp_rank: int) -> Connector:
        return Connector(
            self._ranks_of(dp_rank),
            dp_rank=dp_rank,
            clock=self._clock,
            faults=self._faults,
            load_s=self._pace.load if self._pace else None,
        )

    def _listen(self, connectors: Sequence[Connector]) -> int:
        size = self._settings.tp_size

        def open_one(index: int, port: int) -> int:
            dp_rank, tp_rank = divmod(index, size)
            return self._ranks[index].listen(
                port,
                self.engine_id,
                clock=self._clock,
                wake=self.wake,
                arrived=functools.partial(connectors[dp_rank].arrived, tp_rank),
            )

        base = self._settings.side_channel_port
        return side_channels.listen(self._ranks, base, size, open_one, self.engine_id)

    def _give_back(self) -> None:
        for rank in self._ranks:
            rank.close()
        self._ranks = []


def _put_all(items: Sequence[tuple[_Answer, Token | Exception]]) -> None:
    for answer, item in items:
        answer.queue.put_nowait(item)
