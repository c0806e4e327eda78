"""Planted bugs that the clauses of the unit `transfer` catch."""

from __future__ import annotations

from .mutant import Mutant

_PAGES = "page for block in block_ids for page in range(block * ratio, (block + 1) * ratio)"
_BREAKS = "(gap > 0) | (source[1:] - source[:-1] != size[:-1])"
_SUMS = "np.add.reduceat(size, first)"
_COLUMN = "np.fromiter(values, dtype=np.int64, count=len(values))"
_REGION = "min(blocks, cache.num_blocks - first) * cache.block_bytes"
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
    # -- pages
    Mutant(
        ("XFER-001",),
        "pages",
        "virtual_block_size: int = 16",
        "virtual_block_size: int = 32",
        "blocks are taken for 32 tokens by default (vllm-project/vllm#42895)",
    ),
    Mutant(
        ("XFER-001", "XFER-003", "XFER-004", "XFER-008", "XFER-009"),
        "pages",
        _PAGES,
        "page for block in block_ids for page in range(block, block + ratio)",
        "logical ids are used as physical ones (vllm-project/vllm#28925)",
    ),
    Mutant(
        ("XFER-002", "XFER-003", "XFER-008"),
        "pages",
        _PAGES,
        _PAGES.replace("(block + 1) * ratio)", "(block + 1) * ratio + 1)"),
        "each block has a page too many",
    ),
    Mutant(
        ("XFER-004", "XFER-002", "XFER-009"),
        "pages",
        "for block in block_ids for",
        "for block in sorted(block_ids) for",
        "pages are sorted, and no longer pair by position (xLLM-AI/xllm#2040)",
    ),
    Mutant(
        ("XFER-005",),
        "pages",
        "    if rest:",
        "    block_ids[0]\n    if rest:",
        "no blocks raise (vllm-project/vllm#56640)",
    ),
    Mutant(
        ("XFER-006",),
        "pages",
        "    if rest:",
        "    if not ratio:",
        "a ratio that is no whole number is rounded down",
    ),
    Mutant(
        ("XFER-007",),
        "pages",
        "    if rest:",
        "    if ratio and rest:",
        "physical blocks larger than virtual ones expand to nothing",
    ),
    Mutant(
        ("XFER-009",),
        "pages",
        _PAGES,
        "page & 0xFFFFFFFF for block in block_ids for page in range(block * ratio, "
        "(block + 1) * ratio)",
        "page ids wrap around at 32 bits",
    ),
    # -- merging
    Mutant(
        ("XFER-010", "XFER-012", "XFER-015", "XFER-018", "XFER-022", "XFER-023", "XFER-027"),
        "copies",
        _BREAKS,
        "gap >= 0",
        "nothing is merged",
    ),
    Mutant(
        ("XFER-011", "XFER-012", "XFER-016", "XFER-017", "XFER-026"),
        "copies",
        _BREAKS,
        "gap < 0",
        "everything is merged",
    ),
    Mutant(
        ("XFER-016", "XFER-022", "XFER-026"),
        "copies",
        _BREAKS,
        "gap > 0",
        "only the local side has to be contiguous",
    ),
    Mutant(
        ("XFER-012", "XFER-017", "XFER-026"),
        "copies",
        _BREAKS,
        "source[1:] - source[:-1] != size[:-1]",
        "only the remote side has to be contiguous",
    ),
    Mutant(
        ("XFER-017",),
        "copies",
        _BREAKS,
        "(gap > 1) | (source[1:] - source[:-1] != size[:-1])",
        "a gap of one byte is closed",
    ),
    Mutant(
        ("XFER-013",),
        "copies",
        "    if not count:\n        return [], [], []\n",
        "",
        "a transfer of nothing raises (vllm-project/vllm#56640)",
    ),
    Mutant(
        ("XFER-014",),
        "copies",
        "    if not count:\n",
        "    if count < 2:\n",
        "a single copy is lost",
    ),
    Mutant(
        ("XFER-015", "XFER-022", "XFER-024"),
        "copies",
        "    if (to[1:] < to[:-1]).any():",
        "    if False:",
        "copies are not sorted",
    ),
    Mutant(
        ("XFER-015", "XFER-022", "XFER-026"),
        "copies",
        "to, source, size = to[order], source[order], size[order]",
        "to = to[order]",
        "local offsets are sorted away from their remote ones",
    ),
    Mutant(
        ("XFER-018",),
        "copies",
        "values.count(values[0]) == len(values)",
        "values",
        "all blocks are taken to be as large as the first",
    ),
    Mutant(
        ("XFER-010", "XFER-018", "XFER-022", "XFER-026"),
        "copies",
        _SUMS,
        "size[first]",
        "a merged copy has the size of its first block",
    ),
    Mutant(
        ("XFER-019",),
        "copies",
        "    if (gap < 0).any():",
        "    if False:",
        "two copies may write the same bytes",
    ),
    Mutant(
        ("XFER-019",),
        "copies",
        "    if (gap < 0).any():",
        "    if (gap < 1 - size[:-1]).any():",
        "only copies to the same offset are refused",
    ),
    Mutant(
        ("XFER-020",),
        "copies",
        "    if not count == len(remote) == len(sizes):",
        "    count = min(count, len(remote), len(sizes))\n"
        "    local, remote, sizes = local[:count], remote[:count], sizes[:count]\n"
        "    if not count == len(remote) == len(sizes):",
        "lists are cut to the shortest",
    ),
    Mutant(
        ("XFER-021",),
        "copies",
        "    if not count == len(remote) == len(sizes):",
        "    if not (local and remote and sizes):\n        return [], [], []\n"
        "    if not count == len(remote) == len(sizes):",
        "a lost list passes for a transfer of nothing",
    ),
    Mutant(
        ("XFER-022",),
        "copies",
        "    if (to[1:] < to[:-1]).any():",
        "    if (to[1:65536] < to[:65535]).any() and count <= 65536:",
        "long lists are not sorted",
    ),
    Mutant(
        ("XFER-023", "XFER-024"),
        "copies",
        _COLUMN,
        "np.array(values).astype(np.int32)",
        "offsets are held in 32 bits",
    ),
    Mutant(
        ("XFER-023",),
        "copies",
        _SUMS,
        "np.add.reduceat(size, first, dtype=np.int32)",
        "sizes are summed in 32 bits",
    ),
    Mutant(
        ("XFER-024",),
        "copies",
        _COLUMN,
        "np.array(values, dtype=np.float64).astype(np.int64)",
        "offsets went through floats",
    ),
    Mutant(
        ("XFER-025",),
        "copies",
        "to[first].tolist(), source[first].tolist()",
        "list(to[first]), list(source[first])",
        "numpy integers in the result",
    ),
    Mutant(
        ("XFER-027",),
        "copies",
        "first = np.concatenate(([0], np.flatnonzero(breaks) + 1))",
        "first = np.unique(np.concatenate(([0], np.flatnonzero(breaks) + 1, range(0, count, 3))))",
        "runs are cut every three copies",
    ),
    Mutant(
        ("XFER-028",),
        "copies",
        "    if not count:\n        return [], [], []\n",
        "    if not count:\n        return [], [], []\n    local.sort()\n",
        "the caller's list is sorted in place",
    ),
    # -- offsets
    Mutant(
        ("XFER-029", "XFER-030", "XFER-037"),
        "layer_cache",
        "if len(self.shape) == 3 else 1",
        "if len(self.shape) == 3 else self.block_size",
        "an MHA block is taken for block-size indexes of dim 0",
    ),
    Mutant(
        ("XFER-029", "XFER-032", "XFER-038"),
        "layer_cache",
        "math.prod(self.shape[1:])",
        "math.prod(self.shape[1:4])",
        "the last dimension of a 5-D cache is left out",
    ),
    Mutant(
        ("XFER-030",),
        "layer_cache",
        "if len(self.shape) == 3 else 1",
        "if len(self.shape) <= 4 else 1",
        "4-D caches are taken for MLA's",
    ),
    Mutant(
        ("XFER-031", "XFER-042"),
        "layer_cache",
        "self.block_size if len(self.shape) == 3 else 1",
        "1",
        "an MLA block is taken for one token",
    ),
    Mutant(
        ("XFER-031", "XFER-042"),
        "layer_cache",
        "* self.itemsize",
        "* (2 if len(self.shape) > 3 else 1)",
        "the element size is taken for granted",
    ),
    Mutant(
        ("XFER-032",),
        "copies",
        "[block * block_bytes for block in local]",
        "[block * block_bytes & 0xFFFFFFFF for block in local]",
        "offsets wrap around at 4 GiB",
    ),
    Mutant(
        ("XFER-033",),
        "copies",
        "    if len(local) != len(remote):",
        "    local, remote = zip(*zip(local, remote)) if local and remote else ([], [])\n"
        "    if len(local) != len(remote):",
        "block lists are cut to the shorter (vllm-project/vllm#50558)",
    ),
    Mutant(
        ("XFER-034",),
        "copies",
        "    if local and min(*local, *remote) < 0:",
        "    if False:",
        "the padding of a block table is read from",
    ),
    Mutant(
        ("XFER-034",),
        "copies",
        "min(*local, *remote) < 0",
        "min(local) < 0",
        "the padding of P's block table is read from",
    ),
    Mutant(
        ("XFER-035",),
        "copies",
        "    if local and min(",
        "    if min(",
        "no blocks raise (vllm-project/vllm#56640)",
    ),
    Mutant(
        ("XFER-029", "XFER-036"),
        "copies",
        "[block * block_bytes for block in remote]",
        "[block * block_bytes for block in sorted(remote)]",
        "remote blocks are sorted away from their partners (xLLM-AI/xllm#2040)",
    ),
    Mutant(
        ("XFER-036",),
        "copies",
        "[block * block_bytes for block in local]",
        "[block * block_bytes for block in sorted(local)]",
        "local blocks are sorted away from their partners",
    ),
    Mutant(
        ("XFER-037", "XFER-030"),
        "layer_cache",
        "* self.itemsize",
        "* 2",
        "every element is taken for two bytes",
    ),
    # -- regions
    Mutant(
        ("XFER-038",),
        "regions",
        "MAX_REGION_BYTES = 2**31 - 64 * 1024",
        "MAX_REGION_BYTES = 2**18",
        "small caches are cut as well",
    ),
    Mutant(
        ("XFER-038", "XFER-041"),
        "regions",
        "address + first * cache.block_bytes",
        "first * cache.block_bytes",
        "regions are counted from zero instead of the cache's address",
    ),
    Mutant(
        ("XFER-039",),
        "regions",
        "MAX_REGION_BYTES = 2**31 - 64 * 1024",
        "MAX_REGION_BYTES = 2**31",
        "a region of exactly 2 GiB is registered",
    ),
    Mutant(
        ("XFER-039", "XFER-043", "XFER-045"),
        "regions",
        "    blocks = MAX_REGION_BYTES // cache.block_bytes\n",
        "    blocks = MAX_REGION_BYTES // cache.block_bytes + 1\n",
        "a region is rounded up to whole blocks",
    ),
    Mutant(
        ("XFER-040", "XFER-043"),
        "regions",
        _REGION,
        "min(MAX_REGION_BYTES, (cache.num_blocks - first) * cache.block_bytes)",
        "regions end at the limit, within a block",
    ),
    Mutant(
        ("XFER-041", "XFER-043"),
        "regions",
        "range(0, cache.num_blocks, blocks)",
        "range(0, cache.num_blocks - blocks, blocks)",
        "the last region is left out",
    ),
    Mutant(
        ("XFER-041", "XFER-045"),
        "regions",
        _REGION,
        "blocks * cache.block_bytes",
        "the last region goes past the end of the cache",
    ),
    Mutant(
        ("XFER-043", "XFER-045"),
        "regions",
        "], blocks",
        "], blocks + 1",
        "blocks per region is one too many",
    ),
    Mutant(
        ("XFER-044",),
        "regions",
        "    blocks = MAX_REGION_BYTES // cache.block_bytes\n",
        "    blocks = max(1, MAX_REGION_BYTES // cache.block_bytes)\n",
        "a block of more than the limit is registered all the same",
    ),
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
