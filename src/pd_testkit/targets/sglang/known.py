"""Clauses that SGLang is known to break, each with its cause."""

from __future__ import annotations

from pd_testkit.contract import KnownFailure

Cause = tuple[str, str, tuple[str, ...], str]
"""The function, below ``sglang.srt.disaggregation``; what it does; the clauses; a public report."""

_COMMON: tuple[Cause, ...] = (
    (
        "common.conn:CommonKVSender.abort",
        "makes a failure of whatever the room was, of a success too; so does the receiver's",
        ("POL-021",),
        "",
    ),
    (
        "common.conn:CommonKVSender.abort",
        "tells nobody: D holds its pages until SGLANG_DISAGGREGATION_WAITING_TIMEOUT, 300 s",
        ("POL-034", "POL-035", "POL-036", "PAIR-063", "PAIR-064"),
        "https://github.com/sgl-project/sglang/pull/28651",
    ),
    (
        "common.conn:CommonKVReceiver.ensure_abort_notified",
        "tells only a P that the receiver has met: another one holds its pages until "
        "SGLANG_DISAGGREGATION_BOOTSTRAP_TIMEOUT, 300 s",
        ("PAIR-059",),
        "",
    ),
    (
        "common.conn:CommonKVReceiver._setup_bootstrap_infos",
        "takes the ranks of P's earlier life: a restart between two heartbeats shows by what "
        "SGLANG_DISAGGREGATION_WAITING_TIMEOUT, 300 s, ends",
        ("PAIR-068",),
        "https://github.com/sgl-project/sglang/pull/36029",
    ),
)

_CAUSES: dict[str, tuple[Cause, ...]] = {
    "mori": (
        *_COMMON,
        (
            "prefill:SchedulerDisaggregationPrefillMixin.handle_inflight_transfer_failure",
            "gives P's pages back as soon as the room has failed, while mori still reads them",
            ("PAIR-042", "PAIR-049", "PAIR-060", "PAIR-062", "PAIR-079", "PAIR-080"),
            "https://github.com/sgl-project/sglang/pull/38961",
        ),
    ),
    "nixl": (
        *_COMMON,
        (
            "nixl.conn:NixlKVManager._start_bootstrap_thread",
            "asserts that it knows the first frame, and ends: P never meets a receiver again",
            ("POL-050",),
            "",
        ),
    ),
    "mooncake": (
        *_COMMON,
        (
            "mooncake.conn:MooncakeKVManager.start_prefill_thread",
            "reads the fourth frame of any message, and ends: P never meets a receiver again",
            ("POL-050",),
            "",
        ),
        (
            "mooncake.conn:MooncakeKVManager._send_kvcache_generic",
            "posts all of a chunk as one batch, of which Mooncake over TCP refuses those above "
            "2048 entries (SGLANG_MOONCAKE_MAX_TRANSFER_BATCH_INDICES is 0)",
            ("POL-012", "PAIR-006"),
            "https://github.com/sgl-project/sglang/pull/32758",
        ),
    ),
}


def known_failures(backend: str) -> tuple[KnownFailure, ...]:
    """By backend's name."""
    return tuple(
        KnownFailure(clause, f"{where} {does}", link)
        for where, does, clauses, link in _CAUSES[backend]
        for clause in clauses
    )
