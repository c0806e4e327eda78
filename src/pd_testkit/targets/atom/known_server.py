"""What is known to be wrong with ATOM's OpenAI server."""

from __future__ import annotations

from pd_testkit.targets.atom.cause import Cause

_OPENAI = "atom.entrypoints.openai"

COMMON: tuple[Cause, ...] = (
    (
        f"{_OPENAI}.serving_completion:stream_completion_response",
        "ends every stream with a chunk that says 'stop', whatever the core's reason was; so does "
        "stream_chat_response",
        ("SRV-017",),
    ),
    (
        f"{_OPENAI}.api_server:app",
        "has no handler for FastAPI's validation errors, which name a 'detail' and no 'error'",
        ("SRV-021",),
    ),
    (
        f"{_OPENAI}.api_server:validate_model",
        "raises an HTTPException, whose body has a 'detail' and no 'error'",
        ("SRV-022",),
    ),
    (
        f"{_OPENAI}.api_server:completions",
        "turns the core's errors into HTTPExceptions, whose bodies have a 'detail' and no 'error'",
        ("SRV-023",),
    ),
)
PR253: tuple[Cause, ...] = (
    (
        f"{_OPENAI}.protocol:ChatCompletionRequest",
        "has no kv_transfer_params: a chat's are dropped, and D computes its prompt again",
        ("SRV-007", "SRV-008"),
    ),
    (
        f"{_OPENAI}.serving_chat:build_chat_response",
        "drops the core's kv_transfer_params, and so does stream_chat_response",
        ("SRV-003", "SRV-004"),
    ),
)
MORIIO: tuple[Cause, ...] = (
    (
        f"{_OPENAI}.api_server:generate_async_fanout",
        "never reads its sequences' kv_transfer_params_output, where generate_async does",
        ("SRV-014",),
    ),
)
