"""What is known to be wrong with SGLang's router. Seen at 0.3.2, whose source tells the causes."""

from __future__ import annotations

from pd_testkit.targets.router.cause import Cause, failures

_PD = "pd_router.rs"

_CAUSES: tuple[Cause, ...] = (
    (
        "completion.rs:CompletionRequest",
        "sends its own defaults along, such as echo and skip_special_tokens",
        ("FLOW-004",),
    ),
    (
        "header_utils.rs:preserve_response_headers",
        "drops a fixed list, and not what D's Connection header names",
        ("FLOW-013",),
    ),
    (
        f"{_PD}:execute_dual_dispatch_internal",
        "looks at P's answer only when D's is a good one",
        ("FLOW-016",),
    ),
    (
        f"{_PD}:handle_decode_error_response",
        "makes an error of its own of D's, a 500 of most, and no JSON of a streamed one",
        ("FLOW-017", "RTR-004", "RTR-013"),
    ),
    (
        f"{_PD}:execute_dual_dispatch_internal",
        "makes a 502 of every failure of D's connection, a timeout, too",
        ("FLOW-020", "FLOW-021"),
    ),
    (
        "app_context.rs:with_client",
        "gives its client a timeout for the whole request, and none for a silence",
        ("FLOW-023",),
    ),
    (
        f"{_PD}:execute_dual_dispatch_internal",
        "joins both answers: with a D that refuses, P waits for it, and the client for P",
        ("FLOW-029", "RTR-009"),
    ),
    (
        f"{_PD}:execute_dual_dispatch_internal",
        "joins both answers: with a P that refuses, D waits for its KV, and the client for D",
        ("RTR-033",),
    ),
    (
        f"{_PD}:execute_dual_dispatch",
        "counts a failure of D for P's breaker, too",
        ("RTR-011",),
    ),
    (
        "circuit_breaker.rs:can_execute",
        "lets every request through when it is half open",
        ("RTR-014",),
    ),
    (
        f"{_PD}:create_streaming_response",
        "takes 'data: [DONE]' in a chunk for the stream's end, and drops what follows it",
        ("RTR-044",),
    ),
    (
        f"{_PD}:create_streaming_response",
        "puts what D says into a channel without a bound",
        ("RTR-040", "RTR-041"),
    ),
    (
        f"{_PD}:create_streaming_response",
        "reads D's stream in a task that learns at the next chunk that the client has left",
        ("FLOW-032",),
    ),
    ("error.rs:service_unavailable", "says no Retry-After", ("FLOW-037",)),
    (
        "server.rs:build_app",
        "leaves the errors of its server's library as plain text, or empty",
        ("FLOW-038", "FLOW-039", "FLOW-040", "FLOW-041"),
    ),
)

ALL = failures(_CAUSES)
