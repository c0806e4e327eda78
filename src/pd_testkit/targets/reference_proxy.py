"""The reference's proxy, in the contract's words, with scripted engines behind it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pd_testkit.contract import Call as Seen
from pd_testkit.contract import Exchange, Instance, Reply, Role
from pd_testkit.reference.proxy import Call, Engine, Leg, Proxy, Response, Route, address

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


class ProxyDriver:
    def __init__(self) -> None:
        self._proxy = Proxy()

    def register(self, instance: Instance) -> bool:
        return self._proxy.register(
            Engine(
                leg=_LEGS[instance.role],
                url=instance.url,
                transfer_mode=instance.transfer_mode,
                dp_size=instance.dp_size,
                tp_size=instance.tp_size,
                handshake_port=instance.handshake_port,
                heartbeat=instance.heartbeat,
            )
        )

    def unregister(self, role: Role, url: str) -> None:
        self._proxy.unregister(_LEGS[role], url)

    def instances(self, role: Role) -> tuple[str, ...]:
        return tuple(engine.url for engine in self._proxy.engines(_LEGS[role]))

    def address(self, url: str) -> tuple[str, int]:
        return address(url)

    def patience(self) -> float:
        return self._proxy.timeout_s

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
        route = self._proxy.start(body, path, lower)
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
    seen["prefill"].append(_seen(route.prefill))
    answer = _answer("prefill", prefill)
    if answer is None:
        return route.engine_lost("prefill")
    step = route.prefill_answered(answer)
    if isinstance(step, Response):
        return step
    seen["decode"].append(_seen(step))
    answer = _answer("decode", decode)
    return route.engine_lost("decode") if answer is None else route.decode_answered(answer)


def _seen(call: Call) -> Seen:
    """The call as the engine gets it: through the wire, so that no object is shared."""
    return Seen(call.url, call.path, json.loads(json.dumps(call.body)), dict(call.headers))


def _answer(leg: Leg, reply: Reply | None) -> Response | None:
    """None: the engine is lost."""
    reply = reply or Reply()
    if reply.lost:
        return None
    body = _ANSWERS[leg] if reply.body is None else reply.body
    raw = b"".join(reply.raw) if reply.raw else json.dumps(body).encode()
    return Response(reply.status, raw, reply.content_type)
