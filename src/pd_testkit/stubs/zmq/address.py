"""Endpoint addresses: what may be bound and connected, and which of them meet.

All sockets of an installation are on one machine. ``localhost`` and ``127.0.0.1`` are one host,
and ``*`` listens for every name.
"""

from __future__ import annotations

from dataclasses import dataclass

from pd_testkit.stubs.zmq.constants import Errno
from pd_testkit.stubs.zmq.error import ZMQError

ANY_HOST = "*"
ANY_PORT = 0


@dataclass(frozen=True)
class Address:
    """Where a socket listens: ``port`` is 0 for a transport without ports."""

    transport: str
    host: str
    port: int = 0

    @property
    def endpoint(self) -> str:
        """The address as LAST_ENDPOINT tells it."""
        if self.transport != "tcp":
            return f"{self.transport}://{self.host}"
        host = "0.0.0.0" if self.host == ANY_HOST else self.host  # noqa: S104 - a name only
        return f"tcp://{host}:{self.port}"

    def meets(self, other: Address) -> bool:
        """Whether a connection to one reaches, or a bind of one clashes with, the other."""
        if (self.transport, self.port) != (other.transport, other.port):
            return False
        anywhere = self.transport == "tcp" and ANY_HOST in (self.host, other.host)
        return anywhere or self.host == other.host


def parse(addr: str | bytes, *, bind: bool) -> Address:
    """The address of a bind or a connect.

    Raises:
        ZMQError: EINVAL for a malformed one, EPROTONOSUPPORT for a transport that is not
            simulated.
    """
    text = addr.decode() if isinstance(addr, bytes) else addr
    transport, separator, rest = text.partition("://")
    if not separator or not rest:
        raise ZMQError(Errno.EINVAL)
    if transport in ("inproc", "ipc"):
        return Address(transport, rest)
    if transport != "tcp":
        raise ZMQError(Errno.EPROTONOSUPPORT)
    # A connect may name its own side first: tcp://source;destination.
    host, separator, port = rest.rpartition(";")[2].rpartition(":")
    if not separator or not host:
        raise ZMQError(Errno.EINVAL)
    if port == "*" and bind:
        port = "0"
    if not port.isdecimal() or int(port) > 65535:
        raise ZMQError(Errno.EINVAL)
    host = {"localhost": "127.0.0.1", "0.0.0.0": ANY_HOST}.get(host, host)  # noqa: S104
    if not bind and (host == ANY_HOST or int(port) == ANY_PORT):
        raise ZMQError(Errno.EINVAL)
    return Address("tcp", host, int(port))
