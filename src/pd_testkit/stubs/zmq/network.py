"""The network of one installation: who listens where, who is connected, what is on its way.

Connections are made at once (there is no slow joiner) and messages arrive at once, unless a fault
says otherwise. Everything is under ``clock.lock``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pd_testkit.fabric.clock import VirtualClock
from pd_testkit.stubs.zmq.address import ANY_PORT, Address, parse
from pd_testkit.stubs.zmq.constants import Errno, SocketOption, SocketType
from pd_testkit.stubs.zmq.error import ZMQBindError, ZMQError
from pd_testkit.stubs.zmq.faults import Faults
from pd_testkit.stubs.zmq.pattern import COMPATIBLE, Pattern
from pd_testkit.stubs.zmq.pipe import End, Message
from pd_testkit.stubs.zmq.waiting import Waiting

FIRST_PORT = 49152
"""Where the system's choice of ports begins."""


class Link:
    """A connect: the connecter's end, and the listener's while they are connected."""

    def __init__(self, address: Address, end: End, connecter: Pattern) -> None:
        self.address = address
        self.end = end
        self.connecter = connecter
        self.bound: End | None = None
        self.listener: Pattern | None = None
        self.lingers = False
        """The connecter is closed; its pending messages wait for a listener."""


class Network:
    """``faults`` is for tests, as are `disconnect` and `reconnect`; the rest serves the sockets."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.faults = Faults()
        self.waiting = Waiting(clock)
        self._listeners: dict[Address, Pattern] = {}
        self._links: list[Link] = []
        self._cut: set[Address] = set()
        self._next_port = FIRST_PORT
        self.over = False
        """The installation has ended."""

    # -- faults on connections

    def disconnect(self, endpoint: str) -> None:
        """Cuts what is connected to ``endpoint``, and keeps it cut until `reconnect`.

        As when a TCP connection breaks: the listener forgets the peer (a ROUTER its route), the
        connecter keeps what it sends, up to SNDHWM, for the new connection.
        """
        with self.clock.lock:
            address = parse(endpoint, bind=False)
            self._cut.add(address)
            for link in self._links:
                if link.address.meets(address) and link.bound is not None:
                    self.faults.fired["disconnect"] += 1
                    self._lose(link.end)
                    self._lose(link.bound)
                    self._sever(link)
            self.waiting.changed()

    def reconnect(self, endpoint: str) -> None:
        """Ends `disconnect`: the connecters are connected again, as new peers."""
        with self.clock.lock:
            address = parse(endpoint, bind=False)
            self._cut.discard(address)
            for link in list(self._links):
                if link.address.meets(address) and self._attach(link):
                    self.faults.fired["reconnect"] += 1
            self.waiting.changed()

    # -- binding and connecting

    def bind(self, pattern: Pattern, address: Address) -> Address:
        """Listens on ``address``, a free port chosen where it names none.

        Raises:
            ZMQError: EADDRINUSE.
        """
        if address.transport == "tcp" and address.port == ANY_PORT:
            address = self._free_port(address)
        elif address.transport == "ipc" and address.host == "*":
            address = replace(address, host=f"@pd-testkit-{len(self._listeners)}")
        if any(address.meets(other) for other in self._listeners):
            raise ZMQError(Errno.EADDRINUSE)
        self._listeners[address] = pattern
        for link in list(self._links):
            self._attach(link)
        self.waiting.changed()
        return address

    def bind_in_range(self, pattern: Pattern, address: Address, ports: range) -> Address:
        """Listens on the first free port of ``ports``, not a random one: a test repeats.

        Raises:
            ZMQBindError: none is free.
        """
        for port in ports:
            candidate = replace(address, port=port)
            if not any(candidate.meets(other) for other in self._listeners):
                return self.bind(pattern, candidate)
        raise ZMQBindError("Could not bind socket to random port.")

    def unbind(self, pattern: Pattern, address: Address) -> None:
        """Listens no more; ENOENT where it did not. Only inproc connections outlive it."""
        if self._listeners.get(address) is not pattern:
            raise ZMQError(2)
        del self._listeners[address]
        for link in self._links:
            here = link.listener is pattern and link.address.meets(address)
            if here and address.transport != "inproc":
                self._sever(link)
        self.waiting.changed()

    def connect(self, pattern: Pattern, address: Address) -> None:
        link = Link(address, End(pattern, address.endpoint), pattern)
        self._links.append(link)
        if pattern.attaches_unconnected:
            pattern.attach(link.end)
        self._attach(link)
        self.waiting.changed()

    def unconnect(self, pattern: Pattern, address: Address) -> None:
        """Takes back one connect; ENOENT where there was none. Pending messages are lost."""
        for link in self._links:
            if link.connecter is pattern and link.address == address and not link.lingers:
                self._links.remove(link)
                self._sever(link)
                pattern.detach(link.end)
                self.waiting.changed()
                return
        raise ZMQError(2)

    def close(self, pattern: Pattern, linger_ms: int, gone: Callable[[], None]) -> None:
        """Takes ``pattern`` off the network; ``gone`` is called when its last message has left.

        ``linger_ms`` bounds how long messages wait for a listener that is not there (-1: for
        ever), and drops what is delayed when it is 0.
        """
        pattern.closed = True
        for address in [a for a, owner in self._listeners.items() if owner is pattern]:
            del self._listeners[address]
        waiting: list[Link] = []
        for link in list(self._links):
            if link.connecter is pattern:
                self._links.remove(link)
                if link.bound is None and link.end.pending and linger_ms != 0:
                    link.lingers = True
                    self._links.append(link)
                    waiting.append(link)
                elif link.bound is not None:
                    if linger_ms == 0:
                        self._lose(link.end)
                    self._sever(link)
            elif link.listener is pattern and link.bound is not None:
                if linger_ms == 0:
                    self._lose(link.bound)
                self._sever(link)
        self._linger(waiting, linger_ms, gone)
        for link in list(self._links):
            self._attach(link)  # a PAIR that was taken is free again
        self.waiting.changed()

    def shut_down(self) -> None:
        """The installation ends: blocked calls, and all later ones, raise ContextTerminated."""
        with self.clock.lock:
            self.over = True
            self._listeners.clear()
            self._links.clear()
            self.waiting.changed()

    def _linger(self, links: list[Link], linger_ms: int, gone: Callable[[], None]) -> None:
        """Calls ``gone`` when all of ``links`` are connected, or ``linger_ms`` is over."""

        def over() -> None:
            for link in links:
                if link in self._links:
                    self._links.remove(link)
            finish()

        def finish() -> None:
            if not any(link in self._links for link in links):
                stop()
                if timer is not None:
                    timer.cancel()
                gone()

        timer = self.clock.schedule(linger_ms / 1000, over) if links and linger_ms > 0 else None
        stop = self.waiting.watch(finish)
        finish()

    # -- connections

    def _attach(self, link: Link) -> bool:
        """Connects a link to its listener, if there is one that takes it."""
        if link.bound is not None or any(link.address.meets(cut) for cut in self._cut):
            return False
        listener = self._listener(link.address)
        if listener is None or not listener.accepts() or not _compatible(link, listener):
            return False
        link.listener = listener
        link.bound = End(listener, link.address.endpoint)
        link.end.join(link.bound)
        link.end.closed = False
        link.end.reset_credit()
        link.bound.routing_id = link.connecter.options[SocketOption.ROUTING_ID]
        link.end.routing_id = listener.options[SocketOption.ROUTING_ID]
        listener.attach(link.bound)
        if not link.connecter.attaches_unconnected and not link.lingers:
            link.connecter.attach(link.end)
        while link.end.pending:
            self._transfer(link.end, link.end.pending.popleft())
        if link.lingers:
            self._links.remove(link)
            self._sever(link)
        return True

    def _sever(self, link: Link) -> None:
        """Ends the connection of a link, if it has one; both sides can read what had arrived."""
        bound, listener = link.bound, link.listener
        if bound is None or listener is None:
            return
        link.end.peer = bound.peer = None
        link.bound = link.listener = None
        listener.detach(bound)
        link.end.reset_credit()
        if not link.connecter.attaches_unconnected or link.address.transport == "inproc":
            link.connecter.detach(link.end)

    def _listener(self, address: Address) -> Pattern | None:
        for bound, pattern in self._listeners.items():
            if bound.meets(address):
                return pattern
        return None

    # -- messages

    def deliver(self, end: End, parts: Message) -> None:
        """Sends ``parts`` from ``end`` to its peer, or keeps them until there is one."""
        end.count_write()
        if end.peer is None:
            end.pending.append(parts)
        else:
            self._transfer(end, parts)

    def _transfer(self, end: End, parts: Message) -> None:
        peer = end.peer
        fault = self.faults.claim(parts, end.endpoint)
        if peer is None or (fault is not None and fault.seconds is None):
            return
        seconds = 0.0 if fault is None or fault.seconds is None else fault.seconds
        if not seconds and not end.transit:
            self._arrive(peer, parts)
            return
        due = end.transit_due = max(end.transit_due, self.clock.now + seconds)
        end.transit.append(parts)
        peer.expecting += 1

        def land() -> None:
            if parts in end.transit:
                end.transit.remove(parts)
                peer.expecting -= 1
                self._arrive(peer, parts)

        self.clock.schedule(due - self.clock.now, land)

    def _arrive(self, end: End, parts: Message) -> None:
        if not end.owner.closed:
            end.inbox.append(parts)
            end.owner.arrived(end)
            self.waiting.changed()

    def _lose(self, end: End) -> None:
        """What ``end`` sent and is still on its way does not arrive."""
        end.transit.clear()
        if end.peer is not None:
            end.peer.expecting = 0

    def _free_port(self, address: Address) -> Address:
        while True:
            port, self._next_port = self._next_port, self._next_port + 1
            chosen = replace(address, port=port)
            if not any(chosen.meets(other) for other in self._listeners):
                return chosen


def _compatible(link: Link, listener: Pattern) -> bool:
    """Whether the two types talk; inproc does not ask, as libzmq's does not."""
    kinds: frozenset[SocketType] = COMPATIBLE[link.connecter.kind]
    return link.address.transport == "inproc" or listener.kind in kinds
