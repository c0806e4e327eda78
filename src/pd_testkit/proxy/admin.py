"""What is asked of the proxy itself: health, metrics, instances, timeline, mode, conversations,
models."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import msgspec

from pd_testkit.proxy import metrics, timeline
from pd_testkit.proxy.downstream import ClientConnection, Request, Work
from pd_testkit.proxy.messages import Response, error
from pd_testkit.proxy.router import PATHS
from pd_testkit.proxy.settings import MODES
from pd_testkit.proxy.upstream import Connection, Head

if TYPE_CHECKING:
    from pd_testkit.proxy.server import ProxyServer

OPEN_PATHS = frozenset({"/health", "/liveness", "/metrics", "/readiness"})
"""Asked without the API key: by probes and scrapers."""

MAX_MODELS_BYTES = 2**20
"""Of one engine's list of models."""


def admit(path: str, method: str) -> Response | None:
    """404 or 405 for what is not there; None if it is. ``HEAD`` is allowed where ``GET`` is."""
    allowed = "POST" if path in PATHS else _ALLOWED.get(path)
    if allowed is None:
        known = f"; modes are {', '.join(MODES)}" if path.startswith("/mode/") else ""
        return error(404, f"no such path: {path}{known}")
    if method == allowed or (method == "HEAD" and allowed == "GET"):
        return None
    refusal = error(405, f"{path} takes {allowed}, not {method}")
    return Response(refusal.status, refusal.body, headers={"allow": allowed})


def answer(server: ProxyServer, request: Request) -> Response:
    """The answer to an admitted request that needs no engine for it."""
    path = request.path
    if path.startswith("/mode/"):
        server.router.set_mode(path.removeprefix("/mode/"))
        return _mode(server)
    if path == "/timeline":
        return _timeline(server, request)
    return _ANSWERS[path](server)


def _health(server: ProxyServer) -> Response:
    """Healthy is a proxy that can route: for each leg an engine that is well, as far as its
    checks tell, and whose breaker is not open."""
    up = {"prefill": 0, "decode": 0}
    for instance in server.router.instances(server.now()):
        up[instance["role"]] += instance["well"] and instance["breaker"] != "open"
    mode = server.router.mode
    enough = any(up.values()) if mode == "aggregated" else all(up.values())
    status = "draining" if server.draining else "ok" if enough else "no engines"
    body = {"status": status, "mode": mode, **up, "in_flight": server.in_flight}
    if status == "ok":
        return _json(body)
    return _json(body, 503, {"retry-after": "1"})


def _liveness(server: ProxyServer) -> Response:
    return _json({"status": "ok"})


def _metrics(server: ProxyServer) -> Response:
    return Response(200, server.metrics.exposition(), metrics.CONTENT_TYPE)


def _instances(server: ProxyServer) -> Response:
    return _json({"instances": server.router.instances(server.now())})


def _timeline(server: ProxyServer, request: Request) -> Response:
    query = parse_qs(request.target.partition(b"?")[2].decode("latin-1"))
    try:
        since = timeline.number(query.get("since", [None])[-1])
    except ValueError as wrong:
        return error(400, str(wrong))
    return _json({"component": "proxy", **server.timeline.told(since, server.now())})


def _mode(server: ProxyServer) -> Response:
    return _json({"mode": server.router.mode, "modes": MODES})


def _conversations(server: ProxyServer) -> Response:
    conversations = server.router.conversations
    listed = conversations.listed(server.now())
    return _json({"count": len(conversations), "conversations": listed})


def _clear(server: ProxyServer) -> Response:
    return _json({"cleared": server.router.conversations.clear()})


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(status, msgspec.json.encode(body), headers=headers or {})


_ANSWERS: dict[str, Callable[[ProxyServer], Response]] = {
    "/health": _health,
    "/readiness": _health,
    "/liveness": _liveness,
    "/metrics": _metrics,
    "/instances": _instances,
    "/mode": _mode,
    "/conversations": _conversations,
    "/conversations/clear": _clear,
}

_ALLOWED = {
    "/health": "GET",
    "/readiness": "GET",
    "/liveness": "GET",
    "/metrics": "GET",
    "/instances": "GET",
    "/timeline": "GET",
    "/mode": "GET",
    "/conversations": "GET",
    "/conversations/clear": "POST",
    "/v1/models": "GET",
    **{f"/mode/{mode}": "POST" for mode in MODES},
}


class Models(Work):
    """``GET /v1/models``: all engines are asked, and each model is listed once.

    An engine that fails or stays silent is left out; if all do, the client gets 502.
    """

    def __init__(self, server: ProxyServer, client: ClientConnection, request: Request) -> None:
        self._client = client
        self._models: dict[str, Any] = {}
        self._answers = 0
        self._calls: set[_ModelsCall] = set()
        urls = {engine["url"] for engine in server.router.instances(server.now())}
        passed = {n: v for n, v in request.headers.items() if n == "authorization"}
        for url in sorted(urls):
            call = _ModelsCall(self)
            self._calls.add(call)
            call.connection = server.pool.send(url, "/v1/models", passed, None, call, "GET")
        if not urls:
            client.respond(error(503, "no engines", 1))

    def over(self, call: _ModelsCall, models: list[dict[str, Any]] | None) -> None:
        """One engine's models are in; None: it gave none."""
        self._calls.discard(call)
        if models is not None:
            self._answers += 1
            for model in models:
                self._models.setdefault(model["id"], model)
        if self._calls:
            return
        if self._answers:
            self._client.respond(_json({"object": "list", "data": list(self._models.values())}))
        else:
            self._client.respond(error(502, "no engine gives its models"))

    def left(self) -> None:
        self.abandon()

    def abandon(self) -> None:
        for call in self._calls:
            call.connection.cancel()
        self._calls.clear()

    def pause(self) -> None:
        """Nothing is streamed."""

    resume = pause


class _ModelList(msgspec.Struct):
    data: list[dict[str, Any]]


class _ModelsCall:
    """The sink of one engine's answer."""

    def __init__(self, models: Models) -> None:
        self.connection: Connection
        self._models = models
        self._body = b""
        self._status = 0

    def received(self, head: Head | None, body: bytes, done: bool) -> None:
        if head is not None:
            self._status = head.status
        self._body += body
        if done:
            self._models.over(self, self._listed())
        elif len(self._body) > MAX_MODELS_BYTES:
            self.connection.cancel()
            self.lost()

    def lost(self) -> None:
        self._models.over(self, None)

    silent = lost

    def _listed(self) -> list[dict[str, Any]] | None:
        if self._status != 200:
            return None
        try:
            models = msgspec.json.decode(self._body, type=_ModelList).data
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        return models if all(isinstance(model.get("id"), str) for model in models) else None
