"""Planted bugs that the clauses of the unit `transfer` catch."""

from __future__ import annotations

from . import transfer_memory
from .mutant import Mutant

_REPLICA = "replica = local_rank % readers * sources // readers"
_FIRST = "first = local_rank // readers * ours"
_RUN = "HeadRun(holder * sources + replica, remote_head, head - first, heads)"
_LATENT = "return local_rank * remote_tp // local_tp"
_COUNT = "local_block_size - local_token, remote_block_size - remote_token, tokens - token"
_PORT = "base + dp_rank * tp_size + tp_rank\n"
_HOLDER = """_holder = RoleHolder()


def holder() -> RoleHolder:
    \"\"\"The one holder. Made at import, so that no two threads can make it.\"\"\"
    return _holder
"""

MUTANTS = (
    *transfer_memory.MUTANTS,
    # -- heads
    Mutant(
        ("XFER-046", "XFER-047", "XFER-048", "XFER-051"),
        "heads",
        _RUN,
        "HeadRun(0, remote_head, head - first, heads)",
        "all ranks read from rank 0 (vllm-project/vllm#47764)",
    ),
    Mutant(
        ("XFER-046",),
        "heads",
        _REPLICA,
        "replica = 0",
        "the first of P's replicas serves all of D's",
    ),
    Mutant(
        ("XFER-047", "XFER-049", "XFER-051"),
        "heads",
        _RUN,
        "HeadRun(holder * sources + replica, 0, head - first, heads)",
        "every rank gets the first heads of its P rank",
    ),
    Mutant(
        ("XFER-048", "XFER-050", "XFER-051"),
        "heads",
        "    while head < first + ours:",
        "    while head < first + ours and not runs:",
        "only one P rank is read from, the other heads stay as they were",
    ),
    Mutant(
        ("XFER-048", "XFER-051", "XFER-052"),
        "heads",
        _RUN,
        "HeadRun(holder * sources + replica, remote_head, head, heads)",
        "local heads are counted over all ranks",
    ),
    Mutant(
        ("XFER-049", "XFER-051"),
        "heads",
        _FIRST,
        "first = local_rank % (kv_heads // ours) * ours",
        "replicated heads go round by modulo instead of division (sgl-project/sglang#32247)",
    ),
    Mutant(
        ("XFER-050", "XFER-051"),
        "heads",
        _RUN,
        "HeadRun(holder + replica, remote_head, head - first, heads)",
        "a head is looked for on the rank of its number (sgl-project/sglang#31968)",
    ),
    Mutant(
        ("XFER-052", "XFER-051"),
        "heads",
        "heads = min(theirs - remote_head, first + ours - head)",
        "heads = first + ours - head",
        "reads go past the region of a P rank (sgl-project/sglang#31968)",
    ),
    Mutant(
        ("XFER-052",),
        "heads",
        _REPLICA,
        "replica = local_rank % readers",
        "a replica is read that P does not have",
    ),
    Mutant(
        ("XFER-053",),
        "heads",
        "heads = min(theirs - remote_head, first + ours - head)",
        "heads = 1",
        "heads are read one at a time",
    ),
    Mutant(
        ("XFER-054",),
        "heads",
        "    if tp_size % kv_heads == 0:",
        "    if kv_heads > tp_size:\n        return kv_heads // tp_size, 1\n"
        "    if tp_size % kv_heads == 0:",
        "heads that cannot be split are rounded down (llm-d/llm-d#2433)",
    ),
    Mutant(
        ("XFER-055",),
        "heads",
        _LATENT,
        "return local_rank",
        "D's own rank is taken for P's (vllm-project/vllm#41211)",
    ),
    Mutant(
        ("XFER-056", "XFER-057"),
        "heads",
        _LATENT,
        "return 0",
        "the latent cache is read from rank 0 by all (vllm-project/vllm#47764)",
    ),
    Mutant(
        ("XFER-056",),
        "heads",
        _LATENT,
        "return (local_rank + 1) % remote_tp",
        "each rank reads from its counterpart's neighbour",
    ),
    # -- tokens
    Mutant(
        ("XFER-058",),
        "tokens",
        _COUNT,
        "1, tokens - token",
        "blocks are read token by token",
    ),
    Mutant(
        ("XFER-059", "XFER-064"),
        "tokens",
        "local_block_ids[local], local_token,",
        "local_block_ids[local], 0,",
        "every read goes to the beginning of its block (vllm-project/vllm#42895)",
    ),
    Mutant(
        ("XFER-060", "XFER-062", "XFER-064"),
        "tokens",
        "remote_block_ids[remote], remote_token, count",
        "remote_block_ids[remote], 0, count",
        "every read comes from the beginning of its block",
    ),
    Mutant(
        ("XFER-061", "XFER-064"),
        "tokens",
        "    while token < tokens:",
        "    while token + min(local_block_size, remote_block_size) <= tokens:",
        "a partial last block is rounded down (LMCache/LMCache#2459)",
    ),
    Mutant(
        ("XFER-061", "XFER-064"),
        "tokens",
        ", tokens - token",
        "",
        "a partial last block is read as a whole",
    ),
    Mutant(
        ("XFER-062", "XFER-064"),
        "tokens",
        "divmod(token, remote_block_size)",
        "divmod(token - skip, remote_block_size)",
        "the block map ignores D's prefix hit (xLLM-AI/xllm#2040)",
    ),
    Mutant(
        ("XFER-062", "XFER-063", "XFER-064"),
        "tokens",
        "    token = skip\n",
        "    token = 0\n",
        "D's prefix hit is read all the same",
    ),
    Mutant(
        ("XFER-063",),
        "tokens",
        "if not 0 <= skip <= tokens:",
        "if not 0 <= skip < tokens:",
        "a full prefix hit raises (vllm-project/vllm#18632)",
    ),
    Mutant(
        ("XFER-059", "XFER-064", "XFER-065"),
        "tokens",
        _COUNT,
        "local_block_size - local_token, tokens - token",
        "reads go past the end of P's block",
    ),
    Mutant(
        ("XFER-060", "XFER-064", "XFER-065"),
        "tokens",
        _COUNT,
        "remote_block_size - remote_token, tokens - token",
        "reads go past the end of D's block",
    ),
    Mutant(
        ("XFER-066",),
        "tokens",
        "    runs = []\n    token = skip\n",
        "    tokens = min(\n        len(local_block_ids) * local_block_size,\n"
        "        len(remote_block_ids) * remote_block_size,\n    )\n"
        "    runs = []\n    token = skip\n",
        "whole block tables are read (vllm-project/vllm#50558)",
    ),
    Mutant(
        ("XFER-067",),
        "tokens",
        "        if len(ids) * size < tokens:\n",
        "        tokens = min(tokens, len(ids) * size)\n        if len(ids) * size < tokens:\n",
        "tokens beyond the blocks are left out (vllm-project/vllm#30358)",
    ),
    # -- paths and ports
    Mutant(
        ("XFER-068", "XFER-069", "XFER-070"),
        "paths",
        '    return f"{scheme}://{host}:{port}"',
        '    return f"{scheme}://{host}"',
        "the port is left out",
    ),
    Mutant(
        ("XFER-069", "XFER-070"),
        "paths",
        '    if ":" in host and',
        "    if False and",
        "IPv6 addresses stand without brackets",
    ),
    Mutant(
        ("XFER-070",),
        "paths",
        ' and not host.startswith("[")',
        "",
        "brackets are doubled",
    ),
    Mutant(
        ("XFER-071",),
        "paths",
        '    if port is None:\n        return f"{scheme}://{host}"\n',
        "",
        "paths end in :None",
    ),
    Mutant(
        ("XFER-072", "XFER-073"),
        "ports",
        _PORT,
        "base + dp_rank + tp_rank\n",
        "the offset is computed with a TP size of 1 (vllm-project/vllm#32291)",
    ),
    Mutant(
        ("XFER-072", "XFER-073", "XFER-074"),
        "ports",
        _PORT,
        "base + tp_rank\n",
        "the DP rank is left out (vllm-project/vllm#53579)",
    ),
    Mutant(
        ("XFER-074",),
        "ports",
        "    if not 1 <= port <= 65535:",
        "    if not 1 <= port:",
        "ports above 65535 are given out",
    ),
    Mutant(
        ("XFER-075",),
        "ports",
        "not 0 <= tp_rank < tp_size",
        "tp_rank < 0",
        "a TP rank beyond the size gets the next DP rank's port (vllm-project/vllm#52014)",
    ),
    # -- roles
    Mutant(
        ("XFER-076",),
        "roles",
        "self.role: str | None = None",
        'self.role: str | None = "producer"',
        "a process that was never told is a producer",
    ),
    Mutant(
        ("XFER-077",),
        "roles",
        "    holder().role = role",
        "    holder().role = holder().role or role",
        "the first role stays",
    ),
    Mutant(
        ("XFER-077", "XFER-078", "XFER-079", "XFER-080"),
        "roles",
        "    return _holder\n",
        "    return RoleHolder()\n",
        "each caller gets a holder of its own",
    ),
    Mutant(
        ("XFER-079",),
        "roles",
        _HOLDER,
        """_holder: RoleHolder | None = None


def holder() -> RoleHolder:
    global _holder
    if _holder is None:
        _holder = RoleHolder()
    return _holder
""",
        "the holder is made at the first call, without a lock",
    ),
    Mutant(
        ("XFER-079", "XFER-080"),
        "roles",
        _HOLDER,
        """import threading

_local = threading.local()


def holder() -> RoleHolder:
    if not hasattr(_local, "holder"):
        _local.holder = RoleHolder()
    return _local.holder
""",
        "each thread has a role of its own",
    ),
)
