"""A client of a proxy: blocking, one connection per request unless told otherwise."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pd_testkit.contract import ProxyServer
from pd_testkit.suites.flow_script import COMPLETIONS

BROKEN = (http.client.IncompleteRead, ConnectionError)
"""What a client sees of an answer that is cut off."""


@dataclass(frozen=True)
class Whole:
    """An answer that came to its end."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Asked:
    """A request that is on its way, or whose answer is coming in."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self.connection = connection
        self._response: http.client.HTTPResponse | None = None

    @property
    def response(self) -> http.client.HTTPResponse:
        """The answer's head; waits for it."""
        if self._response is None:
            self._response = self.connection.getresponse()
        return self._response

    @property
    def status(self) -> int:
        return self.response.status

    def read(self, size: int) -> bytes:
        """The next so many bytes of the body; fewer only at its end."""
        data = b""
        while len(data) < size and (more := self.response.read1(size - len(data))):
            data += more
        return data

    def whole(self) -> Whole:
        """The answer with what is left of its body.

        Raises:
            IncompleteRead: the connection ended before the body did (one of `BROKEN`).
        """
        headers = {name.lower(): value for name, value in self.response.getheaders()}
        return Whole(self.status, headers, self.response.read())

    def leave(self) -> None:
        """Close the connection, whatever is still to come."""
        if self._response is not None:
            self._response.close()
        self.connection.close()


class Client:
    """Asks one proxy. Close it.

    Args:
        patience_s: how long it waits for the next byte.
    """

    def __init__(self, proxy: ProxyServer, patience_s: float) -> None:
        self.proxy = proxy
        self._patience_s = patience_s
        parts = urlsplit(proxy.url)
        self._address = str(parts.hostname), int(parts.port or 80)
        self._asked: list[Asked] = []

    def connect(self) -> http.client.HTTPConnection:
        """A connection, for more than one request or for less than one."""
        connection = http.client.HTTPConnection(*self._address, timeout=self._patience_s)
        connection.connect()
        self._asked.append(Asked(connection))
        return connection

    def ask(
        self,
        body: Mapping[str, Any] | Iterable[bytes] | bytes,
        path: str = COMPLETIONS,
        *,
        headers: Mapping[str, str] | None = None,
        method: str = "POST",
        connection: http.client.HTTPConnection | None = None,
    ) -> Asked:
        """Send a request; do not wait for anything.

        Args:
            body: JSON, the bytes themselves, or pieces that are sent as chunks.
        """
        asked = Asked(connection or self.connect())
        self._asked.append(asked)
        raw = json.dumps(body).encode() if isinstance(body, Mapping) else body
        asked.connection.request(
            method, path, raw, {"Content-Type": "application/json", **(headers or {})}
        )
        return asked

    def post(
        self,
        body: Mapping[str, Any] | Iterable[bytes] | bytes,
        path: str = COMPLETIONS,
        **how: Any,
    ) -> Whole:
        """One request and its whole answer."""
        asked = self.ask(body, path, **how)
        answer = asked.whole()
        if "connection" not in how:
            asked.leave()
        return answer

    def close(self) -> None:
        for asked in self._asked:
            asked.leave()


def assert_error(answer: Whole, *statuses: int) -> None:
    """The answer is an error of one of these statuses, in the OpenAI API's form."""
    assert answer.status in statuses, f"{answer.status} {answer.body[:200]!r}"
    try:
        error = answer.json["error"]
        message, kind, code = error["message"], error["type"], error["code"]
    except (ValueError, KeyError, TypeError):
        raise AssertionError(f"no OpenAI error object: {answer.body[:200]!r}") from None
    assert isinstance(message, str), error
    assert message, "the error says nothing"
    assert isinstance(kind, str), error
    assert code is None or isinstance(code, int | str), error
    assert answer.headers.get("content-type", "").partition(";")[0] == "application/json"


def assert_cut(asked: Asked) -> None:
    """The client can tell that this stream is not complete: it breaks, or says that it failed."""
    broken = True
    try:
        rest = asked.whole().body
        broken = False
    except http.client.IncompleteRead as cut:
        rest = cut.partial
    except ConnectionError:
        rest = b""
    assert b"[DONE]" not in rest, "the stream that broke ends as a whole one"
    assert broken or b'"error"' in rest, f"it ends as if nothing had happened: {rest!r}"
