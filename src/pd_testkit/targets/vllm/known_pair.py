"""What is known to be wrong with vLLM's workers: handshake and transfers."""

from __future__ import annotations

from pd_testkit.targets.vllm.cause import Cause

_V1 = "vllm.distributed.kv_transfer.kv_connector.v1"
_NIXL_WORKER = f"{_V1}.nixl.base_worker:NixlBaseConnectorWorker"
_NIXL_SCHEDULER = f"{_V1}.nixl.base_scheduler:NixlBaseConnectorScheduler"
_MOONCAKE = f"{_V1}.mooncake.mooncake_connector"
_MORIIO = f"{_V1}.moriio.moriio_connector"
_MORIIO_WRITER = f"{_V1}.moriio.moriio_engine:MoRIIOWriter"
_MORIIO_WORKER = f"{_MORIIO}:MoRIIOConnectorWorker"
_MOONCAKE_WORKER = f"{_MOONCAKE}:MooncakeConnectorWorker"

NIXL: tuple[Cause, ...] = (
    Cause(
        f"{_NIXL_SCHEDULER}._nixl_handshake_listener",
        "raises on a message that it does not expect: its thread ends, and nobody looks after it",
        ("HSK-009", "HSK-010", "HSK-011"),
        ("nixl",),
        "vllm-project/vllm#54757",
    ),
    Cause(
        f"{_NIXL_WORKER}.__init__",
        "leaves NIXL its progress thread, which polls without a pause while the worker lives",
        ("HSK-032",),
        ("nixl",),
    ),
    Cause(
        f"{_NIXL_WORKER}._ensure_handshake",
        "meets all peers in one thread, which waits 5 s for each that is silent",
        ("HSK-033",),
        ("nixl",),
    ),
    Cause(
        f"{_NIXL_WORKER}._apply_prefix_caching",
        "asserts, in the step, that D has no more blocks for a prompt than P",
        ("PAIR-009",),
        ("nixl",),
    ),
    Cause(
        "vllm.distributed.kv_transfer.kv_connector.utils:TransferTopology.block_size_ratio",
        "refuses P's blocks that are larger than D's: the load fails",
        ("PAIR-016", "PAIR-017"),
        ("nixl",),
    ),
    Cause(
        f"{_NIXL_WORKER}._validate_remote_agent_handshake",
        "refuses another block size together with more P ranks than D ranks: the load fails",
        ("PAIR-022",),
        ("nixl",),
    ),
    Cause(
        f"{_NIXL_WORKER}._validate_remote_agent_handshake",
        "refuses more P ranks than KV heads together with fewer D ranks: the load fails",
        ("PAIR-021",),
        ("nixl",),
    ),
)

MOONCAKE: tuple[Cause, ...] = (
    Cause(
        f"{_MOONCAKE_WORKER}._prepare_transfer_regions",
        "compares names and lengths of the caches alone: another model, or other elements or heads "
        "of the same bytes, are taken",
        ("HSK-021", "HSK-022", "HSK-023"),
        ("mooncake",),
    ),
    Cause(
        f"{_MOONCAKE_WORKER}._prepare_transfer_regions",
        "is not told the layout of D's caches: another one is written as if it were P's",
        ("HSK-027", "PAIR-014"),
        ("mooncake",),
    ),
    Cause(
        f"{_MOONCAKE}:_validate_asymmetric_region_lengths",
        "compares no lengths where P's caches are alike on all of its ranks, as latent ones are: "
        "these are written into caches of K and V",
        ("HSK-025",),
        ("mooncake",),
    ),
    Cause(
        f"{_MOONCAKE}:_align_transfer_regions",
        "takes layers of D's that P has not for none of its business: they are left as they were",
        ("HSK-024",),
        ("mooncake",),
    ),
    Cause(
        f"{_MOONCAKE_WORKER}._mooncake_sender_listener",
        "binds an address without brackets: with an IPv6 address no worker starts",
        ("HSK-008",),
        ("mooncake",),
    ),
    Cause(
        f"{_MOONCAKE_WORKER}.receive_kv_from_single_worker",
        "waits for the answer of a P that has died a minute longer than P may hold the blocks",
        ("HSK-037", "PAIR-067", "PAIR-069", "PAIR-070", "PAIR-071"),
        ("mooncake",),
    ),
    Cause(
        f"{_MOONCAKE_WORKER}._send_blocks",
        "gives all pieces to the engine as one batch, of which TCP takes 2048 only",
        ("PAIR-006",),
        ("mooncake",),
    ),
    Cause(
        f"{_MOONCAKE_WORKER}._build_transfer_params",
        "refuses more blocks of D's than P has for the prompt: the load fails",
        ("PAIR-009",),
        ("mooncake",),
    ),
)

MORIIO_READ: tuple[Cause, ...] = (
    Cause(
        f"{_MORIIO_WORKER}._moriio_handshake_listener",
        "raises on a message that it does not know: its thread ends, and nobody looks after it",
        ("HSK-009", "HSK-010", "HSK-011"),
        ("moriio",),
    ),
    Cause(
        f"{_MORIIO_WORKER}._moriio_handshake_listener",
        "listens on IPv4 alone, whatever the address that P's hand-off names",
        ("HSK-008",),
        ("moriio",),
    ),
    Cause(
        f"{_MORIIO_WORKER}._moriio_handshake",
        "waits without end for the answer of a peer that is silent or dead, and D's step with it",
        ("HSK-031", "HSK-033", "HSK-034", "PAIR-067"),
        ("moriio",),
    ),
    Cause(
        f"{_MORIIO_WORKER}._moriio_handshake",
        "compares nothing of the answer: another engine, model or type of element is taken",
        ("HSK-018", "HSK-021", "HSK-022"),
        ("moriio",),
    ),
    Cause(
        f"{_MORIIO_WORKER}._eager_handshake_all_dp_ranks",
        "raises within the step when an answer cannot be used, which ends D's engine",
        ("HSK-015", "HSK-016", "HSK-017", "HSK-029"),
        ("moriio",),
    ),
    Cause(
        f"{_MORIIO_WORKER}._eager_handshake_all_dp_ranks",
        "meets an address once and for all: sessions of a peer's earlier life are kept",
        ("HSK-036", "HSK-037", "PAIR-068", "PAIR-071"),
        ("moriio",),
    ),
    Cause(
        f"{_MORIIO}:MoRIIOConnector.__init__",
        "names an engine by its address: what it held before a restart is read from its new memory",
        ("PAIR-069",),
        ("moriio",),
    ),
    Cause(
        f"{_MORIIO_WORKER}._compute_read_attention_offsets",
        "raises within the step, which ends D's engine, where KV heads, TP or block sizes differ",
        ("HSK-023", "HSK-026", "HSK-028", "PAIR-019", "PAIR-020"),
        ("moriio",),
    ),
    Cause(
        f"{_MORIIO_WORKER}._compute_block_transfer_offsets",
        "raises within the step, which ends D's engine, for a block that P does not have",
        ("HSK-019",),
        ("moriio",),
    ),
    Cause(
        f"{_MORIIO_WORKER}._get_built_session",
        "lets a missing layer's KeyError and a refused connection's error end D's step and engine",
        ("HSK-024", "PAIR-057"),
        ("moriio",),
    ),
    Cause(
        f"{_MORIIO_WORKER}._await_reads_issued_this_step",
        "raises, which ends D's engine, when a read is still on its way as its patience ends",
        ("PAIR-049",),
        ("moriio",),
    ),
    Cause(
        f"{_MORIIO_WORKER}._await_reads_issued_this_step",
        "waits for all bytes within the step: D takes in no abort and no other load meanwhile",
        ("PAIR-034", "PAIR-043", "PAIR-060"),
        ("moriio",),
    ),
)

MORIIO_WRITE: tuple[Cause, ...] = (
    Cause(
        f"{_MORIIO_WRITER}._mark_request_done",
        "gives up writes that failed or hang, and P's blocks, and tells D nothing, which waits on",
        (
            *("PAIR-038", "PAIR-039", "PAIR-041", "PAIR-042", "PAIR-045"),
            *("PAIR-046", "PAIR-047", "PAIR-048", "PAIR-049", "PAIR-051", "PAIR-057"),
            *("PAIR-066", "PAIR-076", "PAIR-078", "PAIR-079"),
        ),
        ("moriio-write",),
        "ROCm/mori#655",
    ),
    Cause(
        f"{_MORIIO_WRITER}._finalize_if_complete",
        "waits for one request's bytes in the thread that begins the writes of all others",
        ("PAIR-034", "PAIR-043"),
        ("moriio-write",),
    ),
    Cause(
        f"{_MORIIO}:MoRIIOConnectorScheduler.request_finished",
        "forgets, at an abort, whose the transfer is that P still writes: D is never told of its "
        "end, until which its engine keeps the blocks",
        ("PAIR-059", "PAIR-060", "PAIR-064", "PAIR-080"),
        ("moriio-write",),
    ),
    Cause(
        f"{_MORIIO_WORKER}.get_transfer_results",
        "waits for P's word without end: recv_abort_timeout is for reads alone",
        ("PAIR-067", "PAIR-069", "PAIR-070", "PAIR-071", "PAIR-081"),
        ("moriio-write",),
        "ROCm/mori#655",
    ),
)

CAUSES: tuple[Cause, ...] = (*NIXL, *MOONCAKE, *MORIIO_READ, *MORIIO_WRITE)
