"""What goes over the wire: the calls to engines, and the answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from pd_testkit.proxy.instances import Engine, Leg

_KINDS = {401: "authentication_error", 429: "rate_limit_error"}


class Call(msgspec.Struct, frozen=True):
    """A POST to make."""

    leg: Leg
    engine: Engine
    path: str
    headers: Mapping[str, str]
    """Names in lower case; the content's type and length are the shell's."""
    body: Mapping[str, Any]


class Response(msgspec.Struct, frozen=True):
    """An engine's whole answer, or the client's."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = {}
    """The others that matter; names in lower case."""


def error(status: int, message: str, retry_after: float | None = None) -> Response:
    """An error of the proxy's own, in the OpenAI API's form.

    Args:
        retry_after: seconds after which the client may ask again, sent in whole ones.
    """
    kind = _KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    details = {"message": message, "type": kind, "param": None, "code": status}
    headers = {} if retry_after is None else {"retry-after": str(max(1, math.ceil(retry_after)))}
    return Response(status, msgspec.json.encode({"error": details}), headers=headers)
