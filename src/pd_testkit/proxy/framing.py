"""HTTP/1.1 as it goes over the wire: heads, chunks, event streams (RFC 9112)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

EVENT_STREAM = "text/event-stream"
LAST_CHUNK = b"0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

FIELD_NAMES = {
    spelled.encode(): name
    for name in (
        "accept",
        "accept-encoding",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "date",
        "host",
        "server",
        "transfer-encoding",
        "user-agent",
        "x-request-id",
    )
    for spelled in (name, name.title())
}
"""The usual names as they are spelled, in lower case: converted faster by looking them up."""

_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


def response_head(
    status: int,
    content_type: str,
    length: int | None,
    *,
    chunked: bool = False,
    close: bool = False,
    extra: Mapping[str, str] | None = None,
) -> bytes:
    """The head of a response, up to and with the empty line.

    ``length``: bytes of the body, None for one that is chunked or ends with the connection.
    """
    line = _STATUS_LINES.get(status) or f"HTTP/1.1 {status} \r\n".encode()
    fields = f"Content-Type: {content_type}\r\n" if content_type else ""
    if length is not None:
        fields += f"Content-Length: {length}\r\n"
    elif chunked:
        fields += "Transfer-Encoding: chunked\r\n"
    if close:
        fields += "Connection: close\r\n"
    if extra:
        for name, value in extra.items():
            fields += f"{name}: {value}\r\n"
    return line + fields.encode("latin-1") + b"\r\n"


def request(
    method: str, host: str, path: str, headers: Mapping[str, str], body: bytes | None
) -> bytes:
    """A whole request; ``host`` is its ``Host`` field. A body is JSON."""
    fields = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if body is None:
        return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n".encode("latin-1")
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n{fields}\r\n"
    )
    return head.encode("latin-1") + body


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body. ``data`` is not empty: an empty chunk ends the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(data: bytes) -> bytes:
    """One server-sent event, after whatever came before it: an empty line ends that."""
    return b"\n\ndata: " + data + b"\n\n"
