"""One client request under way: which call to make now, and what the client gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from pd_testkit.proxy.instances import Instance
from pd_testkit.proxy.messages import Call, Response, error
from pd_testkit.proxy.protocols import NoHandOff, Pair, decode_body

if TYPE_CHECKING:
    from pd_testkit.proxy.router import Router

Kind = Literal["pd", "direct", "aggregated"]


class _PrefillAnswer(msgspec.Struct):
    """What of P's answer matters."""

    kv_transfer_params: Any = None


_prefill_answer = msgspec.json.Decoder(_PrefillAnswer)


@dataclass(frozen=True)
class Request:
    """What the client asked."""

    body: Mapping[str, Any]
    path: str
    headers: Mapping[str, str]
    """Those that go on to the engines."""
    client_id: str
    """Its ``x-request-id``; empty if it has none."""


@dataclass(frozen=True)
class Plan:
    """How one attempt at a request goes."""

    kind: Kind
    request_id: str
    call: Call
    """The first one."""
    decode: Instance
    prefill: Instance | None = None
    pair: Pair | None = None
    """Of a ``pd``."""
    decode_headers: Mapping[str, str] = field(default_factory=dict)


class Route:
    """One client request under way. It holds its place in the load counts until it is over.

    It is over once a method has returned a `Response`, or `finished` or `cancelled` was called.
    Methods are called in the order of events; ``now`` is in seconds and never falls.
    """

    def __init__(self, router: Router, request: Request, plan: Plan, now: float) -> None:
        self._router = router
        self._request = request
        self.stream = request.body.get("stream") is True
        """The client asked for an event stream."""
        self.retries = 0
        self._tried: list[Instance] = []
        self._held: list[Instance] = []
        self._follow(plan, now)

    def _follow(self, plan: Plan, now: float) -> None:
        self._plan = plan
        self.call = plan.call
        """The one to make now."""
        self.request_id = plan.request_id
        self.kind: Kind = plan.kind
        self._called_at = now
        self._passing = False
        for instance in (plan.prefill, plan.decode):
            if instance is not None:
                instance.in_flight += 1
                instance.breaker.enter(self)
                self._held.append(instance)

    def answered(self, answer: Response, now: float) -> Call | Response:
        """The prefill engine's whole answer is in.

        -> the decode call; or a retry on another P; or what the client gets.
        """
        plan = self._plan
        assert plan.prefill is not None
        assert plan.pair is not None
        if 400 <= answer.status < 500:
            plan.prefill.breaker.succeeded()
            return self._over(answer)
        if not 200 <= answer.status < 300:
            return self._failed(plan.prefill, answer, now)
        try:
            hand_off = _prefill_answer.decode(answer.body).kv_transfer_params
            body = decode_body(self._request.body, plan.pair, hand_off)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, NoHandOff):
            missing = error(502, "the prefill engine's answer carries no kv_transfer_params")
            return self._failed(plan.prefill, missing, now)
        plan.prefill.breaker.succeeded()
        self._release(plan.prefill)
        self._called_at = now
        self.call = Call(
            "decode", plan.decode.engine, self._request.path, plan.decode_headers, body
        )
        return self.call

    def lost(self, now: float) -> Call | Response:
        """The connection to the engine broke before anything of its answer was passed on."""
        return self._failed(self._asked(), error(502, f"the {self.call.leg} engine is gone"), now)

    def silent(self, now: float) -> Call | Response:
        """The engine sent nothing for the read timeout, nor was anything passed on."""
        return self._failed(
            self._asked(), error(504, f"the {self.call.leg} engine does not answer"), now
        )

    def started(self, status: int, now: float) -> Call | None:
        """The head of D's answer is in.

        None: the shell passes the answer on as it is, and nothing is retried any more.
        A Call: make that instead, and drop this answer.
        """
        decode = self._plan.decode
        self._passing = True
        if 400 <= status < 500:
            decode.breaker.succeeded()
        return None

    def first_byte(self, now: float) -> None:
        """The first byte of D's body is in."""

    def finished(self, now: float, ok: bool) -> None:
        """The client has all of D's answer; or not ``ok``: D's answer broke off."""
        self._release_all()

    def cancelled(self, now: float) -> Call | None:
        """The client has left.

        A Call: P has answered and D's answer has not begun. Unless it is under way already, make
        it, and drop it once D has it: only D can have P's blocks released.
        """
        self._release_all()
        return None

    def _asked(self) -> Instance:
        plan = self._plan
        if self.call.leg == "prefill" and plan.prefill is not None:
            return plan.prefill
        return plan.decode

    def _failed(self, instance: Instance, answer: Response, now: float) -> Call | Response:
        instance.breaker.failed(now)
        return self._over(answer)

    def _release(self, instance: Instance) -> None:
        self._held.remove(instance)
        instance.in_flight -= 1
        instance.breaker.leave(self)

    def _over(self, answer: Response) -> Response:
        self._release_all()
        return answer

    def _release_all(self) -> None:
        for instance in tuple(self._held):
            self._release(instance)
