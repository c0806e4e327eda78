"""What is known to be wrong with ATOM's proxy as a server."""

from __future__ import annotations

from pd_testkit.targets.atom.cause import Cause
from pd_testkit.targets.atom.versions import DISAGGREGATION

_PROXY = f"{DISAGGREGATION}.proxy"

COMMON: tuple[Cause, ...] = ()
PR253: tuple[Cause, ...] = (
    (
        f"{_PROXY}:handle_request",
        "copies three fields of P's hand-off, makes a text of the port and drops the others",
        ("FLOW-002",),
    ),
    (f"{_PROXY}:handle_request", "takes one off max_tokens", ("FLOW-004",)),
    (
        f"{_PROXY}:handle_request",
        "posts to the path that the engine registered, whichever was asked for",
        ("FLOW-005",),
    ),
    (f"{_PROXY}:send_request_to_prefill", "leaves n as it is", ("FLOW-007",)),
    (
        f"{_PROXY}:handle_request",
        "gives the client none of D's headers, and calls every answer application/json",
        ("FLOW-013",),
    ),
    (
        f"{_PROXY}:send_request_to_prefill",
        "makes a 500 with a text of its own of every error of P",
        ("FLOW-016", "FLOW-018"),
    ),
    (
        f"{_PROXY}:stream_decode_response",
        "looks at D's status when the client has its 200 already",
        ("FLOW-017",),
    ),
    (
        f"{_PROXY}:handle_request",
        "answers every error, the client's own included, by a 500 in plain text",
        ("FLOW-019", "FLOW-037", "FLOW-038"),
    ),
    (
        f"{_PROXY}:send_request_to_prefill",
        "has a timeout of 6*6000*6000 seconds, which is 60 000 hours",
        ("FLOW-020",),
    ),
    (
        f"{_PROXY}:start_decode_request",
        "has a timeout of 6*6000*6000 seconds, for the connection as for the answer",
        ("FLOW-021", "FLOW-022", "FLOW-024"),
    ),
    (
        f"{_PROXY}:handle_request",
        "is cancelled with the client, and its prefill task with it, though P may be through",
        ("FLOW-035",),
    ),
    (
        f"{_PROXY}:main",
        "has no option for the largest body, and leaves errors of its server as HTML",
        ("FLOW-039", "FLOW-040", "FLOW-041"),
    ),
    (
        f"{_PROXY}:send_request_to_prefill",
        "sends a key of its own, 'Bearer None' without OPENAI_API_KEY, and a new request id",
        ("FLOW-046",),
    ),
    (
        f"{_PROXY}:handle_request",
        "counts the request, awaits its body, and takes the turn from what the count is then",
        ("FLOW-049",),
    ),
)
MORIIO: tuple[Cause, ...] = ()
