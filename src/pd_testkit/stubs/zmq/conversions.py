"""Text, JSON and own serialisations on top of a socket's ``send`` and ``recv``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

_NO_OBJECTS = (
    "pd-testkit's zmq does not pickle: unpickling what a peer sends runs its code. "
    "Use send_multipart, send_json or send_serialized"
)


class Conversions:
    """For a class with pyzmq's ``send``, ``recv`` and their multipart forms."""

    send: Callable[..., Any]
    recv: Callable[..., Any]
    send_multipart: Callable[..., Any]
    recv_multipart: Callable[..., Any]

    def send_serialized(
        self,
        msg: Any,
        serialize: Callable[[Any], Sequence[Any]],
        flags: int = 0,
        copy: bool = True,
        **kwargs: Any,
    ) -> Any:
        return self.send_multipart(serialize(msg), flags, copy, **kwargs)

    def recv_serialized(
        self, deserialize: Callable[[list[Any]], Any], flags: int = 0, copy: bool = True
    ) -> Any:
        return self._then(self.recv_multipart(flags, copy), deserialize)

    def send_string(
        self, u: str, flags: int = 0, copy: bool = True, encoding: str = "utf-8", **kwargs: Any
    ) -> Any:
        if not isinstance(u, str):
            raise TypeError("str objects only")
        return self.send(u.encode(encoding), flags, copy, **kwargs)

    def recv_string(self, flags: int = 0, encoding: str = "utf-8") -> Any:
        return self._then(self.recv(flags), lambda part: part.decode(encoding))

    send_unicode = send_string
    recv_unicode = recv_string

    def send_json(self, obj: object, flags: int = 0, **kwargs: Any) -> Any:
        return self.send(json.dumps(obj, **kwargs).encode(), flags)

    def recv_json(self, flags: int = 0, **kwargs: Any) -> Any:
        return self._then(self.recv(flags), lambda part: json.loads(part, **kwargs))

    def send_pyobj(self, obj: object, flags: int = 0, protocol: int = 4, **kwargs: Any) -> Any:
        """Refused."""
        raise TypeError(_NO_OBJECTS)

    def recv_pyobj(self, flags: int = 0) -> Any:
        """Refused."""
        raise TypeError(_NO_OBJECTS)

    def _then(self, received: Any, use: Callable[[Any], Any]) -> Any:
        """``use(received)``; an asynchronous socket does it later."""
        return use(received)
