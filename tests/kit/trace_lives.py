"""A request over proxy, P and D, with a second or more between what happens to it.

Its run began at Unix time 1000. In seconds of the run: due 0, sent 1, at the proxy 2, P called 3,
at P 4, first step 6, first token 9, P's answer ended 10, at the proxy 11, D called 12, at D 13, let
in 16, KV there 20, first step 21, first token 24, at the client 25, last token 33, ended 34.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from pd_testkit.bench.results import Request
from pd_testkit.bench.trace.timelines import Answer, Hold, Passage

EPOCH = 1000.0

REQUEST = Request(
    index=0,
    due=0.0,
    sent=1.0,
    ended=34.0,
    pieces=(25.0, 30.0, 33.0),
    output_tokens=3,
    max_tokens=3,
    status=200,
    request_id="run-0",
)
PASSAGE = Passage(
    client_id="run-0",
    request_id="run-0-abc",
    kind="pd",
    prefill="http://p",
    decode="http://d",
    outcome="ok",
    status=200,
    received_at=1002.0,
    prefill_called_at=1003.0,
    prefill_answered_at=1011.0,
    decode_called_at=1012.0,
    first_byte_at=1024.5,
    ended_at=1033.5,
)
PREFILL = Answer(
    id="cmpl-run-0-abc-1-0",
    request_id="run-0-abc",
    part="hold",
    tokens=1,
    prompt_tokens=8,
    arrived_at=1004.0,
    began_at=1006.0,
    first_token_at=1009.0,
    last_token_at=1009.0,
    ended_at=1010.0,
    component="prefill 0",
)
DECODE = Answer(
    id="cmpl-run-0-abc-2-0",
    request_id="run-0-abc",
    part="load",
    tokens=3,
    prompt_tokens=8,
    arrived_at=1013.0,
    load_began_at=1016.0,
    load_ended_at=1020.0,
    load_s=0.5,
    load_bytes=4096,
    began_at=1021.0,
    first_token_at=1024.0,
    last_token_at=1032.0,
    ended_at=1032.5,
    component="decode 0",
)
HOLD = Hold(id=PREFILL.id, held_at=1009.5, freed_at=1022.0, component="prefill 0")


def later(entry: Any, seconds: float, **changes: Any) -> Any:
    """The same with all of its Unix times so much later."""
    times = {
        name: value + seconds
        for name in entry.__struct_fields__
        if name.endswith("_at") and (value := getattr(entry, name)) is not None
    }
    return replace(entry, **times, **changes)
