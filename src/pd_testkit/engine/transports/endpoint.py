"""One thread that answers a transport's peers, and asks them, over ZMQ."""

from __future__ import annotations

import itertools
import logging
import queue
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import zmq

from pd_testkit.engine.transports.jobs import Ask, Frames, Job
from pd_testkit.engine.transports.protocol import MAX_MESSAGE, Malformed, decode_answer
from pd_testkit.fabric import Status
from pd_testkit.reference.paths import zmq_path

WINDOW = 4
"""Requests that a peer has to answer at a time: enough to keep both sides busy."""
_QUEUED = 256
"""Messages that wait for one peer; a peer that does not take its answers loses those beyond."""
_LOST = (
    zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)

_log = logging.getLogger(__name__)


@dataclass
class _Peer:
    where: str
    socket: Any
    monitor: Any
    jobs: deque[Job] = field(default_factory=deque)
    due: dict[int, tuple[Job, Ask]] = field(default_factory=dict)
    heard: float = 0.0
    """When it answered last, or began to have something to answer."""


def open_on(
    host: str,
    answer: Callable[[Sequence[Any]], Frames],
    *,
    patience_s: float,
    clock: Callable[[], float],
) -> tuple[Endpoint, str]:
    """An endpoint over TCP at any port of a host, and where peers find it: ZMQ itself tells of an
    IPv4 address as an IPv6 one.

    Raises:
        OSError: nothing can be bound to there.
    """
    address = str(socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0][4][0])
    endpoint = Endpoint(zmq_path("tcp", address, 0), answer, patience_s=patience_s, clock=clock)
    return endpoint, zmq_path("tcp", address, int(endpoint.address.rpartition(":")[2]))


class Endpoint:
    """Listens at one address, and holds a connection to each peer that it asks.

    A transfer fails when its peer's end of the connection is gone, or when the peer has been
    silent for ``patience_s`` while something was due; otherwise it ends when nothing of it is
    under way any more.

    Args:
        address: ZMQ's, to bind to.
        answer: gives the answer to a request; none: an empty list. Called on the thread.
        clock: seconds.

    Raises:
        OSError: the address cannot be bound to.
    """

    def __init__(
        self,
        address: str,
        answer: Callable[[Sequence[Any]], Frames],
        *,
        patience_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._answer = answer
        self._patience_s = patience_s
        self._clock = clock
        self._numbers = itertools.count(1)
        self._peers: dict[str, _Peer] = {}
        self._submitted: queue.SimpleQueue[tuple[str, Job] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._context = zmq.Context()
        self._asked = self._context.socket(zmq.ROUTER)
        self._asked.set(zmq.LINGER, 0)
        self._asked.set(zmq.IPV6, 1)
        self._asked.set(zmq.MAXMSGSIZE, MAX_MESSAGE)
        self._asked.set(zmq.SNDHWM, _QUEUED)
        self._asked.set(zmq.RCVHWM, _QUEUED)
        try:
            self._asked.bind(address)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise OSError(error.errno, f"{address}: {error.strerror}") from error
        self.address = self._asked.get_string(zmq.LAST_ENDPOINT)
        self._bell = self._context.socket(zmq.PAIR)
        self._bell.set(zmq.SNDHWM, 0)
        self._bell.bind("inproc://bell")
        self._rung = self._context.socket(zmq.PAIR)
        self._rung.connect("inproc://bell")
        self._poller = zmq.Poller()
        self._poller.register(self._asked, zmq.POLLIN)
        self._poller.register(self._rung, zmq.POLLIN)
        self._thread = threading.Thread(target=self._run, name=f"transport:{self.address}")
        self._thread.start()

    def submit(self, where: str, job: Job) -> None:
        """Set a job going with the peer whose endpoint is there; on any thread."""
        if not self._send((where, job)):
            job.transfer.end(Status.BAD_STATE, "the transport is closed")

    def close(self) -> None:
        """What is under way fails; returns when the thread is gone. Harmless twice."""
        if self._send(None):
            self._thread.join()
            while not self._submitted.empty():
                item = self._submitted.get()
                if item is not None:
                    item[1].transfer.end(Status.BAD_STATE, "the transport is closed")
            self._context.destroy(linger=0)

    def _send(self, item: tuple[str, Job] | None) -> bool:
        with self._lock:
            if self._closed:
                return False
            self._closed = item is None
            self._submitted.put(item)
            self._bell.send(b"")
            return True

    # -- on the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            ready = dict(self._poller.poll(self._timeout_ms()))
            if self._rung in ready:
                self._rung.recv()
                item = self._submitted.get()
                if item is None:
                    break
                self._begin(*item)
            if self._asked in ready:
                self._serve()
            for peer in list(self._peers.values()):
                if peer.socket in ready:
                    self._hear(peer)
                elif peer.monitor in ready:
                    self._lose(peer, "the connection is gone")
                elif peer.due and self._clock() - peer.heard > self._patience_s:
                    self._lose(peer, f"no answer in {self._patience_s} s")
        for peer in list(self._peers.values()):
            self._drop(peer, Status.BAD_STATE, "the transport is closed")

    def _timeout_ms(self) -> int | None:
        heard = [peer.heard for peer in self._peers.values() if peer.due]
        if not heard:
            return None
        return max(0, round(1000 * (min(heard) + self._patience_s - self._clock()))) + 1

    def _serve(self) -> None:
        peer, *frames = self._asked.recv_multipart(copy=False)
        try:
            answer = self._answer([frame.buffer for frame in frames])
        except Exception:  # one peer's request must not end the others' service
            _log.exception("a request could not be served")
            return
        if answer:
            self._asked.send_multipart([peer, *answer])

    def _begin(self, where: str, job: Job) -> None:
        peer = self._peers.get(where)
        if peer is None:
            try:
                peer = self._peers[where] = self._connect(where)
            except zmq.ZMQError as error:
                job.transfer.end(Status.RDMA_ERROR, f"{where}: {error.strerror}")
                return
        peer.jobs.append(job)
        self._ask(peer)

    def _connect(self, where: str) -> _Peer:
        connection = self._context.socket(zmq.DEALER)
        connection.set(zmq.LINGER, 0)
        connection.set(zmq.IPV6, 1)
        connection.set(zmq.MAXMSGSIZE, MAX_MESSAGE)
        monitor = connection.get_monitor_socket(_LOST)
        try:
            connection.connect(where)
        except zmq.ZMQError:
            _shut(connection, monitor)
            raise
        self._poller.register(connection, zmq.POLLIN)
        self._poller.register(monitor, zmq.POLLIN)
        return _Peer(where, connection, monitor)

    def _ask(self, peer: _Peer) -> None:
        """As much as it may have to answer; and end the jobs of which nothing is left."""
        for job in list(peer.jobs):
            while len(peer.due) < WINDOW:
                ask = job.next()
                if ask is None:
                    break
                if not peer.due:
                    peer.heard = self._clock()
                number = next(self._numbers)
                try:
                    frames = ask.frames(number)
                except LookupError as error:
                    job.failure = Status.NOT_FOUND, str(error)
                    break
                peer.due[number] = job, ask
                job.due += 1
                peer.socket.send_multipart(frames)
            if len(peer.due) >= WINDOW:
                return
            if job.due == 0:
                peer.jobs.remove(job)
                job.transfer.end(*(job.failure or (Status.SUCCESS, "")))

    def _hear(self, peer: _Peer) -> None:
        header, *frames = (frame.buffer for frame in peer.socket.recv_multipart(copy=False))
        peer.heard = self._clock()
        try:
            number, status, message = decode_answer(header)
        except Malformed as error:
            self._lose(peer, str(error))
            return
        if number not in peer.due:
            return
        job, ask = peer.due.pop(number)
        job.due -= 1
        if status is not Status.SUCCESS:
            job.failure = job.failure or (status, message)
        elif ask.take is not None and job.failure is None:
            try:
                ask.take(frames)
            except (LookupError, ValueError) as error:
                job.failure = Status.RDMA_ERROR, str(error)
        self._ask(peer)

    def _lose(self, peer: _Peer, why: str) -> None:
        self._drop(peer, Status.RDMA_ERROR, f"{peer.where}: {why}")

    def _drop(self, peer: _Peer, status: Status, why: str) -> None:
        if self._peers.pop(peer.where, None) is None:
            return
        self._poller.unregister(peer.socket)
        self._poller.unregister(peer.monitor)
        _shut(peer.socket, peer.monitor)
        for job in peer.jobs:
            job.transfer.end(*(job.failure or (status, why)))


def _shut(connection: Any, monitor: Any) -> None:
    connection.disable_monitor()
    monitor.close(linger=0)
    connection.close(linger=0)
