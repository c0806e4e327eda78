"""What is known to be wrong with vLLM's router. Seen at 0.1.17, whose source tells the causes."""

from __future__ import annotations

from pd_testkit.targets.router.cause import Cause, failures

_PD = "vllm_pd_router.rs"

_BOTH: tuple[Cause, ...] = (
    (
        "spec.rs:CompletionRequest",
        "reads temperature as a number of 32 bits, and both engines get it so",
        ("FLOW-003",),
    ),
    (
        "spec.rs:CompletionRequest",
        "sends its own defaults along, such as echo and skip_special_tokens",
        ("FLOW-004",),
    ),
    (f"{_PD}:prepare_prefill_request", "leaves n as it is", ("FLOW-007",)),
    (
        "server.rs:startup",
        "gives its client a timeout for the whole request, and none for a silence",
        ("FLOW-023",),
    ),
    (
        f"{_PD}:process_vllm_two_stage_request",
        "is dropped with the client, though P may be through",
        ("FLOW-035",),
    ),
    (
        "server.rs:build_app",
        "leaves the errors of its server's library as plain text, or empty",
        ("FLOW-038", "FLOW-039", "FLOW-041"),
    ),
    (
        f"{_PD}:process_vllm_two_stage_request",
        "sends a key of its own, an empty 'Bearer' without OPENAI_API_KEY",
        ("FLOW-046", "RTR-027"),
    ),
    (
        "server.rs:transparent_proxy_handler",
        "passes every path that it does not know to the engines, /sleep and /collective_rpc, too",
        ("RTR-028",),
    ),
    (
        f"{_PD}:process_vllm_two_stage_request",
        "tells P nothing when D has failed",
        ("RTR-029", "RTR-030", "RTR-031", "RTR-032"),
    ),
    (
        f"{_PD}:process_vllm_two_stage_request",
        "tries once and counts no failure, whatever the flags of retries and breakers say",
        (
            *("RTR-001", "RTR-002", "RTR-007", "RTR-008", "RTR-009", "RTR-010"),
            *("RTR-011", "RTR-014", "RTR-015", "RTR-016"),
        ),
    ),
)

_500 = (
    "makes a 500 in plain text of every failure of a leg, a timeout, too",
    ("FLOW-018", "FLOW-019", "FLOW-020", "FLOW-021"),
)

STATIC = failures(
    (
        *_BOTH,
        (f"{_PD}:route_transparent", *_500),
        (
            "worker_registry.rs:register",
            "has one worker per URL: the second role takes the first one's place",
            ("RTR-017",),
        ),
    )
)

DISCOVERY = failures(
    (
        *_BOTH,
        (f"{_PD}:process_vllm_request", *_500),
        (
            f"{_PD}:process_vllm_request",
            "says in plain text, without Retry-After, that there is no pair",
            ("FLOW-037",),
        ),
        (
            "pd_router.rs:readiness",
            "counts the workers of a registry that discovery does not fill",
            ("RTR-022",),
        ),
        (
            "pd_router.rs:proxy_to_first_prefill_worker",
            "looks for a P in a registry that discovery does not fill",
            ("RTR-026",),
        ),
    )
)
