"""One client request under way: which call to make now, and what the client gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from pd_testkit.proxy.conversations import Turn
from pd_testkit.proxy.instances import Instance
from pd_testkit.proxy.messages import Call, Response, error
from pd_testkit.proxy.prompts import Prompt
from pd_testkit.proxy.protocols import NoHandOff, Pair, decode_body

if TYPE_CHECKING:
    from pd_testkit.proxy.router import Router

Kind = Literal["pd", "direct", "aggregated"]


class _PrefillAnswer(msgspec.Struct):
    """What of P's answer matters."""

    kv_transfer_params: Any = None


_prefill_answer = msgspec.json.Decoder(_PrefillAnswer)


class Request(msgspec.Struct, frozen=True):
    """What the client asked."""

    body: Mapping[str, Any]
    path: str
    headers: Mapping[str, str]
    """Those that go on to the engines."""
    client_id: str
    """Its ``x-request-id``; empty if it has none."""
    mode: str
    """When it came."""
    tokens: int
    """Of its prompt, estimated."""
    key: bytes
    """A digest of its prompt's beginning, if the policy looks at it."""
    prompt: Prompt | None
    """If the mode looks at conversations, and the prompt can be part of one."""


class Attempt(msgspec.Struct, frozen=True):
    """How one attempt at a request goes."""

    kind: Kind
    request_id: str
    call: Call
    """The first one."""
    decode: Instance
    """The one whose answer the client gets."""
    tokens: int
    """That the first engine has to prefill, estimated."""
    missing: int
    """Of the prompt's tokens those that D has not cached, estimated."""
    prefill: Instance | None = None
    pair: Pair | None = None
    """Of a ``pd``, as `prefill` is."""
    decode_headers: Mapping[str, str] = {}
    dp_rank: int | None = None
    """Of D, where the request shall find it again."""
    continued: Turn | None = None
    """The turn of the conversation before this one."""


class Route:
    """One client request under way. It holds its places in the load counts until it is over.

    It is over once a method has returned a `Response`, or `finished` or `cancelled` was called,
    which may be called again. Methods are called in the order of events; ``now`` is in seconds
    and never falls.
    """

    __slots__ = (
        "_ahead",
        "_attempt",
        "_begun",
        "_called_at",
        "_held",
        "_over",
        "_passing",
        "_request",
        "_router",
        "_tried",
        "_turn",
        "_waiting",
        "call",
        "release",
        "retries",
        "stream",
    )

    def __init__(self, router: Router, request: Request, attempt: Attempt, now: float) -> None:
        self._router = router
        self._request = request
        self._tried: list[Instance] = []
        self._over = False
        self.retries = 0
        self.stream = request.body.get("stream") is True
        """The client asked for an event stream."""
        self.release: Call | None = None
        """Set where a D failed that P had prefilled for: make it, too, and drop its answer."""
        self._called_at = now
        self._ahead = 0
        self._follow(attempt, now)

    @property
    def request_id(self) -> str:
        """The engines'; a retry has another one."""
        return self._attempt.request_id

    @property
    def kind(self) -> Kind:
        """``pd``: P then D. ``direct``: a D alone, on what it has. ``aggregated``: one engine."""
        return self._attempt.kind

    def answered(self, answer: Response, now: float) -> Call | Response:
        """The prefill engine's whole answer is in.

        -> the decode call; or a retry on another P; or what the client gets. After `cancelled`, if
        the shell let P go on: the call to make and to drop, or nothing of interest.
        """
        attempt = self._attempt
        prefill, pair = attempt.prefill, attempt.pair
        assert prefill is not None
        assert pair is not None
        if 400 <= answer.status < 500:
            prefill.breaker.succeeded()
            return self._end(answer)
        if not 200 <= answer.status < 300:
            return self._retry(prefill, now) or self._end(answer)
        try:
            hand_off = _prefill_answer.decode(answer.body).kv_transfer_params
            body = decode_body(self._request.body, pair, hand_off)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, NoHandOff):
            missing = error(502, "the prefill engine's answer carries no kv_transfer_params")
            return self._retry(prefill, now) or self._end(missing)
        prefill.breaker.succeeded()
        if not self._over:
            self._release(prefill)
            self._router.cost.prefilled(self._ahead, now - self._called_at)
        self._called_at = now
        self.call = Call(
            "decode", attempt.decode.engine, self._request.path, attempt.decode_headers, body
        )
        return self.call

    def lost(self, now: float) -> Call | Response:
        """The connection to the engine broke before anything of its answer was passed on.

        -> another attempt; or a 502, always so once D's head was in.
        """
        self._give_back(now)
        return self._retry(self._asked, now) or self._end(
            error(502, f"the {self.call.leg} engine is gone")
        )

    def refused(self, now: float) -> Call | Response:
        """No connection to the engine could be made: it has nothing of the call.

        As `lost`, but for a D: where another one can, it takes over what P has handed out, which
        else would stay on P for good.
        """
        return self._elsewhere(now) or self.lost(now)

    def silent(self, now: float) -> Call | Response:
        """The engine sent nothing for the read timeout, and nothing was passed on: as `lost`, but
        a 504."""
        self._give_back(now)
        return self._retry(self._asked, now) or self._end(
            error(504, f"the {self.call.leg} engine does not answer")
        )

    def started(self, status: int, now: float) -> Call | None:
        """The head of D's answer is in.

        None: the shell passes the answer on as it is, and nothing is retried any more.
        A Call: make that instead, and drop this answer.
        """
        decode = self._attempt.decode
        if 200 <= status < 300:
            self._remember(now)
        elif 400 <= status < 500:
            decode.breaker.succeeded()
        else:
            self._give_back(now)
            retry = self._retry(decode, now)
            if retry is None:
                self._leave()
            return retry
        self._passing = status
        return None

    def first_byte(self, now: float) -> None:
        """The first byte of D's body is in."""
        attempt = self._attempt
        if self._over or not self._succeeding:
            return
        self._begun = True
        attempt.decode.breaker.answering(self)
        self._prefilled()
        if attempt.kind == "pd" and self.stream:  # a whole answer waits for the decode, too
            self._router.cost.transferred(attempt.missing, now - self._called_at)

    def finished(self, now: float, ok: bool, answer_tokens: int = 0) -> None:
        """D's answer has come to its end; or not ``ok``: it broke off.

        Args:
            answer_tokens: of the answer, estimated; 0: nothing tells.
        """
        if self._over:
            return
        if self._succeeding and ok:
            self._attempt.decode.breaker.succeeded()
            if self._turn is not None:
                self._turn.tokens += answer_tokens
        elif self._succeeding:
            if not self._begun:
                self._give_back(now)
            self._failed(self._attempt.decode, now)
        self._leave()

    def cancelled(self, now: float) -> Call | None:
        """The client has left.

        A Call: P has answered and D's answer has not begun. Unless it is under way already, make
        it, and drop it once D has it: only D can have P's blocks released.
        """
        if self._over:
            return None
        pinned = self.kind == "pd" and self.call.leg == "decode" and not self._passing
        self._leave()
        return self.call if pinned else None

    @property
    def _succeeding(self) -> bool:
        return 200 <= self._passing < 300

    @property
    def _asked(self) -> Instance:
        """The engine of the call that is under way."""
        prefill = self._attempt.prefill
        return self._attempt.decode if prefill is None or prefill not in self._held else prefill

    def _follow(self, attempt: Attempt, now: float) -> None:
        self._attempt = attempt
        self.call = attempt.call
        """The one to make now."""
        self._called_at = now
        self._passing = 0
        """The status of D's answer, once it is passed on."""
        self._begun = False
        """Some of its body is there: D has P's KV."""
        self._turn: Turn | None = None
        """What the next turn of its conversation finds."""
        self._held: list[Instance] = []
        self._hold(attempt.decode)
        if attempt.prefill is not None:
            self._hold(attempt.prefill)
        self._waiting: Instance | None = self._held[-1]
        self._held[-1].queued_tokens += attempt.tokens
        self._ahead = self._held[-1].queued_tokens

    def _retry(self, failed: Instance, now: float) -> Call | None:
        """Another attempt, without the engines that have failed; None: there is none.

        Nor is there one after D's head: D has had P's blocks released then.
        """
        if self._over:
            return None
        self._failed(failed, now)
        if self._passing or self.retries == self._router.settings.retries:
            return None
        self._tried.append(failed)
        self._release_all()
        attempt = self._router.attempt(self._request, self._tried, now)
        if isinstance(attempt, Response):
            return None
        self.retries += 1
        self._follow(attempt, now)
        return self.call

    def _elsewhere(self, now: float) -> Call | None:
        """The decode call, to another D."""
        refusing = self._attempt.decode
        if self._over or self.kind != "pd" or self.call.leg != "decode":
            return None
        if self.retries == self._router.settings.retries:
            return None
        tried = [*self._tried, refusing]
        attempt = self._router.decode_elsewhere(self._request, self._attempt, tried, now)
        if attempt is None:
            return None
        self._failed(refusing, now)
        self._release(refusing)
        self.retries += 1
        self._tried = tried
        self._attempt = attempt
        self._hold(attempt.decode)
        self._called_at = now
        self.call = Call(
            "decode",
            attempt.decode.engine,
            self._request.path,
            attempt.decode_headers,
            self.call.body,
        )
        return self.call

    def _give_back(self, now: float) -> None:
        """If the call is a decode, then whatever P holds for it is of no use any more."""
        params = self.call.body.get("kv_transfer_params")
        if self._over or self.kind != "pd" or self.call.leg != "decode" or params is None:
            return
        self.release = self._router.release(self._request, self._attempt, params, now)

    def _failed(self, instance: Instance, now: float) -> None:
        instance.breaker.failed(now)
        if self._passing and self._request.prompt is not None:
            self._router.conversations.forget(self._request.prompt)

    def _remember(self, now: float) -> None:
        """D has the prompt's KV, and shall get the conversation's next turn."""
        request, attempt = self._request, self._attempt
        if request.prompt is not None:
            self._turn = self._router.conversations.remember(
                request.prompt,
                attempt.decode,
                attempt.dp_rank,
                request.tokens,
                attempt.continued,
                now,
                attempt.prefill,
            )

    def _prefilled(self) -> None:
        """The prompt waits no longer."""
        if self._waiting is not None:
            self._waiting.queued_tokens -= self._attempt.tokens
            self._waiting = None

    def _hold(self, instance: Instance) -> None:
        self._held.append(instance)
        instance.in_flight += 1
        instance.breaker.enter(self)

    def _release(self, instance: Instance) -> None:
        if instance is self._waiting:
            self._prefilled()
        self._held.remove(instance)
        instance.in_flight -= 1
        instance.breaker.leave(self)

    def _release_all(self) -> None:
        while self._held:
            self._release(self._held[-1])

    def _leave(self) -> None:
        if not self._over:
            self._over = True
            self._release_all()
            self._router.in_flight -= 1

    def _end(self, answer: Response) -> Response:
        self._leave()
        return answer
