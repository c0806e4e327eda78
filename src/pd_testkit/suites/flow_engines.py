"""P and D engines behind a proxy: HTTP servers on the loopback, all served by one thread.

They say what a test's scripts say, keep what they were asked, and notice when whoever asked has
gone. P hands out blocks and D fetches them (`pd_testkit.suites.flow_ledger`), told by the
``kv_transfer_params`` of its request, or met in a room (`pd_testkit.suites.flow_rooms`). What a
proxy asks of an engine beside that, as its health and its figures, is answered and not kept.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import socket
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import pytest

from pd_testkit.contract import Instance, Role
from pd_testkit.suites.flow_connection import UNKNOWN, Connection, Received
from pd_testkit.suites.flow_ledger import Ledger
from pd_testkit.suites.flow_rooms import Rooms
from pd_testkit.suites.flow_script import (
    DONE,
    Answer,
    Gate,
    event,
    failed,
    prompt_of,
    stream,
    whole,
)

_T = TypeVar("_T")

_PROBES: Mapping[str, Answer] = {
    "/health": whole(b""),
    "/metrics": whole(b"", content_type="text/plain; version=0.0.4; charset=utf-8"),
    "/v1/models": whole({"object": "list", "data": [{"id": "m", "object": "model"}]}),
    **dict.fromkeys(
        ("/server_info", "/get_server_info", "/model_info", "/get_model_info"),
        whole({"model_path": "m", "served_model_name": "m"}),
    ),
}
"""What an engine says of itself while it lives."""

_BACKLOG = 2048
"""Connections that may wait to be accepted. Those beyond it come to life again after seconds."""

_ACCEPTING = 4
"""Turns of the loop in which a connection that was accepted is made."""

_MODEL = "m"
"""That all engines serve."""

Script = Callable[[Received], Answer]


class Engine:
    """One engine. ``script`` decides its answers; assign it before anything is asked."""

    def __init__(self, role: Role, engines: Engines, port: int = 0) -> None:
        self.role = role
        self.patience_s = engines.patience_s
        self.script: Script = prefilled if role is Role.PRODUCER else decoded
        self.requests: list[Received] = []
        """All that it set to work on, in order: a D in a room waits for P's KV first."""
        self.waited: list[Received] = []
        """D's that came to a room, in order, whether P's KV came or not."""
        self.probes = dict(_PROBES)
        """What it says of itself."""
        self.beside: list[str] = []
        """Other paths that it was asked for."""
        self._new: queue.SimpleQueue[Received] = queue.SimpleQueue()
        self._engines = engines
        self.connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._socket = _bound(port)
        self._bootstrap = _bound(0)
        self._fillers: list[socket.socket] = []
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        bootstrap: int = self._bootstrap.getsockname()[1]
        self.instance = Instance(
            role, self.url, bootstrap_port=bootstrap if role is Role.PRODUCER else None
        )
        self.instances: tuple[Instance, ...] = (self.instance,)
        """As the proxy knows it."""

    def acts_as(self, received: Received) -> Role:
        """Its part in this request: one that is P and D is told by the request itself."""
        if len(self.instances) == 1:
            return self.role
        remote = _params(received).get("do_remote_decode")
        return Role.PRODUCER if remote else Role.CONSUMER

    def next(self) -> Received:
        """The first request that was not given yet; waits for it."""
        try:
            return self._new.get(timeout=self.patience_s)
        except queue.Empty:
            raise AssertionError(f"no request came to {self.role} {self.url}") from None

    def serve(self) -> None:
        """Listen; at the same port again after `stop`."""
        self._engines.run(self._serve())

    def stop(self) -> None:
        """The engine dies: its port refuses, its connections break, its memory is gone."""
        self._engines.run(self._stop())
        self._engines.ledger.lose(self.url)

    def fall_deaf(self) -> None:
        """From now on a connection to the port is neither accepted nor refused."""
        self.stop()
        self._socket.listen(0)
        # What connects here is queued until the queue is full, which is at once.
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self._fillers.append(filler)

    def drop_idle(self) -> None:
        """Close the connections that carry no request, as a server does after a while."""
        self._engines.run(self._drop_idle())

    async def _serve(self) -> None:
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Connection(self, self._engines), sock=self._socket, backlog=_BACKLOG
        )
        if self.role is Role.PRODUCER:
            self._engines.rooms.open(self.instance)

    async def _stop(self) -> None:
        if self._server is not None:
            # A server that is closed over one that it has accepted leaves that open for good.
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            for _ in range(_ACCEPTING):
                await asyncio.sleep(0)
            self._server.close()
            if self.role is Role.PRODUCER:
                self._engines.rooms.close(self.instance)
            for connection in tuple(self.connections):
                connection.break_off()
            while self.connections:
                await asyncio.sleep(0)
            self._server = None
            self._socket = _bound(self.port)

    async def _drop_idle(self) -> None:
        idle = [connection for connection in self.connections if not connection.busy]
        for connection in idle:
            connection.break_off()
        while self.connections.intersection(idle):
            await asyncio.sleep(0)

    async def close(self) -> None:
        await self._stop()
        for each in (self._socket, self._bootstrap, *self._fillers):
            each.close()

    async def take(self, received: Received) -> Answer:
        """A request is in: what to say to it, once it is known."""
        if self._refuses(received):
            self._engines.ledger.release(_params(received))
            return UNKNOWN
        ledger, room = self._engines.ledger, self._engines.rooms.enter(self.instance, received.raw)
        received.room = room
        role = self.acts_as(received)
        if role is Role.PRODUCER:
            received.hand_off = ledger.offer(self.url, self.port)
        elif room is not None:
            self.waited.append(received)
            kv = await room.kv()
            if kv is None:
                return failed(500)
            received.hand_off = dict(kv)
        self.requests.append(received)
        self._new.put(received)
        answer = self.script(received)
        if role is Role.CONSUMER:
            params = received.hand_off or _params(received)
            if answer.fetches and params.get("do_remote_prefill"):
                ledger.fetch(params, prompt_of(received.body))
        elif room is not None and not await room.met() and answer.status == 200:
            return failed(500)
        return answer

    def _refuses(self, received: Received) -> bool:
        """D takes no request for another model, and tells P so (vllm-project/vllm#41269)."""
        remote = _params(received).get("do_remote_prefill")
        return bool(remote) and received.body.get("model") != _MODEL

    def speaks(self, received: Received, answer: Answer) -> None:
        """The answer begins: P is through with the prompt, and keeps it if it was asked to."""
        keeps = _params(received).get("do_remote_decode")
        if self.acts_as(received) is Role.PRODUCER and keeps and answer.status == 200:
            self._engines.ledger.hold(received.hand_off, prompt_of(received.body))

    def ends(self, received: Received, answer: Answer | None) -> None:
        """The request is over: P's KV goes to the D that it has met, if all went well.

        Of an abort of P's D is not told, as in SGLang.
        """
        room = received.room
        if room is None:
            return
        well = received.outcome == "answered" and answer is not None and answer.status == 200
        if self.role is Role.PRODUCER and well and room.send(received.hand_off):
            self._engines.ledger.hold(received.hand_off, prompt_of(received.body))
        told = answer is not None and answer.tells and received.outcome != "cancelled"
        if self.role is Role.CONSUMER or told:
            room.leave(self.role)


class Engines:
    """The engines of one test, and the thread that serves them. Close it.

    Args:
        patience_s: how long a test waits for what must come.
        ports: where engines of a role have to listen; any port for a role that is not in it.
    """

    def __init__(
        self, patience_s: float, ports: Mapping[Role, Sequence[int]] | None = None
    ) -> None:
        self.patience_s = patience_s
        self.ledger = Ledger(patience_s)
        self.rooms = Rooms(self.ledger)
        self._ports = {role: list(given) for role, given in (ports or {}).items()}
        self._loop = asyncio.new_event_loop()
        self._turns = itertools.count(1)
        self._numbers = itertools.count(1)
        self._all: list[Engine] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="engines")
        self._thread.start()

    def p(self, script: Script | None = None) -> Engine:
        """One more P engine, which serves."""
        return self._engine(Role.PRODUCER, script)

    def d(self, script: Script | None = None) -> Engine:
        """One more D engine, which serves."""
        return self._engine(Role.CONSUMER, script)

    def both(self) -> Engine:
        """One more engine, which is P and D at one URL."""
        engine = self._engine(Role.PRODUCER, prefilled_or_decoded)
        engine.instances = (engine.instance, Instance(Role.CONSUMER, engine.url))
        return engine

    def gate(self) -> Gate:
        """A gate for the scripts of these engines."""
        return Gate(self._loop, self.patience_s)

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """The result of a coroutine on the engines' loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(self.patience_s)

    def turn(self) -> int:
        """The next place in the order of what the engines see and say."""
        return next(self._turns)

    def number(self) -> int:
        """A number for a new connection."""
        return next(self._numbers)

    def close(self) -> None:
        try:
            for engine in self._all:
                self.run(engine.close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _engine(self, role: Role, script: Script | None) -> Engine:
        port = 0
        if role in self._ports:
            if not self._ports[role]:
                pytest.skip(f"not applicable: the proxy knows no further {role} engine")
            port = self._ports[role].pop(0)
        try:
            engine = Engine(role, self, port)
        except OSError as error:
            raise pytest.UsageError(
                f"no engine can listen on 127.0.0.1:{port}, where the router expects one: "
                f"{error.strerror}; free the port"
            ) from None
        engine.script = script or engine.script
        engine.serve()
        self._all.append(engine)
        return engine


def prefilled(received: Received) -> Answer:
    """P's success: one token, and where the prompt's KV lies."""
    choice = {"index": 0, "text": "P", "finish_reason": "length"}
    if received.room is not None and received.body.get("stream"):
        return stream(event("P"), DONE)
    return whole({"choices": [choice], "kv_transfer_params": received.hand_off})


def decoded(received: Received) -> Answer:
    """D's success: the prompt, said again."""
    prompt = prompt_of(received.body)
    if received.body.get("stream"):
        return stream(event(prompt), DONE)
    return whole({"choices": [{"index": 0, "text": prompt, "finish_reason": "stop"}]})


def prefilled_or_decoded(received: Received) -> Answer:
    """Success of an engine that is P and D."""
    prefills = received.engine.acts_as(received) is Role.PRODUCER
    return prefilled(received) if prefills else decoded(received)


def _params(received: Received) -> dict[str, Any]:
    params: dict[str, Any] = received.body.get("kv_transfer_params") or {}
    return params


def _bound(port: int) -> socket.socket:
    """A socket that has the port, and refuses connections until it listens."""
    # asyncio sends without delay on sockets that say that they are TCP's.
    bound = socket.socket(proto=socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(("127.0.0.1", port))
    except OSError:
        bound.close()
        raise
    return bound
