"""A router with engines, and the steps of a request through it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import count
from typing import Any

from pd_testkit.proxy.instances import Engine
from pd_testkit.proxy.messages import Call, Response
from pd_testkit.proxy.route import Route
from pd_testkit.proxy.router import Router
from pd_testkit.proxy.settings import Settings

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
BODY: Mapping[str, Any] = {"model": "m", "prompt": "one two three", "max_tokens": 4}

HAND_OFF: Mapping[str, Any] = {
    "do_remote_prefill": True,
    "do_remote_decode": False,
    "remote_engine_id": "engine-p",
    "remote_block_ids": [4, 2],
    "remote_host": "10.9.9.9",
    "remote_port": 7001,
}
PREFILLED = Response(200, json.dumps({"choices": [], "kv_transfer_params": HAND_OFF}).encode())
FAILED = Response(500, b'{"error": {"message": "out of memory"}}')


def p(number: int = 1, **fields: Any) -> Engine:
    """The P engine of that number."""
    return Engine("prefill", f"http://p{number}:8000", **fields)


def d(number: int = 1, **fields: Any) -> Engine:
    """The D engine of that number."""
    return Engine("decode", f"http://d{number}:8000", **fields)


def router(*engines: Engine, **settings: Any) -> Router:
    """With these engines, or one P and one D; its ids are 1, 2, ... in 32 digits."""
    numbers = count(1)
    made = Router(Settings(**settings), new_id=lambda: f"{next(numbers):032x}")
    for engine in engines or (p(), d()):
        made.registry.register(engine, 0.0)
    return made


def start(
    made: Router,
    body: Mapping[str, Any] = BODY,
    *,
    path: str = COMPLETIONS,
    headers: Mapping[str, str] | None = None,
    now: float = 0.0,
) -> Route:
    """A request that is routed."""
    route = made.start(body, path, headers or {}, now)
    assert isinstance(route, Route), route
    return route


def decode_call(route: Route, answer: Response = PREFILLED, now: float = 0.0) -> Call:
    """What follows when P has answered so: a call to D."""
    call = route.answered(answer, now)
    assert isinstance(call, Call), call
    assert call.leg == "decode"
    return call


def serve(route: Route, now: float = 0.0, answer_tokens: int = 0) -> Call:
    """The request to its end; the call that D got."""
    call = decode_call(route, now=now) if route.call.leg == "prefill" else route.call
    assert route.started(200, now) is None
    route.first_byte(now)
    route.finished(now, ok=True, answer_tokens=answer_tokens)
    return call


def urls(made: Router, leg: str, requests: int = 6, body: Mapping[str, Any] = BODY) -> list[str]:
    """The engines of that leg that the next requests go to."""
    seen = []
    for _ in range(requests):
        route = start(made, body)
        first = route.call
        last = serve(route)
        seen.append((first if leg == "prefill" else last).engine.url)
    return seen


def load(made: Router) -> dict[str, tuple[int, int]]:
    """Per engine that has any: requests, and prompt tokens that wait."""
    return {
        each["url"]: (each["in_flight"], each["queued_tokens"])
        for each in made.instances(0.0)
        if each["in_flight"] or each["queued_tokens"]
    }


def message(response: Response | Call | Route | None) -> str:
    """The message of an error in the OpenAI API's form."""
    assert isinstance(response, Response), response
    text = json.loads(response.body)["error"]["message"]
    assert isinstance(text, str)
    return text
