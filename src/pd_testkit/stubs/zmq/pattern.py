"""What each socket type does with messages: who gets one, whose comes next, what is refused.

No I/O, clock or thread. Every call is made under the network's lock. ``deliver(end, parts)`` is
the network's.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from pd_testkit.stubs.zmq.constants import DEFAULTS, Errno, SocketOption, SocketType
from pd_testkit.stubs.zmq.error import ZMQError
from pd_testkit.stubs.zmq.pipe import End, FairQueue, LoadBalancer, Message

Deliver = Callable[[End, Message], None]
Commit = Callable[[Message], None]

# Which types a ZMTP handshake accepts (RFC 23).
COMPATIBLE: dict[SocketType, frozenset[SocketType]] = {
    SocketType.PAIR: frozenset({SocketType.PAIR}),
    SocketType.PUB: frozenset({SocketType.SUB}),
    SocketType.SUB: frozenset({SocketType.PUB}),
    SocketType.REQ: frozenset({SocketType.REP, SocketType.ROUTER}),
    SocketType.REP: frozenset({SocketType.REQ, SocketType.DEALER}),
    SocketType.DEALER: frozenset({SocketType.REP, SocketType.DEALER, SocketType.ROUTER}),
    SocketType.ROUTER: frozenset({SocketType.REQ, SocketType.DEALER, SocketType.ROUTER}),
    SocketType.PULL: frozenset({SocketType.PUSH}),
    SocketType.PUSH: frozenset({SocketType.PULL}),
}


class Pattern:
    """The part that all types share: fair-queued input, load-balanced output."""

    sends = True
    receives = True

    def __init__(self, kind: SocketType, deliver: Deliver) -> None:
        self.kind = kind
        self.options: dict[SocketOption, Any] = dict(DEFAULTS)
        self.closed = False
        self._deliver = deliver
        self._in = FairQueue()
        self._out = LoadBalancer()

    @property
    def sndhwm(self) -> int:
        return int(self.options[SocketOption.SNDHWM])

    @property
    def rcvhwm(self) -> int:
        return int(self.options[SocketOption.RCVHWM])

    @property
    def attaches_unconnected(self) -> bool:
        """Whether an end is used before it has a peer, as all but ROUTER do."""
        return True

    def accepts(self) -> bool:
        return True

    def attach(self, end: End) -> None:
        self._in.add(end)
        self._out.add(end)

    def detach(self, end: End) -> None:
        """``end`` takes no more messages; what lies in its inbox can still be read."""
        end.closed = True
        self._out.remove(end)
        if end.drained:
            self._in.remove(end)

    def arrived(self, end: End) -> None:
        self._in.wake(end)

    def readable(self) -> bool:
        return self.receives and self._in.peek() is not None

    def receive(self) -> Message:
        """The next message, when `readable`."""
        return self._take()[1]

    def writable(self) -> bool:
        return self.sends and self._out.choose() is not None

    def admit(self, first: bytes, more: bool) -> Commit | None:
        """Where a message that begins with ``first`` goes; None when it must wait.

        Raises:
            ZMQError: the type or its state does not allow it.
        """
        end = self._out.choose()
        if end is None:
            return None

        def commit(parts: Message) -> None:
            self._deliver(end, parts)
            self._out.advance()

        return commit

    def check_receive(self) -> None:
        """Raises ZMQError where the type or its state does not allow to receive."""
        if not self.receives:
            raise ZMQError(Errno.ENOTSUP)

    def _take(self) -> tuple[End, Message]:
        taken = self._in.take()
        if taken is None:
            raise ZMQError(Errno.EAGAIN)
        end, message = taken
        if end.drained:
            self._in.remove(end)
        return end, message


class Dealer(Pattern):
    pass


class Push(Pattern):
    receives = False


class Pull(Pattern):
    sends = False

    def admit(self, first: bytes, more: bool) -> Commit | None:
        raise ZMQError(Errno.ENOTSUP)


class Pair(Pattern):
    """One peer at a time."""

    def __init__(self, kind: SocketType, deliver: Deliver) -> None:
        super().__init__(kind, deliver)
        self._ends: list[End] = []

    def accepts(self) -> bool:
        return not self._ends

    def attach(self, end: End) -> None:
        self._ends.append(end)
        super().attach(end)

    def detach(self, end: End) -> None:
        if end in self._ends:
            self._ends.remove(end)
        super().detach(end)


class Pub(Pattern):
    """Copies to every peer that subscribed; a full peer loses the message."""

    receives = False

    def __init__(self, kind: SocketType, deliver: Deliver) -> None:
        super().__init__(kind, deliver)
        self._ends: list[End] = []

    def attach(self, end: End) -> None:
        self._ends.append(end)

    def detach(self, end: End) -> None:
        end.closed = True
        if end in self._ends:
            self._ends.remove(end)

    def writable(self) -> bool:
        return True

    def admit(self, first: bytes, more: bool) -> Commit | None:
        def commit(parts: Message) -> None:
            for end in list(self._ends):
                peer = end.peer
                if peer is not None and _wants(peer.owner, parts[0]) and end.writable:
                    self._deliver(end, parts)

        return commit


class Sub(Pattern):
    sends = False

    def __init__(self, kind: SocketType, deliver: Deliver) -> None:
        super().__init__(kind, deliver)
        self._prefixes: list[bytes] = []

    def subscribe(self, prefix: bytes) -> None:
        self._prefixes.append(prefix)

    def unsubscribe(self, prefix: bytes) -> None:
        """Takes back one subscription; EINVAL where there is none, as libzmq."""
        if prefix not in self._prefixes:
            raise ZMQError(Errno.EINVAL)
        self._prefixes.remove(prefix)

    def wants(self, topic: bytes) -> bool:
        return any(topic.startswith(prefix) for prefix in self._prefixes)

    def admit(self, first: bytes, more: bool) -> Commit | None:
        raise ZMQError(Errno.ENOTSUP)

    def readable(self) -> bool:
        while (end := self._in.peek()) is not None:
            if self.wants(end.inbox[0][0]):
                return True
            self._take()  # unsubscribed since it was sent
        return False


def _wants(owner: Pattern, topic: bytes) -> bool:
    return isinstance(owner, Sub) and owner.wants(topic)


class Router(Pattern):
    """Addresses peers by their routing ids, which it puts before each message."""

    def __init__(self, kind: SocketType, deliver: Deliver) -> None:
        super().__init__(kind, deliver)
        self._routes: dict[bytes, End] = {}
        self._automatic = count(1)

    @property
    def attaches_unconnected(self) -> bool:
        return False

    def attach(self, end: End) -> None:
        """A second peer of one routing id is ignored, or with ROUTER_HANDOVER takes its place."""
        if not end.routing_id:
            # libzmq starts at a random number; a test should not.
            end.routing_id = b"\x00" + next(self._automatic).to_bytes(4, "big")
        older = self._routes.get(end.routing_id)
        if older is not None:
            if not self.options[SocketOption.ROUTER_HANDOVER]:
                return
            self.detach(older)
        self._routes[end.routing_id] = end
        self._in.add(end)

    def detach(self, end: End) -> None:
        super().detach(end)
        if self._routes.get(end.routing_id) is end:
            del self._routes[end.routing_id]

    def receive(self) -> Message:
        end, message = self._take()
        return [end.routing_id, *message]

    def writable(self) -> bool:
        return True

    def admit(self, first: bytes, more: bool) -> Commit | None:
        if not more:
            return _drop
        end = self._routes.get(first)
        mandatory = bool(self.options[SocketOption.ROUTER_MANDATORY])
        if end is None:
            if mandatory:
                raise ZMQError(Errno.EHOSTUNREACH)
            return _drop
        if not end.writable:
            return None if mandatory else _drop
        return lambda parts: self._deliver(end, parts[1:])


def _drop(parts: Message) -> None:
    """The message has no destination."""


class Req(Pattern):
    """Sends a request, then receives its reply, in turn (EFSM otherwise)."""

    def __init__(self, kind: SocketType, deliver: Deliver) -> None:
        super().__init__(kind, deliver)
        self._asked: End | None = None

    def admit(self, first: bytes, more: bool) -> Commit | None:
        if self._asked is not None:
            raise ZMQError(Errno.EFSM)
        end = self._out.choose()
        if end is None:
            return None

        def commit(parts: Message) -> None:
            self._deliver(end, [b"", *parts])
            self._out.advance()
            self._asked = end

        return commit

    def writable(self) -> bool:
        return self._asked is None and super().writable()

    def check_receive(self) -> None:
        if self._asked is None:
            raise ZMQError(Errno.EFSM)

    def readable(self) -> bool:
        if self._asked is None:
            return False
        while (end := self._in.peek()) is not None:
            head = end.inbox[0]
            if end is self._asked and len(head) > 1 and head[0] == b"":
                return True
            self._take()  # not a reply to what was asked
        return False

    def receive(self) -> Message:
        _, message = self._take()
        self._asked = None
        return message[1:]


class Rep(Pattern):
    """Receives a request, then sends its reply, in turn (EFSM otherwise)."""

    def __init__(self, kind: SocketType, deliver: Deliver) -> None:
        super().__init__(kind, deliver)
        self._asker: tuple[End, Message] | None = None

    def admit(self, first: bytes, more: bool) -> Commit | None:
        if self._asker is None:
            raise ZMQError(Errno.EFSM)
        end, envelope = self._asker

        def commit(parts: Message) -> None:
            self._asker = None
            if end.writable and end.peer is not None:
                self._deliver(end, [*envelope, *parts])

        return commit

    def writable(self) -> bool:
        return self._asker is not None

    def check_receive(self) -> None:
        if self._asker is not None:
            raise ZMQError(Errno.EFSM)

    def readable(self) -> bool:
        if self._asker is not None:
            return False
        while (end := self._in.peek()) is not None:
            if b"" in end.inbox[0][:-1]:
                return True
            self._take()  # no envelope: not a request
        return False

    def receive(self) -> Message:
        end, message = self._take()
        body = message.index(b"") + 1
        self._asker = (end, message[:body])
        return message[body:]


_PATTERNS: dict[SocketType, type[Pattern]] = {
    SocketType.PAIR: Pair,
    SocketType.PUB: Pub,
    SocketType.SUB: Sub,
    SocketType.REQ: Req,
    SocketType.REP: Rep,
    SocketType.DEALER: Dealer,
    SocketType.ROUTER: Router,
    SocketType.PULL: Pull,
    SocketType.PUSH: Push,
}


def pattern(kind: int, deliver: Deliver) -> Pattern:
    """The pattern of a socket type; EINVAL for one that is not simulated."""
    try:
        found = _PATTERNS[SocketType(kind)]
    except (ValueError, KeyError):
        raise ZMQError(
            Errno.EINVAL, f"pd-testkit's zmq does not simulate socket type {kind!r}"
        ) from None
    return found(SocketType(kind), deliver)
