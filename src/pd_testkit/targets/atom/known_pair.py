"""What is known to be wrong with ATOM's workers: handshake and transfers."""

from __future__ import annotations

from pd_testkit.targets.atom.cause import Cause

COMMON: tuple[Cause, ...] = (
    (
        "{worker}.start_load_kv",
        "reads one of the requests that waited for a handshake; the others stay in its queue",
        ("HSK-005", "HSK-006", "PAIR-027", "PAIR-029"),
    ),
    (
        "{worker}.start_load_kv",
        "spins while a handshake is pending, and for ever when the peer never answers",
        ("HSK-030", "HSK-032", "HSK-033"),
    ),
    (
        "{worker}._handshake_listener",
        "listens on IPv4 alone: its socket has ZMQ's IPv6 off",
        ("HSK-008",),
    ),
    (
        "{worker}._handshake_listener",
        "raises on a message that it does not know: its thread ends, and nobody looks after it",
        ("HSK-009", "HSK-010", "HSK-011"),
    ),
    (
        "{worker}._handshake_listener",
        "takes every number for a request that is done: unknown, or told before",
        ("HSK-014",),
    ),
    (
        "{worker}._initiate_background_handshake",
        "calls a request ready when its handshake has failed; the read of it ends the worker by a "
        "KeyError",
        ("HSK-015", "HSK-016", "HSK-017", "HSK-029"),
    ),
    (
        "{worker}._get_or_build_sessions",
        "ends the worker by a KeyError or an assertion where the peer's layers or regions differ",
        ("HSK-024", "HSK-025"),
    ),
    (
        "{worker}._execute_handshake",
        "compares nothing of the answer, not even engine and block size, and is not told the rest",
        ("HSK-018", "HSK-020", "HSK-021", "HSK-022", "HSK-023", "HSK-026"),
    ),
    (
        "{worker}._execute_handshake",
        "asks P's worker of its own TP rank, whatever P's TP size, and waits for one that is none",
        ("HSK-028",),
    ),
    (
        "{worker}.__init__",
        "names its RDMA engine by address, TP and DP rank: two engines of one host have one name, "
        "and the second one's requests are read from the first",
        ("HSK-038",),
    ),
    (
        "{worker}.__init__",
        "puts DP 1, TP 0 on the port of DP 0, TP 1 (see XFER-073): the later one does not listen, "
        "and its requests are read from the other's memory",
        ("PAIR-025",),
    ),
    (
        "{worker}._read_blocks",
        "takes a block for one of dimension 0 of an MHA cache, which is a page of 16 tokens there: "
        "of larger blocks other tokens are read, and not all",
        ("PAIR-083",),
    ),
    (
        "{worker}._read_blocks",
        "keeps nothing of a request without blocks to read: its end is not reported, P is not told",
        ("PAIR-008", "PAIR-036"),
    ),
    (
        "{worker}._pop_done_transfers",
        "looks at the last status alone: a request of which a layer failed, or is not there yet, "
        "is received, and P is told to free it",
        ("PAIR-034", "PAIR-038", "PAIR-040", "PAIR-047", "PAIR-048", "PAIR-050", "PAIR-051"),
    ),
)
PR253: tuple[Cause, ...] = ()
MORIIO: tuple[Cause, ...] = (
    (
        "{worker}.start_load_kv",
        "has no end to its patience: it spins for ever on a peer that is silent",
        ("HSK-031", "HSK-034"),
    ),
    (
        "{worker}._pop_done_transfers",
        "never looks for a failed status: neither D's scheduler nor P hears of the request again",
        ("HSK-019", "PAIR-039", "PAIR-044", "PAIR-045", "PAIR-046", "PAIR-049", "PAIR-066"),
    ),
    (
        "{worker}._pop_done_transfers",
        "looks at the last status alone, as for PAIR-038",
        ("PAIR-041", "PAIR-042", "PAIR-043"),
    ),
    (
        "{worker}._get_or_build_sessions",
        "lets the error of a connection that is refused end the worker",
        ("PAIR-057",),
    ),
    (
        "{worker}._handshake_listener",
        "takes the first reader's completion for that of all of them",
        ("PAIR-035",),
    ),
)
