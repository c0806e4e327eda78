"""How the proxy behaves. All of it is fixed at the start; the mode can be switched later."""

from __future__ import annotations

from dataclasses import dataclass, fields

MODES = ("pd", "ppd", "adaptive", "aggregated")
"""What a request's way is: P then D; later turns of a conversation straight to D; whichever the
cost model finds quicker; one engine for all of it."""

PROTOCOLS = ("nixl", "p2p_nccl", "moriio", "aggregated")
"""How P's KV gets to D; see `pd_testkit.proxy.protocols`."""

POLICIES = ("round_robin", "least_loaded", "random", "prefix_affinity")
"""Which engine serves a request; see `pd_testkit.proxy.policies`."""

_MAY_BE_ZERO = (
    "retries",
    "breaker_cool_down_s",
    "health_interval_s",
    "decode_interference",
    "hop_s",
)


@dataclass(frozen=True)
class Settings:
    """Times are in seconds.

    Raises:
        ValueError: a name is none of the choices, or a number is out of its range.
    """

    mode: str = "pd"
    """Of `MODES`, at the start."""
    policy: str = "round_robin"
    """Of `POLICIES`, on both legs."""
    protocol: str = ""
    """Of `PROTOCOLS`, for engines that do not say theirs. Empty: detected per engine."""

    connect_timeout_s: float = 5.0
    """For a connection to an engine."""
    read_timeout_s: float = 600.0
    """An engine that sends nothing for so long is given up."""
    farewell_s: float = 2.0
    """A call whose client has left is kept for so long at most. D's until it answers: closed at
    once, it might never be read. P's, if its answer has begun, until that is whole."""
    retries: int = 2
    """Further attempts at a request of which nothing was passed on yet."""
    lifetime_s: float = 15.0
    """After its last heartbeat a registered instance is kept for so long."""

    max_in_flight: int = 4096
    """Client requests under way; more are refused with 429."""
    max_in_flight_per_engine: int = 1024
    """Requests that one engine may hold, running or queued there; where all engines of a leg hold
    so many, the client gets 503."""
    max_body_bytes: int = 32 * 2**20
    """A larger body of a client is refused with 413."""

    breaker_threshold: int = 5
    """Failures in a row after which an engine is left alone."""
    breaker_cool_down_s: float = 10.0
    """For how long it is."""

    health_interval_s: float = 10.0
    """Between two questions to an engine for its health; 0: it is never asked."""
    health_misses: int = 3
    """Of them unanswered or answered by a 5xx in a row after which an engine gets no requests,
    until it answers one."""

    max_conversations: int = 65536
    """Turns that are remembered; the least recently used one is forgotten first."""
    conversation_lifetime_s: float = 1800.0
    """A turn is remembered for so long after its last use."""

    characters_per_token: float = 4.0
    """What a prompt's length in tokens is estimated by."""
    kv_bytes_per_token: int = 131072
    """Of the model's KV, over all layers and ranks. The default is that of Llama-3.1-8B in 16
    bits: 32 layers x 2 x 8 heads x 128 x 2."""
    prefill_tokens_per_s: float = 8000.0
    """P's rate, until it is measured."""
    decode_prefill_ratio: float = 1.0
    """D's prefill rate as a share of P's."""
    decode_interference: float = 1.0
    """How much of the time by which a prefill on D delays the answers there counts, too. 1: all of
    it, for the least mean latency from end to end. 0: none, for the least time to first token."""
    transfer_bytes_per_s: float = 5e9
    """The rate of KV from P to D, until it is measured."""
    hop_s: float = 0.005
    """What a way over P costs on top: one more request, and P's one token."""

    def __post_init__(self) -> None:
        choices = {"mode": MODES, "policy": POLICIES, "protocol": ("", *PROTOCOLS)}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in choices:
                if value not in choices[field.name]:
                    raise ValueError(f"{field.name} {value!r} is none of {choices[field.name]}")
            elif not (value > 0 or (value == 0 and field.name in _MAY_BE_ZERO)):
                raise ValueError(f"{field.name} cannot be {value}")
