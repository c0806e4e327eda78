"""One request to an ASGI application by its own interface, as a server makes it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any


async def ask(
    application: Any, path: str, headers: Mapping[str, str], body: bytes, method: str = "POST"
) -> tuple[int, dict[str, str], bytes]:
    """Send ``body``; gives the status, the headers (names in lower case) and the whole body.

    Raises whatever the application raises before it has begun to answer.
    """
    named = {"content-type": "application/json", "host": "localhost"} | {
        name.lower(): value for name, value in headers.items()
    }
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 10001),
    }
    requests = [{"type": "http.request", "body": body, "more_body": False}]
    answers: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if requests:
            return requests.pop()
        await asyncio.Event().wait()  # the client stays; the application cancels this
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        answers.append(message)

    try:
        await application(scope, receive, send)
    except Exception:
        # A server can only cut the connection then: what was sent before stands.
        if not answers:
            raise
    start = answers[0]
    return (
        start["status"],
        {name.decode().lower(): value.decode() for name, value in start["headers"]},
        b"".join(message.get("body", b"") for message in answers[1:]),
    )
