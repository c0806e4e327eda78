"""``zmq.Socket``: pyzmq's calls over a `Pattern` and the `Network`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pd_testkit.stubs.zmq.address import Address, parse
from pd_testkit.stubs.zmq.constants import (
    COPY_THRESHOLD,
    DEFAULTS,
    ROUTER_ONLY,
    Errno,
    Flag,
    PollEvent,
    SocketOption,
    SocketType,
)
from pd_testkit.stubs.zmq.conversions import Conversions
from pd_testkit.stubs.zmq.error import Again, ContextTerminated, ZMQError
from pd_testkit.stubs.zmq.message import Frame, MessageTracker, to_bytes
from pd_testkit.stubs.zmq.options import AttributeSetter
from pd_testkit.stubs.zmq.pattern import Commit, Sub, pattern
from pd_testkit.stubs.zmq.pipe import Message

if TYPE_CHECKING:
    from pd_testkit.stubs.zmq.context import Context

S = TypeVar("S", bound="Socket")


class SocketContext(Generic[S]):
    """What `bind` and `connect` return: as a ``with`` block it takes the address back."""

    def __init__(self, socket: S, undo: Callable[[str], None], addr: str) -> None:
        self.socket = socket
        self._undo = undo
        self.addr = addr

    def __enter__(self) -> S:
        return self.socket

    def __exit__(self, *exc_info: object) -> None:
        if not self.socket.closed:
            self._undo(self.addr)


class Socket(Conversions, AttributeSetter):
    """A socket. As libzmq's it belongs to one thread at a time; the stub does not check that."""

    _plain = frozenset(
        {"context", "type", "copy_threshold"}
        | {"_network", "_pattern", "_unread", "_parts", "_commit", "_last_endpoint"}
    )

    def __init__(
        self,
        ctx_or_socket: Context,
        socket_type: int = 0,
        *,
        copy_threshold: int | None = None,
    ) -> None:
        self.context = ctx_or_socket
        self.copy_threshold = COPY_THRESHOLD if copy_threshold is None else copy_threshold
        self._network = ctx_or_socket._network
        self._pattern = pattern(socket_type, self._network.deliver)
        self.type = SocketType(socket_type)
        self._unread: Message = []
        self._parts: Message = []
        self._commit: Commit | None = None
        self._last_endpoint = b""

    def __enter__(self: S) -> S:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        closed = " closed" if self.closed else ""
        return f"<zmq.Socket(zmq.{self.type.name}) at {hex(id(self))}{closed}>"

    @property
    def closed(self) -> bool:
        return self._pattern.closed

    def close(self, linger: int | None = None) -> None:
        """Closes; unsent messages wait for LINGER, here on the clock."""
        with self._network.clock.lock:
            if self.closed:
                return
            if linger is not None:
                self._pattern.options[SocketOption.LINGER] = linger
            self.context._closing(self)
            self._network.close(
                self._pattern,
                self._pattern.options[SocketOption.LINGER],
                self.context._gone(self),
            )

    # -- addresses

    def bind(self: S, addr: str) -> SocketContext[S]:
        """Listens.

        Raises:
            ZMQError: EADDRINUSE, EINVAL (malformed), EPROTONOSUPPORT (transport).
        """
        with self._open():
            try:
                address = self._network.bind(self._pattern, self._address(addr, bind=True))
            except ZMQError as error:
                error.strerror += f" (addr={addr!r})"
                raise
            self._last_endpoint = self._endpoint(address)
            return SocketContext(self, self.unbind, self._last_endpoint.decode())

    def connect(self: S, addr: str) -> SocketContext[S]:
        """Connects, at once or when somebody listens there."""
        with self._open():
            try:
                self._network.connect(self._pattern, self._address(addr, bind=False))
            except ZMQError as error:
                error.strerror += f" (addr={addr!r})"
                raise
            self._last_endpoint = addr.encode() if isinstance(addr, str) else addr
            return SocketContext(self, self.disconnect, addr)

    def unbind(self, addr: str | bytes) -> None:
        with self._open():
            self._network.unbind(self._pattern, self._address(addr, bind=True))

    def disconnect(self, addr: str | bytes) -> None:
        with self._open():
            self._network.unconnect(self._pattern, self._address(addr, bind=False))

    def bind_to_random_port(
        self, addr: str, min_port: int = 49152, max_port: int = 65536, max_tries: int = 100
    ) -> int:
        """Binds to the first free port (of the range), and tells it.

        Raises:
            ZMQBindError: ``max_tries`` ports of the range are taken.
        """
        with self._open():
            address = self._address(f"{addr}:0", bind=True)
            if (min_port, max_port) == (49152, 65536):
                address = self._network.bind(self._pattern, address)
            else:
                ports = range(min_port, min(max_port, min_port + max_tries))
                address = self._network.bind_in_range(self._pattern, address, ports)
            self._last_endpoint = self._endpoint(address)
            return address.port

    def _address(self, addr: str | bytes, *, bind: bool) -> Address:
        address = parse(addr, bind=bind)
        if address.transport == "inproc":  # a name of its context only
            return Address("inproc", f"{id(self.context)}/{address.host}")
        return address

    def _endpoint(self, address: Address) -> bytes:
        return address.endpoint.replace(f"inproc://{id(self.context)}/", "inproc://").encode()

    # -- options

    def set(self, option: int, optval: Any) -> None:
        """Sets an option; EINVAL for one that is not simulated, is read-only or out of place."""
        with self._open():
            found = _simulated(option)
            if found in (SocketOption.SUBSCRIBE, SocketOption.UNSUBSCRIBE):
                self._subscription(found, optval)
            elif found == SocketOption.HWM:
                self.set_hwm(optval)
            elif found not in DEFAULTS or not self._has(found):
                raise ZMQError(Errno.EINVAL)
            elif isinstance(DEFAULTS[found], bytes):
                if isinstance(optval, str):
                    raise TypeError(f"unicode not allowed, use setsockopt_string: {optval!r}")
                self._pattern.options[found] = to_bytes(optval)
            elif not isinstance(optval, int):
                raise TypeError(f"expected int, got: {optval!r}")
            else:
                self._pattern.options[found] = int(optval)
            self._network.waiting.changed()

    def get(self, option: int) -> Any:
        """Reads an option; EINVAL for one that is not simulated or is write-only."""
        with self._open(even_terminated=True):
            found = _simulated(option)
            if found == SocketOption.RCVMORE:
                return int(bool(self._unread))
            if found == SocketOption.EVENTS:
                return int(self._events())
            if found == SocketOption.TYPE:
                return int(self.type)
            if found == SocketOption.LAST_ENDPOINT:
                return self._last_endpoint
            if found not in DEFAULTS or found in ROUTER_ONLY:
                raise ZMQError(Errno.EINVAL)
            return self._pattern.options[found]

    setsockopt = set  # noqa: A003 - pyzmq's name
    getsockopt = get

    def set_string(self, option: int, optval: str, encoding: str = "utf-8") -> None:
        if not isinstance(optval, str):
            raise TypeError(f"strings only, not {type(optval)}: {optval!r}")
        self.set(option, optval.encode(encoding))

    def get_string(self, option: int, encoding: str = "utf-8") -> str:
        value = self.get(option)
        if not isinstance(value, bytes):
            raise TypeError(f"option {option} will not return a string to be decoded")
        return value.decode(encoding)

    setsockopt_string = setsockopt_unicode = set_string
    getsockopt_string = getsockopt_unicode = get_string

    def subscribe(self, topic: str | bytes) -> None:
        self.set(SocketOption.SUBSCRIBE, topic.encode() if isinstance(topic, str) else topic)

    def unsubscribe(self, topic: str | bytes) -> None:
        self.set(SocketOption.UNSUBSCRIBE, topic.encode() if isinstance(topic, str) else topic)

    def get_hwm(self) -> int:
        return int(self.get(SocketOption.SNDHWM))

    def set_hwm(self, value: int) -> None:
        self.set(SocketOption.SNDHWM, value)
        self.set(SocketOption.RCVHWM, value)

    hwm = property(get_hwm, set_hwm)

    def _subscription(self, option: SocketOption, prefix: Any) -> None:
        if not isinstance(self._pattern, Sub):
            raise ZMQError(Errno.EINVAL)
        if isinstance(prefix, str):
            raise TypeError(f"unicode not allowed, use setsockopt_string: {prefix!r}")
        if option == SocketOption.SUBSCRIBE:
            self._pattern.subscribe(to_bytes(prefix))
        else:
            self._pattern.unsubscribe(to_bytes(prefix))

    def _has(self, option: SocketOption) -> bool:
        return option not in ROUTER_ONLY or self.type == SocketType.ROUTER

    def _set_option(self, option: SocketOption, value: Any) -> None:
        self.set(option, value)

    def _get_option(self, option: SocketOption) -> Any:
        return self.get(option)

    # -- messages

    def send(
        self,
        data: Any,
        flags: int = 0,
        copy: bool = True,
        track: bool = False,
        routing_id: int | None = None,
        group: str | None = None,
    ) -> MessageTracker | None:
        """Sends one part; the message leaves with the part that has no SNDMORE.

        Raises:
            Again: no peer has room, within SNDTIMEO (or at once, with DONTWAIT).
            ZMQError: EFSM, ENOTSUP, or EHOSTUNREACH from a ROUTER with ROUTER_MANDATORY.
        """
        if routing_id is not None or group is not None:
            raise ZMQError(Errno.EINVAL, "pd-testkit's zmq has no draft sockets")
        part = to_bytes(data)
        more = bool(flags & Flag.SNDMORE)
        with self._open():
            if self._commit is None:
                self._commit = self._admission(part, more, self._timeout(flags, "SNDTIMEO"))
            self._parts.append(part)
            if not more:
                commit, parts = self._commit, self._parts
                self._commit, self._parts = None, []
                commit(parts)
                self._network.waiting.changed()
        return MessageTracker() if track and not copy else None

    def recv(self, flags: int = 0, copy: bool = True, track: bool = False) -> Any:
        """The next part, as bytes (or a `Frame` without ``copy``).

        Raises:
            Again: nothing came, within RCVTIMEO (or at once, with DONTWAIT).
            ZMQError: EFSM or ENOTSUP.
        """
        with self._open():
            if not self._unread:
                self._pattern.check_receive()
                self._wait(self._pattern.readable, self._timeout(flags, "RCVTIMEO"))
                self._unread = list(self._pattern.receive())
                self._network.waiting.changed()  # room for a sender
            part = self._unread.pop(0)
            return part if copy else Frame(part, track=track, more=bool(self._unread))

    def recv_into(self, buffer: Any, /, *, nbytes: int = 0, flags: int = 0) -> int:
        """Receives a part into ``buffer``; its length. What does not fit is cut off."""
        part: bytes = self.recv(flags)
        view = memoryview(buffer).cast("B")
        room = min(len(part), nbytes or len(view))
        view[:room] = part[:room]
        return len(part)

    def send_multipart(
        self,
        msg_parts: Sequence[Any],
        flags: int = 0,
        copy: bool = True,
        track: bool = False,
        **kwargs: Any,
    ) -> MessageTracker | None:
        parts = [to_bytes(part) for part in msg_parts]
        for part in parts[:-1]:
            self.send(part, Flag.SNDMORE | flags, copy=copy, track=track)
        return self.send(parts[-1], flags, copy=copy, track=track)

    def recv_multipart(self, flags: int = 0, copy: bool = True, track: bool = False) -> Any:
        parts = [self.recv(flags, copy=copy, track=track)]
        while self._unread:
            parts.append(self.recv(flags, copy=copy, track=track))
        return parts

    def poll(self, timeout: int | None = None, flags: int = PollEvent.POLLIN) -> Any:
        """The events among ``flags`` that hold within ``timeout`` ms of the clock; 0 if none."""
        limit = -1 if timeout is None else int(timeout)
        with self._open():
            self._network.waiting.wait(
                lambda: self._finished() or bool(self._events() & flags), max(limit, -1)
            )
            self._check_open()
            return int(self._events() & flags)

    def _events(self) -> PollEvent:
        readable = bool(self._unread) or self._pattern.readable()
        sending = self._commit is not None or self._pattern.writable()
        return (PollEvent.POLLIN if readable else PollEvent(0)) | (
            PollEvent.POLLOUT if sending else PollEvent(0)
        )

    def _admission(self, first: bytes, more: bool, timeout_ms: int) -> Commit:
        self._wait(lambda: self._pattern.admit(first, more) is not None, timeout_ms)
        commit = self._pattern.admit(first, more)
        if commit is None:
            raise Again
        return commit

    def _wait(self, ready: Callable[[], bool], timeout_ms: int) -> None:
        if not self._network.waiting.wait(lambda: self._finished() or ready(), timeout_ms):
            raise Again
        self._check_open()

    def _timeout(self, flags: int, option: str) -> int:
        return 0 if flags & Flag.DONTWAIT else int(self._pattern.options[SocketOption[option]])

    def _finished(self) -> bool:
        return self.closed or self._terminated()

    def _terminated(self) -> bool:
        return self.context._terminating or self._network.over

    def _check_open(self, even_terminated: bool = False) -> None:
        if self.closed:
            raise ZMQError(Errno.ENOTSOCK)
        if self._terminated() and not even_terminated:
            raise ContextTerminated

    def _open(self, even_terminated: bool = False) -> Any:
        """The network's lock, for a call on an open socket."""
        lock = self._network.clock.lock
        with lock:
            self._network.waiting.seen()
            self._check_open(even_terminated)
        return lock


def _simulated(option: int) -> SocketOption:
    try:
        return SocketOption(option)
    except ValueError:
        raise ZMQError(
            Errno.EINVAL, f"pd-testkit's zmq does not simulate socket option {option!r}"
        ) from None
