"""A P/D proxy without I/O: which engines serve a request, and what each of them is sent.

A shell (a server, a driver) carries the bytes. Per client request it asks `Proxy.start`, posts
the `Call` that it gets, tells the `Route` what came back, and so on until it holds a `Response`
for the client. Read mode: strictly P, then D, with P's ``kv_transfer_params`` handed to D as
they came. The wire form is vLLM's (``do_remote_prefill``, ``do_remote_decode``,
``x-data-parallel-rank``).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from urllib.parse import urlsplit

Leg = Literal["prefill", "decode"]

PATHS = ("/v1/completions", "/v1/chat/completions")

_DROPPED_ON_PREFILL = (
    "best_of",
    "logprobs",
    "min_tokens",
    "stream_options",
    "top_logprobs",
)
"""What an engine refuses next to one unstreamed token, or works on for nothing."""

_FORWARDED_HEADERS = ("authorization", "traceparent", "tracestate")


def address(url: str) -> tuple[str, int]:
    """Host and port of an engine's URL; an IPv6 host comes without its brackets.

    Raises:
        ValueError: the URL lacks one of them, or the port is none.
    """
    parts = urlsplit(url)
    if not parts.hostname or not parts.port:
        raise ValueError(f"{url!r} is no URL with a host and a port")
    return parts.hostname, parts.port


@dataclass(frozen=True)
class Engine:
    """An engine as it registered."""

    leg: Leg
    url: str
    """``http://host:port``."""
    transfer_mode: str = "read"
    dp_size: int = 1
    tp_size: int = 1
    handshake_port: int = 0
    heartbeat: int = field(default=0, compare=False)
    """The sequence number of the registration."""


@dataclass(frozen=True)
class Call:
    """A POST to make."""

    url: str
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]


@dataclass(frozen=True)
class Response:
    """An engine's answer, or the client's. A streaming shell passes the body by itself."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"


def error(status: int, message: str) -> Response:
    """An error of the proxy's own, in the OpenAI API's form."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    details = {"message": message, "type": kind, "code": status}
    return Response(status, json.dumps({"error": details}).encode())


class Proxy:
    """The engines that registered, and whose turn it is.

    Args:
        timeout_s: an engine that sends nothing for so long is given up by the shell, which then
            tells the route so.
        new_id: a request id, each time another.
    """

    def __init__(
        self, timeout_s: float = 600.0, new_id: Callable[[], str] = lambda: uuid.uuid4().hex
    ) -> None:
        self.timeout_s = timeout_s
        self._new_id = new_id
        self._engines: dict[Leg, dict[str, Engine]] = {"prefill": {}, "decode": {}}
        self._turn = 0
        self._dp_turns: dict[str, int] = {}

    def register(self, engine: Engine) -> bool:
        """Take an engine in, or its newer record in its place; False if nothing changed.

        Raises:
            ValueError: its transfer mode is not that of the engines that are there, or its URL
                has no host and port.
        """
        address(engine.url)
        others = [e for leg in self._engines.values() for e in leg.values() if e.url != engine.url]
        modes = {other.transfer_mode for other in others}
        if modes - {engine.transfer_mode}:
            raise ValueError(
                f"{engine.url} moves its KV by {engine.transfer_mode!r}, the others by {modes}"
            )
        if self._engines[engine.leg].get(engine.url) == engine:
            return False
        self._engines[engine.leg][engine.url] = engine
        return True

    def unregister(self, leg: Leg, url: str) -> None:
        """Forget an engine; requests under way go on."""
        self._engines[leg].pop(url, None)
        self._dp_turns.pop(url, None)

    def engines(self, leg: Leg) -> tuple[Engine, ...]:
        """In the order of their turns."""
        return tuple(self._engines[leg].values())

    def start(
        self, body: bytes | Mapping[str, Any], path: str, headers: Mapping[str, str]
    ) -> Route | Response:
        """Route one client request.

        Args:
            body: as it came, or the object in it, which is never written to.
            path: the one that the client asked.
            headers: names in lower case.
        """
        if path not in PATHS:
            return error(404, f"no such path: {path}")
        wanted = _json(body) if isinstance(body, bytes) else body
        if not isinstance(wanted, Mapping):
            return error(400, "the body is no JSON object")
        prefillers, decoders = self.engines("prefill"), self.engines("decode")
        if not prefillers or not decoders:
            return error(503, f"{len(prefillers)} prefill and {len(decoders)} decode engines")
        prefiller = prefillers[self._turn % len(prefillers)]
        decoder = decoders[self._turn % len(decoders)]
        self._turn += 1
        shared = {name: headers[name] for name in _FORWARDED_HEADERS if name in headers}
        shared["x-request-id"] = headers.get("x-request-id") or self._new_id()
        return Route(
            prefill=Call(
                prefiller.url, path, shared | self._dp_header(prefiller), prefill_body(wanted)
            ),
            _decode=Call(decoder.url, path, shared, wanted),
        )

    def _dp_header(self, prefiller: Engine) -> dict[str, str]:
        """The rank has a turn of its own per engine, or it would follow the engine's index."""
        if prefiller.dp_size == 1:
            return {}
        turn = self._dp_turns.get(prefiller.url, 0)
        self._dp_turns[prefiller.url] = turn + 1
        return {"x-data-parallel-rank": str(turn % prefiller.dp_size)}


@dataclass(frozen=True)
class Route:
    """One client request on its way. The first call to make is `prefill`."""

    prefill: Call
    _decode: Call

    def prefill_answered(self, answer: Response) -> Call | Response:
        """The call to make on D; or what the client gets, where P did not prefill."""
        if not 200 <= answer.status < 300:
            return answer
        said = _json(answer.body)
        hand_off = said.get("kv_transfer_params") if isinstance(said, dict) else None
        if not isinstance(hand_off, dict) or not hand_off:
            return error(502, "the prefill engine's answer carries no kv_transfer_params")
        params = {**hand_off, "do_remote_prefill": True, "do_remote_decode": False}
        return replace(self._decode, body={**self._decode.body, "kv_transfer_params": params})

    def decode_answered(self, answer: Response) -> Response:
        """The client gets what D says, whatever it is."""
        return Response(answer.status, answer.body, answer.content_type)

    def engine_lost(self, leg: Leg) -> Response:
        """The connection to the engine broke before its answer."""
        return error(502, f"the {leg} engine is gone")

    def engine_silent(self, leg: Leg) -> Response:
        """The engine sent nothing for `Proxy.timeout_s`."""
        return error(504, f"the {leg} engine does not answer")


def _json(raw: bytes) -> Any:
    """What the bytes say; None where they are no JSON, as for ``null``."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def prefill_body(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """P computes the prompt of ``wanted`` and keeps its KV: one token, one answer, no stream."""
    body = {name: value for name, value in wanted.items() if name not in _DROPPED_ON_PREFILL}
    body["max_tokens"] = 1
    body["stream"] = False
    for name in ("max_completion_tokens", "n"):
        if name in body:
            body[name] = 1
    body["kv_transfer_params"] = {"do_remote_decode": True, "do_remote_prefill": False}
    return body
