"""The proxy's core, in the contract's words, with scripted engines behind it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pd_testkit.contract import Call as Seen
from pd_testkit.contract import Exchange, Instance, Reply, Role
from pd_testkit.proxy.instances import Engine, Leg, address
from pd_testkit.proxy.messages import Call, Response
from pd_testkit.proxy.route import Route
from pd_testkit.proxy.router import Router

_LEGS: dict[Role, Leg] = {Role.PRODUCER: "prefill", Role.CONSUMER: "decode"}

_ANSWERS: dict[Leg, dict[str, Any]] = {
    "prefill": {
        "object": "text_completion",
        "choices": [{"index": 0, "text": "P", "finish_reason": "length"}],
        "kv_transfer_params": {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_engine_id": "scripted-p",
            "remote_block_ids": [0],
            "remote_host": "10.0.0.1",
            "remote_port": 7001,
        },
    },
    "decode": {
        "object": "text_completion",
        "choices": [{"index": 0, "text": "D", "finish_reason": "length"}],
    },
}
"""What an engine says that no clause gave a script."""


_NOW = 0.0
"""Seconds. Whatever the clauses check takes no time."""


class ProxyDriver:
    def __init__(self) -> None:
        self._router = Router()

    def register(self, instance: Instance) -> bool:
        engine = Engine(
            leg=_LEGS[instance.role],
            url=instance.url,
            transfer_mode=instance.transfer_mode,
            dp_size=instance.dp_size,
            tp_size=instance.tp_size,
            handshake_port=instance.handshake_port,
            heartbeat=instance.heartbeat,
        )
        return self._router.registry.register(engine, _NOW)

    def unregister(self, role: Role, url: str) -> None:
        self._router.registry.unregister(_LEGS[role], url)

    def instances(self, role: Role) -> tuple[str, ...]:
        return tuple(engine.url for engine in self._router.registry.engines(_LEGS[role]))

    def address(self, url: str) -> tuple[str, int]:
        return address(url)

    def patience(self) -> float:
        return self._router.settings.read_timeout_s

    def send(
        self,
        body: Mapping[str, Any] | bytes,
        *,
        path: str = "/v1/completions",
        headers: Mapping[str, str] | None = None,
        prefill: Reply | None = None,
        decode: Reply | None = None,
    ) -> Exchange:
        lower = {name.lower(): value for name, value in (headers or {}).items()}
        seen: dict[Leg, list[Seen]] = {"prefill": [], "decode": []}
        route = self._router.start(body, path, lower, _NOW)
        response = route if isinstance(route, Response) else _drive(route, prefill, decode, seen)
        return Exchange(
            response.status,
            response.body,
            tuple(seen["prefill"]),
            tuple(seen["decode"]),
            headers={"content-type": response.content_type},
        )


def _drive(
    route: Route, prefill: Reply | None, decode: Reply | None, seen: dict[Leg, list[Seen]]
) -> Response:
    """Carry one request's calls to the scripted engines, until the client has its answer."""
    step: Call | Response = route.call
    while isinstance(step, Call):
        seen[step.leg].append(_seen(step))
        answer = _answer(step.leg, prefill if step.leg == "prefill" else decode)
        if answer is None:
            step = route.lost(_NOW)
        elif step.leg == "prefill":
            step = route.answered(answer, _NOW)
        else:
            step = route.started(answer.status, _NOW) or answer
    route.first_byte(_NOW)
    route.finished(_NOW, ok=True)
    return step


def _seen(call: Call) -> Seen:
    """The call as the engine gets it: through the wire, so that no object is shared."""
    return Seen(call.engine.url, call.path, json.loads(json.dumps(call.body)), dict(call.headers))


def _answer(leg: Leg, reply: Reply | None) -> Response | None:
    """None: the engine is lost."""
    reply = reply or Reply()
    if reply.lost:
        return None
    body = _ANSWERS[leg] if reply.body is None else reply.body
    raw = b"".join(reply.raw) if reply.raw else json.dumps(body).encode()
    return Response(reply.status, raw, reply.content_type)
