"""The exceptions of pyzmq."""

from __future__ import annotations

import os
from typing import Literal

from pd_testkit.stubs.zmq.constants import Errno

_MESSAGES = {
    Errno.EHOSTUNREACH: "Host unreachable",
    Errno.EFSM: "Operation cannot be accomplished in current state",
    Errno.ENOCOMPATPROTO: "The protocol is not compatible with the socket type",
    Errno.ETERM: "Context was terminated",
    Errno.EMTHREAD: "No thread available",
}


def strerror(errno: int) -> str:
    """libzmq's text for an error number."""
    for code, text in _MESSAGES.items():
        if code == errno:
            return text
    return os.strerror(errno)


class ZMQBaseError(Exception):
    """Base of all."""


class ZMQError(ZMQBaseError):
    """An error with libzmq's number and text."""

    errno: int | None = None
    strerror: str

    def __init__(self, errno: int | None = None, msg: str | None = None) -> None:
        self.errno = errno
        if msg is not None:
            self.strerror = msg
        else:
            self.strerror = strerror(0 if errno is None else errno)

    def __str__(self) -> str:
        return self.strerror

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({str(self)!r})"


class ZMQBindError(ZMQBaseError):
    """`bind_to_random_port` found no free port."""


class NotDone(ZMQBaseError):
    """A tracked message was not sent in time."""


class ContextTerminated(ZMQError):
    """ETERM."""

    def __init__(self, errno: int | Literal["ignored"] = "ignored", msg: str = "ignored") -> None:
        super().__init__(Errno.ETERM)


class Again(ZMQError):
    """EAGAIN."""

    def __init__(self, errno: int | Literal["ignored"] = "ignored", msg: str = "ignored") -> None:
        super().__init__(Errno.EAGAIN)


EXCEPTIONS: tuple[type[Exception], ...] = (
    Again,
    ContextTerminated,
    NotDone,
    ZMQBaseError,
    ZMQBindError,
    ZMQError,
)
