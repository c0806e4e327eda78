"""Numbers of libzmq 4.3.5, in the enums that pyzmq 27 keeps them in.

Options that are not here are not simulated, and setting one is an error.
"""

from __future__ import annotations

import errno
from enum import Enum, IntEnum, IntFlag
from typing import Any

_HAUSNUMERO = 156384712  # libzmq's base for the error numbers that the system does not have


class Errno(IntEnum):
    EAGAIN = errno.EAGAIN
    EFAULT = errno.EFAULT
    EINVAL = errno.EINVAL
    ENOTSUP = errno.ENOTSUP
    EPROTONOSUPPORT = errno.EPROTONOSUPPORT
    ENOBUFS = errno.ENOBUFS
    ENETDOWN = errno.ENETDOWN
    EADDRINUSE = errno.EADDRINUSE
    EADDRNOTAVAIL = errno.EADDRNOTAVAIL
    ECONNREFUSED = errno.ECONNREFUSED
    EINPROGRESS = errno.EINPROGRESS
    ENOTSOCK = errno.ENOTSOCK
    EMSGSIZE = errno.EMSGSIZE
    EAFNOSUPPORT = errno.EAFNOSUPPORT
    ENETUNREACH = errno.ENETUNREACH
    ECONNABORTED = errno.ECONNABORTED
    ECONNRESET = errno.ECONNRESET
    ENOTCONN = errno.ENOTCONN
    ETIMEDOUT = errno.ETIMEDOUT
    EHOSTUNREACH = errno.EHOSTUNREACH
    ENETRESET = errno.ENETRESET
    EFSM = _HAUSNUMERO + 51
    ENOCOMPATPROTO = _HAUSNUMERO + 52
    ETERM = _HAUSNUMERO + 53
    EMTHREAD = _HAUSNUMERO + 54


class ContextOption(IntEnum):
    IO_THREADS = 1
    MAX_SOCKETS = 2


class SocketType(IntEnum):
    PAIR = 0
    PUB = 1
    SUB = 2
    REQ = 3
    REP = 4
    DEALER = 5
    ROUTER = 6
    PULL = 7
    PUSH = 8
    XPUB = 9
    XSUB = 10
    XREQ = 5
    XREP = 6


class SocketOption(IntEnum):
    HWM = 1
    AFFINITY = 4
    ROUTING_ID = 5
    IDENTITY = 5
    SUBSCRIBE = 6
    UNSUBSCRIBE = 7
    SNDBUF = 11
    RCVBUF = 12
    RCVMORE = 13
    FD = 14
    EVENTS = 15
    TYPE = 16
    LINGER = 17
    RECONNECT_IVL = 18
    BACKLOG = 19
    RECONNECT_IVL_MAX = 21
    MAXMSGSIZE = 22
    SNDHWM = 23
    RCVHWM = 24
    RCVTIMEO = 27
    SNDTIMEO = 28
    LAST_ENDPOINT = 32
    ROUTER_MANDATORY = 33
    TCP_KEEPALIVE = 34
    TCP_KEEPALIVE_CNT = 35
    TCP_KEEPALIVE_IDLE = 36
    TCP_KEEPALIVE_INTVL = 37
    IPV6 = 42
    ROUTER_HANDOVER = 56
    HANDSHAKE_IVL = 66
    HEARTBEAT_IVL = 75
    HEARTBEAT_TTL = 76
    HEARTBEAT_TIMEOUT = 77
    CONNECT_TIMEOUT = 79


class Flag(IntFlag):
    DONTWAIT = 1
    NOBLOCK = 1
    SNDMORE = 2


class PollEvent(IntFlag):
    POLLIN = 1
    POLLOUT = 2
    POLLERR = 4


ENUMS: tuple[type[Enum], ...] = (
    Errno,
    ContextOption,
    SocketType,
    SocketOption,
    Flag,
    PollEvent,
)

DEFAULTS: dict[SocketOption, Any] = {
    SocketOption.AFFINITY: 0,
    SocketOption.ROUTING_ID: b"",
    SocketOption.SNDBUF: -1,
    SocketOption.RCVBUF: -1,
    SocketOption.LINGER: -1,
    SocketOption.RECONNECT_IVL: 100,
    SocketOption.BACKLOG: 100,
    SocketOption.RECONNECT_IVL_MAX: 0,
    SocketOption.MAXMSGSIZE: -1,
    SocketOption.SNDHWM: 1000,
    SocketOption.RCVHWM: 1000,
    SocketOption.RCVTIMEO: -1,
    SocketOption.SNDTIMEO: -1,
    SocketOption.ROUTER_MANDATORY: 0,
    SocketOption.TCP_KEEPALIVE: -1,
    SocketOption.TCP_KEEPALIVE_CNT: -1,
    SocketOption.TCP_KEEPALIVE_IDLE: -1,
    SocketOption.TCP_KEEPALIVE_INTVL: -1,
    SocketOption.IPV6: 0,
    SocketOption.ROUTER_HANDOVER: 0,
    SocketOption.HANDSHAKE_IVL: 30000,
    SocketOption.HEARTBEAT_IVL: 0,
    SocketOption.HEARTBEAT_TTL: 0,
    SocketOption.HEARTBEAT_TIMEOUT: -1,
    SocketOption.CONNECT_TIMEOUT: 0,
}
"""What a new socket answers. Those that tune a real network are kept and have no effect."""

ROUTER_ONLY = frozenset({SocketOption.ROUTER_MANDATORY, SocketOption.ROUTER_HANDOVER})
"""Set on a ROUTER only, and never read."""

COPY_THRESHOLD = 65536


def names() -> dict[str, Any]:
    """Every enum member by its plain name, aliases included: ``ROUTER``, ``NOBLOCK``, ..."""
    return {name: member for enum in ENUMS for name, member in enum.__members__.items()}
