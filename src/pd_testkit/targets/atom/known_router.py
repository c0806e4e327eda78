"""What is known to be wrong with ATOM's proxy beyond one flow."""

from __future__ import annotations

from pd_testkit.targets.atom.cause import Cause
from pd_testkit.targets.atom.versions import DISAGGREGATION

_PROXY = f"{DISAGGREGATION}.proxy"

COMMON: tuple[Cause, ...] = ()
PR253: tuple[Cause, ...] = (
    (
        f"{_PROXY}:handle_request",
        "takes engines by turns, whatever became of their last requests, and tries no other one",
        ("RTR-007", "RTR-008", "RTR-009", "RTR-010"),
    ),
    (
        f"{_PROXY}:app",
        "has routes for completions and chat completions, and none for the models",
        ("RTR-026",),
    ),
    (
        f"{_PROXY}:send_request_to_prefill",
        "sends a key of its own, 'Bearer None' without OPENAI_API_KEY",
        ("RTR-027",),
    ),
    (
        f"{_PROXY}:handle_request",
        "gives the request up when D fails, and tells nobody of what P holds for it",
        ("RTR-029", "RTR-030", "RTR-032"),
    ),
    (
        f"{_PROXY}:start_decode_request",
        "has a timeout of 6*6000*6000 seconds: a silent D is never given up",
        ("RTR-031",),
    ),
)
MORIIO: tuple[Cause, ...] = ()
