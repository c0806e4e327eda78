"""Very many clients of a proxy at once, in one thread."""

from __future__ import annotations

import json
import selectors
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from pd_testkit.suites.flow_script import COMPLETIONS

_LAST = b"0\r\n\r\n"


class Crowd:
    """Each client has a connection and asks one thing. Leave it to close them all.

    Args:
        url: the proxy's.
        patience_s: for which all of them wait for the next byte of any.
    """

    def __init__(self, url: str, patience_s: float) -> None:
        parts = urlsplit(url)
        self._address = str(parts.hostname), int(parts.port or 80)
        self._patience_s = patience_s
        self._selector = selectors.DefaultSelector()
        self._answers: dict[socket.socket, bytearray] = {}

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        for each in self._answers:
            each.close()

    def ask(self, bodies: Iterable[Mapping[str, Any]]) -> None:
        """One client more per body; does not wait for answers."""
        for body in bodies:
            raw = json.dumps(body).encode()
            head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: proxy\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
            each = socket.create_connection(self._address, self._patience_s)
            each.sendall(head.encode() + raw)
            self._answers[each] = bytearray()
            self._selector.register(each, selectors.EVENT_READ)

    def until_all(self, sign: bytes) -> None:
        """Returns when each has this in what it got."""
        self._read(lambda answer: sign in answer)

    def bodies(self) -> list[bytes]:
        """Each one's whole answer without its framing, in the order of asking."""
        self._read(lambda answer: answer.endswith(_LAST))
        return [_body(bytes(answer)) for answer in self._answers.values()]

    def _read(self, enough: Callable[[bytearray], bool]) -> None:
        wanting = {each for each, answer in self._answers.items() if not enough(answer)}
        while wanting:
            ready = self._selector.select(self._patience_s)
            assert ready, f"{len(wanting)} of {len(self._answers)} streams stand still"
            for key, _ in ready:
                each = key.fileobj
                assert isinstance(each, socket.socket)
                data = each.recv(65536)
                answer = self._answers[each]
                assert data, f"a stream was cut after {bytes(answer[-200:])!r}"
                answer += data
                if enough(answer):
                    wanting.discard(each)


def _body(answer: bytes) -> bytes:
    """Of a chunked response of status 200; what else it is, as it is."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 ") or b"chunked" not in head.lower():
        return answer
    body = b""
    while rest:
        line, _, rest = rest.partition(b"\r\n")
        size = int(line, 16)
        body, rest = body + rest[:size], rest[size + 2 :]
    return body
