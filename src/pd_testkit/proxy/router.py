"""Which engines serve a request: modes, choices, limits."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from pd_testkit.proxy.conversations import Conversations
from pd_testkit.proxy.instances import Registry
from pd_testkit.proxy.messages import Call, Response, error
from pd_testkit.proxy.policies import policy
from pd_testkit.proxy.protocols import Pair, prefill_body, protocol, request_id
from pd_testkit.proxy.route import Plan, Request, Route
from pd_testkit.proxy.settings import MODES, Settings

PATHS = ("/v1/completions", "/v1/chat/completions")

_FORWARDED_HEADERS = ("authorization", "traceparent", "tracestate")

_body = msgspec.json.Decoder()


class Router:
    """The engines, the requests under way, and whose turn it is.

    Args:
        settings: how it behaves.
        rng: of the policies that draw.
        new_id: 32 hexadecimal digits, each time others.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        rng: random.Random | None = None,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self.settings = settings or Settings()
        self._new_id = new_id
        self.registry = Registry(
            self.settings.lifetime_s,
            self.settings.breaker_threshold,
            self.settings.breaker_cool_down_s,
        )
        self.conversations = Conversations(
            self.settings.max_conversations, self.settings.conversation_lifetime_s
        )
        rng = rng or random.Random(0)
        self._prefill_policy = policy(self.settings.policy, rng)
        self._decode_policy = policy(self.settings.policy, rng)
        self.mode = self.settings.mode
        """Of `MODES`."""

    def set_mode(self, name: str) -> None:
        """Requests under way go on as they started.

        Raises:
            ValueError: there is no such mode.
        """
        if name not in MODES:
            raise ValueError(f"mode {name!r} is none of {', '.join(MODES)}")
        self.mode = name

    def tick(self, now: float) -> None:
        """Let go of instances and conversations whose time is over; about once a second."""
        self.registry.expire(now)

    def instances(self, now: float) -> list[dict[str, Any]]:
        """For people: each instance with its load and health."""
        return [
            {
                "role": instance.engine.leg,
                "url": instance.engine.url,
                "protocol": protocol(instance.engine, self.settings.protocol) or "nixl",
                "transfer_mode": instance.engine.transfer_mode,
                "dp_size": instance.engine.dp_size,
                "tp_size": instance.engine.tp_size,
                "static": instance.engine.static,
                "in_flight": instance.in_flight,
                "queued_tokens": instance.queued_tokens,
                "breaker": instance.breaker.state(now),
                "heartbeat_age_s": None if instance.engine.static else now - instance.seen_at,
            }
            for leg in ("prefill", "decode")
            for instance in self.registry.instances(leg)
        ]

    def start(
        self, body: bytes | Mapping[str, Any], path: str, headers: Mapping[str, str], now: float
    ) -> Route | Response:
        """Route one client request.

        Args:
            body: as it came, or the object in it, which is never written to.
            path: the one that the client asked.
            headers: names in lower case.
            now: seconds.
        """
        if path not in PATHS:
            return error(404, f"no such path: {path}")
        wanted = _parsed(body) if isinstance(body, bytes) else body
        if not isinstance(wanted, Mapping):
            return error(400, "the body is no JSON object")
        if not isinstance(wanted.get("model"), str):
            return error(400, "the model is missing")
        request = Request(
            wanted,
            path,
            {name: headers[name] for name in _FORWARDED_HEADERS if name in headers},
            headers.get("x-request-id", ""),
        )
        plan = self._plan(request, now)
        return plan if isinstance(plan, Response) else Route(self, request, plan, now)

    def _plan(self, request: Request, now: float) -> Plan | Response:
        prefillers = self.registry.instances("prefill")
        decoders = self.registry.instances("decode")
        if not prefillers or not decoders:
            return error(503, f"{len(prefillers)} prefill and {len(decoders)} decode engines", 1)
        prefill = self._prefill_policy.choose(prefillers, b"")
        decode = self._decode_policy.choose(decoders, b"")
        p, d = prefill.engine, decode.engine
        rank = prefill.next_dp_rank() if p.dp_size > 1 else None
        pair = Pair(p, d, protocol(p, self.settings.protocol), rank, self._new_id())
        own_id = request_id(pair, request.client_id)
        shared = {**request.headers, "x-request-id": own_id}
        ranked = shared if rank is None else {**shared, "x-data-parallel-rank": str(rank)}
        call = Call("prefill", p, request.path, ranked, prefill_body(request.body, pair))
        return Plan("pd", own_id, call, decode, prefill, pair, shared)


def _parsed(raw: bytes) -> Any:
    """What the bytes say; None where they are no JSON, as for ``null``."""
    try:
        return _body.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
