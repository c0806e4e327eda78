"""Which engines serve a request: modes, choices, limits."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from pd_testkit.proxy.conversations import Conversations, Turn
from pd_testkit.proxy.cost import CostModel
from pd_testkit.proxy.instances import Engine, Instance, Leg, Registry
from pd_testkit.proxy.messages import Call, Response, error
from pd_testkit.proxy.policies import policy
from pd_testkit.proxy.prompts import estimated_tokens, opening, prompt_of
from pd_testkit.proxy.protocols import (
    Pair,
    decode_is_bound,
    plain_request_id,
    prefill_body,
    refused_body,
    request_id,
    together,
    whole_body,
)
from pd_testkit.proxy.route import Attempt, Kind, Request, Route
from pd_testkit.proxy.settings import MODES, Settings

PATHS = ("/v1/completions", "/v1/chat/completions")

_FORWARDED_HEADERS = ("authorization", "traceparent", "tracestate")

_KEY_BYTES = 1024
"""Of a prompt's beginning, for the policies that look at it."""

_RETRY_AFTER_S = 1.0
"""When nothing better is known."""

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
        new_id: Callable[[], str] = lambda: os.urandom(16).hex(),
    ) -> None:
        self.settings = settings = settings or Settings()
        self.registry = Registry(
            settings.lifetime_s,
            settings.breaker_threshold,
            settings.breaker_cool_down_s,
            settings.protocol,
        )
        self.conversations = Conversations(
            settings.max_conversations, settings.conversation_lifetime_s
        )
        self.cost = CostModel(settings)
        self.mode = settings.mode
        """Of `MODES`."""
        self.in_flight = 0
        """Client requests under way."""
        self._policy = policy(settings.policy, rng or random.Random(0))
        self._turn = 0
        self._new_id = new_id

    def set_mode(self, name: str) -> None:
        """For the requests to come; those under way go on as they started.

        Raises:
            ValueError: there is no such mode.
        """
        if name not in MODES:
            raise ValueError(f"mode {name!r} is none of {', '.join(MODES)}")
        self.mode = name

    def tick(self, now: float) -> tuple[Engine, ...]:
        """Let go of what has had its time, about once a second: which instances that were."""
        self.conversations.expire(now)
        return self.registry.expire(now)

    def instances(self, now: float) -> list[dict[str, Any]]:
        """For people: each instance with its load and health."""
        return [
            {
                "role": leg,
                "url": instance.engine.url,
                "protocol": instance.protocol or "by answer",
                "transfer_mode": instance.engine.transfer_mode,
                "dp_size": instance.engine.dp_size,
                "tp_size": instance.engine.tp_size,
                "static": instance.engine.static,
                "in_flight": instance.in_flight,
                "queued_tokens": instance.queued_tokens,
                "breaker": instance.breaker.state(now),
                "well": self._well(instance),
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
        if self.in_flight >= self.settings.max_in_flight:
            return error(429, f"{self.in_flight} requests are under way", _RETRY_AFTER_S)
        wanted = _parsed(body) if isinstance(body, bytes) else body
        if not isinstance(wanted, Mapping):
            return error(400, "the body is no JSON object")
        model = wanted.get("model")
        if not model or not isinstance(model, str):
            return error(400, "the model is missing")
        request = Request(
            body=wanted,
            path=path,
            headers={name: headers[name] for name in _FORWARDED_HEADERS if name in headers},
            client_id=headers.get("x-request-id", ""),
            mode=self.mode,
            tokens=estimated_tokens(wanted, self.settings.characters_per_token),
            key=opening(wanted, _KEY_BYTES) if self._policy.keyed else b"",
            prompt=prompt_of(wanted) if self.mode in ("ppd", "adaptive") else None,
        )
        attempt = self.attempt(request, (), now)
        if isinstance(attempt, Response):
            return attempt
        self.in_flight += 1
        return Route(self, request, attempt, now)

    def attempt(
        self, request: Request, tried: Sequence[Instance], now: float
    ) -> Attempt | Response:
        """How to serve the request without the engines that were tried; or why not: a 503."""
        prefillers = self._available("prefill", tried, now)
        decoders = self._available("decode", tried, now)
        if request.mode == "aggregated":
            engines = prefillers + decoders
            if not engines:
                return self._nobody(prefillers, decoders, now)
            return self._alone("aggregated", request, self._policy.choose(engines, request.key))
        turn = self._continued(request, decoders, now)
        if turn is not None:
            if request.mode == "ppd":
                return self._alone("direct", request, turn.decode, turn)
            decoders = [turn.decode]
        decode, prefill = self._pair(request, prefillers, decoders)
        if decode is None:
            return self._nobody(prefillers, decoders, now)
        if decode.protocol == "aggregated":
            return self._alone("aggregated", request, decode)
        if request.mode == "adaptive" and (
            prefill is None or self._direct_is_quicker(request, prefill, decode, turn)
        ):
            return self._alone("direct", request, decode, turn)
        if prefill is None:
            return self._nobody(prefillers, decoders, now)
        return self._split(request, prefill, decode, turn)

    def decode_elsewhere(
        self, request: Request, attempt: Attempt, tried: Sequence[Instance], now: float
    ) -> Attempt | None:
        """The attempt with another D, which takes over what P has handed out; None: there is none.

        Its call is still the old one.
        """
        assert attempt.prefill is not None
        assert attempt.pair is not None
        if decode_is_bound(attempt.pair):
            return None
        wanted = attempt.prefill.protocol
        decoders = [
            each
            for each in self._available("decode", tried, now)
            if each.protocol == wanted or together(wanted, each.protocol)
        ]
        if not decoders:
            return None
        decode = self._policy.choose(decoders, request.key)
        self._number(decode)
        rank = self._kept_dp_rank(request, decode, None)
        return msgspec.structs.replace(
            attempt,
            decode=decode,
            decode_headers=_headers(request, attempt.request_id, rank),
            dp_rank=rank,
            continued=None,
            missing=request.tokens,
        )

    def release(
        self, request: Request, attempt: Attempt, params: Mapping[str, Any], now: float
    ) -> Call | None:
        """The call by which P learns that nobody fetches what it holds for the attempt, whose D
        failed before it had. None: nobody can tell P, which keeps it for its lease.

        Only a D speaks to P, and tells it to free the blocks of a call that it must refuse: so it
        is one for a model that no engine serves. Nothing is read by it, which makes it harmless
        where D had taken the blocks over after all. An engine that does not care for the model
        fetches them.
        """
        assert attempt.pair is not None
        failed = attempt.decode
        others = [
            each
            for each in self._available("decode", (failed,), now)
            if each.protocol == failed.protocol or together(failed.protocol, each.protocol)
        ]
        decode = self._policy.choose(others, request.key) if others else failed
        body = refused_body(request.body, params)
        return Call("decode", decode.engine, request.path, attempt.decode_headers, body)

    def _available(self, leg: Leg, tried: Sequence[Instance], now: float) -> list[Instance]:
        room = self.settings.max_in_flight_per_engine
        return [
            instance
            for instance in self.registry.instances(leg)
            if instance.in_flight < room
            and self._well(instance)
            and instance.breaker.allows(now)
            and instance not in tried
        ]

    def _well(self, instance: Instance) -> bool:
        """As far as its health checks tell."""
        return instance.misses < self.settings.health_misses

    def _continued(self, request: Request, decoders: Sequence[Instance], now: float) -> Turn | None:
        """The turn that the request continues, if its D can be had."""
        if request.prompt is None:
            return None
        turn = self.conversations.find(request.prompt, now)
        return turn if turn is not None and turn.decode in decoders else None

    def _pair(
        self, request: Request, prefillers: list[Instance], decoders: list[Instance]
    ) -> tuple[Instance | None, Instance | None]:
        """A D, and a P that speaks its protocol; no P where no D has one, or D needs none."""
        alone = None
        candidates = decoders.copy()
        while candidates:
            decode = self._policy.choose(candidates, request.key)
            if decode.protocol == "aggregated":
                return decode, None
            wanted = decode.protocol
            partners = [
                p for p in prefillers if p.protocol == wanted or together(p.protocol, wanted)
            ]
            if partners:
                return decode, self._policy.choose(partners, request.key)
            alone = alone or decode
            candidates.remove(decode)
        return alone, None

    def _direct_is_quicker(
        self, request: Request, prefill: Instance, decode: Instance, turn: Turn | None
    ) -> bool:
        missing = _missing(request, turn)
        over_p = self.cost.over_prefill_s(
            request.tokens - _prefilled(prefill, turn), missing, prefill.queued_tokens
        )
        return self.cost.direct_s(missing, decode.queued_tokens, decode.in_flight) <= over_p

    def _split(
        self, request: Request, prefill: Instance, decode: Instance, turn: Turn | None
    ) -> Attempt:
        """P, then D."""
        self._number(prefill, decode)
        p, d = prefill.engine, decode.engine
        rank = prefill.next_dp_rank() if p.dp_size > 1 else None
        pair = Pair(p, d, prefill.protocol or decode.protocol, rank, self._new_id())
        name = request_id(pair, request.client_id)
        d_rank = self._kept_dp_rank(request, decode, turn)
        body = prefill_body(request.body, pair)
        return Attempt(
            kind="pd",
            request_id=name,
            call=Call("prefill", p, request.path, _headers(request, name, rank), body),
            decode=decode,
            tokens=request.tokens - _prefilled(prefill, turn),
            missing=_missing(request, turn),
            prefill=prefill,
            pair=pair,
            decode_headers=_headers(request, name, d_rank),
            dp_rank=d_rank,
            continued=turn,
        )

    def _alone(
        self, kind: Kind, request: Request, engine: Instance, turn: Turn | None = None
    ) -> Attempt:
        """One engine, which is told of no other."""
        self._number(engine)
        name = plain_request_id(request.client_id, self._new_id())
        rank = self._kept_dp_rank(request, engine, turn)
        body = whole_body(request.body)
        return Attempt(
            kind=kind,
            request_id=name,
            call=Call("decode", engine.engine, request.path, _headers(request, name, rank), body),
            decode=engine,
            tokens=_missing(request, turn),
            missing=_missing(request, turn),
            dp_rank=rank,
            continued=turn,
        )

    def _number(self, *chosen: Instance) -> None:
        self._turn += 1
        for instance in chosen:
            instance.turn = self._turn

    def _kept_dp_rank(self, request: Request, decode: Instance, turn: Turn | None) -> int | None:
        """The rank of D that has the conversation's KV, or shall have it."""
        if request.prompt is None or decode.engine.dp_size == 1:
            return None
        return decode.next_dp_rank() if turn is None else turn.dp_rank

    def _nobody(
        self, prefillers: Sequence[Instance], decoders: Sequence[Instance], now: float
    ) -> Response:
        """No engines for a request, and when there may be."""
        known = self.registry.instances("prefill") + self.registry.instances("decode")
        waits = [i.breaker.retry_at - now for i in known if i.breaker.retry_at is not None]
        return error(
            503,
            f"{len(prefillers)} prefill and {len(decoders)} decode engines can be had",
            max(_RETRY_AFTER_S, min(waits, default=_RETRY_AFTER_S)),
        )


def _parsed(raw: bytes) -> Any:
    """What the bytes say; None where they are no JSON, as for ``null``."""
    try:
        return _body.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _headers(request: Request, name: str, dp_rank: int | None) -> dict[str, str]:
    headers = {**request.headers, "x-request-id": name}
    if dp_rank is not None:
        headers["x-data-parallel-rank"] = str(dp_rank)
    return headers


def _missing(request: Request, turn: Turn | None) -> int:
    """Of the prompt's tokens those that the turn's D has not cached."""
    return request.tokens if turn is None else max(0, request.tokens - turn.tokens)


def _prefilled(prefill: Instance, turn: Turn | None) -> int:
    """Of the prompt's tokens those that P has cached, if it is the one that had the turn. Which of
    several DP ranks will have it is not known."""
    if turn is None or turn.prefill is not prefill or prefill.engine.dp_size > 1:
        return 0
    return turn.prefilled
