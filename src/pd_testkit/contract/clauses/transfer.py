"""The clauses of the unit `transfer`: those on memory, and what ranks read and are called."""

from __future__ import annotations

from pd_testkit.contract.capabilities import Capability
from pd_testkit.contract.clause import Clause
from pd_testkit.contract.clauses import transfer_memory

_HEADS = frozenset({Capability.TP_ASYMMETRY})
_LATENT = frozenset({Capability.TP_ASYMMETRY, Capability.MLA})
_TOKENS = frozenset({Capability.BLOCK_SIZE_ASYMMETRY})

_HEAD_READS = (
    Clause(
        "XFER-046",
        "With equal TP sizes each rank reads all of its heads from its own counterpart.",
        "The common case reads other ranks' heads, or all from rank 0.",
        ("vllm-project/vllm#41211",),
        _HEADS,
    ),
    Clause(
        "XFER-047",
        "With more D ranks than P ranks each D rank reads its part of one P rank's heads.",
        "Every D rank gets the first heads of its P rank: fluent wrong answers.",
        ("vllm-project/vllm#50765",),
        _HEADS,
    ),
    Clause(
        "XFER-048",
        "With fewer D ranks than P ranks each D rank gathers the heads of several P ranks.",
        "Half of the heads stay as they were.",
        ("vllm-project/vllm#23917", "vllm-project/vllm#56104"),
        _HEADS,
    ),
    Clause(
        "XFER-049",
        "With fewer heads than D ranks neighbouring D ranks hold the same head.",
        "Heads assigned by modulo instead of division: D attends over wrong heads.",
        ("sgl-project/sglang#32247", "sgl-project/sglang#31968"),
        _HEADS,
    ),
    Clause(
        "XFER-050",
        "With fewer heads than P ranks a head is read from a rank that holds it.",
        "Heads are looked for on the rank of their number, which holds another.",
        ("sgl-project/sglang#32247",),
        _HEADS,
    ),
    Clause(
        "XFER-051",
        "For any sizes, each head of a D rank is filled once, from a P rank that holds it.",
        "One pair of TP sizes in use gives garbage.",
        ("sgl-project/sglang#32247", "llm-d/llm-d#2433"),
        _HEADS,
    ),
    Clause(
        "XFER-052",
        "No read goes beyond the ranks that there are or the heads that a rank has.",
        "The read fails at the edge of the region, or gets the next block's heads.",
        ("sgl-project/sglang#31968",),
        _HEADS,
    ),
    Clause(
        "XFER-053",
        "A rank reads from each P rank at most once.",
        "Head by head, a transfer takes as many operations as there are heads.",
        needs=_HEADS,
    ),
    Clause(
        "XFER-054",
        "Heads that cannot be split over a TP size are refused with ValueError.",
        "The pair starts, and each transfer fails or is wrong.",
        ("llm-d/llm-d#2433",),
        _HEADS,
    ),
    Clause(
        "XFER-055",
        "MLA's latent cache is read from a P rank that there is.",
        "Reads from a rank that does not exist hang D.",
        ("vllm-project/vllm#41211",),
        _LATENT,
    ),
    Clause(
        "XFER-056",
        "With equal TP sizes the latent cache is read from the rank's own counterpart.",
        "All ranks read from one, and its NIC is the bottleneck.",
        ("vllm-project/vllm#47764",),
        _LATENT,
    ),
    Clause(
        "XFER-057",
        "Reads of the latent cache are spread: no P rank has more readers than it must.",
        "All of D reads from rank 0 of P; the other ranks never hear that they may free.",
        ("vllm-project/vllm#47764", "vllm-project/vllm#36958"),
        _LATENT,
    ),
)

_TOKEN_READS = (
    Clause(
        "XFER-058",
        "With equal block sizes whole blocks go to whole blocks.",
        "The common case is cut into pieces.",
        needs=_TOKENS,
    ),
    Clause(
        "XFER-059",
        "Several small blocks of P fill one large block of D.",
        "Only the first part of each block arrives; accuracy falls to nothing.",
        ("vllm-project/vllm#42895", "vllm-project/vllm#28925"),
        _TOKENS,
    ),
    Clause(
        "XFER-060",
        "One large block of P fills several small blocks of D.",
        "D's blocks all get the beginning of P's.",
        ("vllm-project/vllm#42895",),
        _TOKENS,
    ),
    Clause(
        "XFER-061",
        "The tokens of a partly filled last block are read, and none beyond them.",
        "The end of the prompt is rounded away, or what lies after it comes along.",
        ("vllm-project/vllm#50558", "LMCache/LMCache#2459"),
        _TOKENS,
    ),
    Clause(
        "XFER-062",
        "After a prefix hit on D the rest goes by position: token i of P to token i of D.",
        "P's first blocks are put after D's prefix: fluent wrong answers.",
        ("xLLM-AI/xllm#2040",),
        _TOKENS,
    ),
    Clause(
        "XFER-063",
        "When D has all tokens already, nothing is read.",
        "Shared blocks are overwritten under the requests that use them.",
        ("vllm-project/vllm#18632",),
        _TOKENS,
    ),
    Clause(
        "XFER-064",
        "For any block sizes, tokens and prefix, each token is read once, to its own place.",
        "Some pair of block sizes shifts the tokens.",
        ("vllm-project/vllm#50558", "xLLM-AI/xllm#2040"),
        _TOKENS,
    ),
    Clause(
        "XFER-065",
        "Each read stays within one block of either side.",
        "It runs into the next block in memory, which is another request's.",
        ("sgl-project/sglang#31968",),
        _TOKENS,
    ),
    Clause(
        "XFER-066",
        "Blocks beyond the last token are left alone.",
        "D has a block more for its first token; something is written into it.",
        ("vllm-project/vllm#50558",),
        _TOKENS,
    ),
    Clause(
        "XFER-067",
        "Blocks that do not hold the tokens are refused with ValueError.",
        "The end of the prompt is missing, and nobody notices.",
        ("vllm-project/vllm#30358",),
        _TOKENS,
    ),
)

_NAMES = (
    Clause(
        "XFER-068",
        "A ZMQ path for an IPv4 address or a host name is scheme://host:port.",
        "The handshake cannot connect.",
    ),
    Clause(
        "XFER-069",
        "In a ZMQ path an IPv6 address stands in brackets.",
        "The last group of the address is taken for the port.",
    ),
    Clause(
        "XFER-070",
        "An IPv6 address that has its brackets already, or a zone, is right as well.",
        "Doubled brackets, or none before a link-local zone, cannot be connected to.",
    ),
    Clause(
        "XFER-071",
        "Without a port a ZMQ path is scheme://host.",
        "ipc paths end in :None.",
    ),
    Clause(
        "XFER-072",
        "A worker's side-channel port is the base plus dp_rank x tp_size + tp_rank.",
        "P and D are of different releases; both must come to the same port.",
        ("vllm-project/vllm#32291", "vllm-project/vllm#53579"),
    ),
    Clause(
        "XFER-073",
        "No two workers of an engine share a port, for any DP and TP size.",
        "The second worker cannot bind, or one answers for the other.",
        ("vllm-project/vllm#52014",),
    ),
    Clause(
        "XFER-074",
        "A port above 65535 is refused with ValueError.",
        "It wraps around to a port of somebody else, or fails far away.",
    ),
    Clause(
        "XFER-075",
        "A rank outside of the TP size is refused with ValueError.",
        "Its port is that of a worker of the next DP rank.",
        ("vllm-project/vllm#52014",),
    ),
)

_ROLES = (
    Clause(
        "XFER-076",
        "A process has no role until one is set.",
        "A process that was never told behaves like a producer.",
    ),
    Clause(
        "XFER-077",
        "The role that was set last is the role.",
        "D waits for itself.",
    ),
    Clause(
        "XFER-078",
        "A process has one holder of its role.",
        "Parts of one engine disagree on what it is.",
    ),
    Clause(
        "XFER-079",
        "Threads that ask for the first time at once get the same holder.",
        "The role is set on one holder and read from another, once in a thousand starts.",
    ),
    Clause(
        "XFER-080",
        "The role that one thread sets is every thread's.",
        "The handshake's thread does not know the role that the main thread set.",
    ),
)

CLAUSES: tuple[Clause, ...] = (
    *transfer_memory.CLAUSES,
    *_HEAD_READS,
    *_TOKEN_READS,
    *_NAMES,
    *_ROLES,
)
