"""The engines, bodies and answers that the proxy's suites play through a proxy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pd_testkit.contract import Call, Exchange, Instance, Proxy, Reply, Role

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"

BODY: Mapping[str, Any] = {"model": "m", "prompt": "one two three", "max_tokens": 16}

HAND_OFF: Mapping[str, Any] = {
    "do_remote_prefill": True,
    "do_remote_decode": False,
    "remote_engine_id": "engine-7",
    "remote_block_ids": [9, 2, 4],
    "remote_host": "10.0.0.1",
    "remote_port": 7001,
    "transfer_id": 77,
}
"""What P's answer carries for D, in the wire names that vLLM and ATOM share."""


def p(number: int, **fields: Any) -> Instance:
    """The P instance of that number."""
    return Instance(Role.PRODUCER, f"http://10.0.0.{number}:8000", **fields)


def d(number: int, **fields: Any) -> Instance:
    """The D instance of that number."""
    return Instance(Role.CONSUMER, f"http://10.0.1.{number}:8000", **fields)


def serving(make: Callable[..., Any], *instances: Instance) -> Proxy:
    """A proxy with these instances; one P and one D if none are given."""
    proxy: Proxy = make()
    for instance in instances or (p(1), d(1)):
        proxy.register(instance)
    return proxy


def body(**fields: Any) -> dict[str, Any]:
    """A completion's body, with these fields changed."""
    return {**BODY, **fields}


def prefilled(**hand_off: Any) -> Reply:
    """P's success, with these fields of its hand-off changed."""
    return Reply(body={"choices": [], "kv_transfer_params": {**HAND_OFF, **hand_off}})


def failed(status: int) -> Reply:
    """An engine's refusal, with a body of its own."""
    message = f"the engine says {status}"
    return Reply(status=status, body={"error": {"message": message, "code": status}})


def on_p(exchange: Exchange) -> Call:
    """The one call that P got."""
    assert len(exchange.prefill) == 1, (
        f"one call on P expected, {len(exchange.prefill)} seen; "
        f"the client got {exchange.status} {exchange.body[:200]!r}"
    )
    return exchange.prefill[0]


def on_d(exchange: Exchange) -> Call:
    """The one call that D got."""
    assert len(exchange.decode) == 1, (
        f"one call on D expected, {len(exchange.decode)} seen; "
        f"the client got {exchange.status} {exchange.body[:200]!r}"
    )
    return exchange.decode[0]


def params(call: Call) -> Mapping[str, Any]:
    """The call's ``kv_transfer_params``."""
    found = call.body.get("kv_transfer_params")
    assert isinstance(found, Mapping), f"kv_transfer_params expected in {call.body}"
    return found


def dp_rank(call: Call) -> int | None:
    """The DP rank that the call asks for (``x-data-parallel-rank``, as vLLM's servers read it)."""
    rank = call.headers.get("x-data-parallel-rank")
    return None if rank is None else int(rank)


def assert_even(keys: Iterable[Any], seen: Iterable[Any], what: str) -> None:
    """Whenever one looks, no key was served two times more than another."""
    counts = Counter(dict.fromkeys(keys, 0))
    for turn, key in enumerate(seen, start=1):
        assert key in counts, f"{what} {key} served request {turn}, and is none of {list(counts)}"
        counts[key] += 1
        spread = max(counts.values()) - min(counts.values())
        assert spread <= 1, f"after {turn} requests the shares per {what} are {dict(counts)}"
