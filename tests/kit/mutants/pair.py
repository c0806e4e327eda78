"""Planted bugs that the pair clauses catch: where bytes go, and who hears of it."""

from __future__ import annotations

from . import pair_ends
from .mutant import Mutant

_LOAD_ADDRESS = "            address = self._address(heads.remote_rank)\n            meeting"
_POSTED = """        running.deadline = self._clock() + patience_s
        return None
"""
_MERGE = "    return merge(to.tolist(), source.tolist(), [_vector_bytes(ours)] * to.size)"

MUTANTS = (
    # -- what arrives
    Mutant(
        ("PAIR-001", "PAIR-028", "PAIR-056", "PAIR-072", "PAIR-073"),
        "reading_plan",
        "        np.repeat(remote_token, count) + within,\n",
        "        np.repeat(remote_token, count),\n",
        "all tokens of a run are taken from its first one",
    ),
    Mutant(
        ("PAIR-001",),
        "loads",
        "for name, (handle,) in peer.caches.items()",
        'for name, (handle,) in peer.caches.items() if name.endswith("k")',
        "the V caches are forgotten",
    ),
    Mutant(
        ("PAIR-002",),
        "reading_plan",
        _MERGE,
        _MERGE.replace("return", "*at, sizes =")
        + "\n    return *at, [size + _vector_bytes(ours) for size in sizes]",
        "each copy runs on into the block behind it",
    ),
    Mutant(
        ("PAIR-003", "PAIR-005"),
        "loads",
        ".read(*plan)",
        ".write(*plan)",
        "D writes its own blocks over P's",
    ),
    Mutant(
        ("PAIR-004", "PAIR-010", "PAIR-027"),
        "loads",
        "        local, remote = transfer.local_block_ids, transfer.remote_block_ids\n",
        "        local, remote = transfer.local_block_ids, transfer.remote_block_ids[::-1]\n",
        "blocks are paired by position from the wrong end (xLLM-AI/xllm#2040)",
    ),
    Mutant(
        ("PAIR-005", "PAIR-007"),
        "reading_plan",
        "len(remote) * theirs.block_size)",
        "(len(remote) - 1) * theirs.block_size)",
        "the last block is rounded down",
    ),
    Mutant(
        ("PAIR-006",),
        "loads",
        "        local, remote = transfer.local_block_ids, transfer.remote_block_ids\n",
        "        local, remote = transfer.local_block_ids, transfer.remote_block_ids[:8192]\n",
        "a block table ends at 8192 blocks",
    ),
    Mutant(
        ("PAIR-008",),
        "worker",
        "                load.end(True)\n",
        "                load.end(True)\n                self._refused |= {request_id}\n",
        "a load of no blocks is reported as a failed one (vllm-project/vllm#57570)",
    ),
    Mutant(
        ("PAIR-008",),
        "worker",
        "                load.end(True)\n",
        "                continue\n",
        "a full prefix hit on D: nobody is told (vllm-project/vllm#18632)",
    ),
    Mutant(
        ("PAIR-009",),
        "reading_plan",
        "    return min(len(local_block_ids) * ours.block_size, len(remote) * theirs.block_size)",
        "    return len(local_block_ids) * ours.block_size",
        "D's block table says how long the prompt is (vllm-project/vllm#50558)",
    ),
    Mutant(
        ("PAIR-010",),
        "reading_plan",
        "    return min(len(local_block_ids) * ours.block_size, len(remote) * theirs.block_size)",
        "    return len(remote) * theirs.block_size",
        "P's block table says how much D has room for",
    ),
    Mutant(
        ("PAIR-011",),
        "reading_plan",
        "geometry.head_dim * geometry.itemsize",
        "geometry.head_dim * 2",
        "every element is taken for two bytes",
    ),
    # -- shapes
    Mutant(
        ("PAIR-012", "PAIR-023", "PAIR-024"),
        "reading_plan",
        "HeadRun(holder, 0, 0, 1)",
        "HeadRun(holder, 1, 0, 1)",
        "a latent cache is read one head too far",
    ),
    Mutant(
        ("PAIR-013", "PAIR-017", "PAIR-022"),
        "reading_plan",
        "+ head * slots",
        "+ head",
        "heads before tokens are read like tokens before heads (vllm-project/vllm#30275)",
    ),
    Mutant(
        ("PAIR-014", "PAIR-057", "PAIR-067", "PAIR-069"),
        "moves",
        """meeting.exception() is not None for meeting in meetings):
            return False""",
        """meeting.exception() is not None for meeting in meetings):
            return True""",
        "a load is received from a peer that will not talk",
    ),
    Mutant(
        ("PAIR-083",),
        "reading_plan",
        "    slots, heads = geometry.block_size, geometry.rank_heads\n",
        "    slots, heads = 16, geometry.rank_heads\n",
        "a block of any size is taken for one of 16 tokens",
    ),
    Mutant(
        ("PAIR-015", "PAIR-016", "PAIR-017", "PAIR-022", "PAIR-074"),
        "reading_plan",
        "remote_block_size=theirs.block_size",
        "remote_block_size=ours.block_size",
        "P's blocks are taken for blocks of D's size (vllm-project/vllm#42895)",
    ),
    # -- ranks
    Mutant(
        ("PAIR-018",),
        "loads",
        _LOAD_ADDRESS,
        _LOAD_ADDRESS.replace("heads.remote_rank", "0"),
        "all ranks read from P's rank 0 (vllm-project/vllm#47764)",
    ),
    Mutant(
        ("PAIR-019", "PAIR-021"),
        "reading_plan",
        "heads.remote_head + head",
        "head",
        "every rank gets the first heads of its P rank",
    ),
    Mutant(
        ("PAIR-020", "PAIR-022"),
        "reading_plan",
        "heads.local_head + head",
        "head",
        "what D gathers from several P ranks goes to its first heads",
    ),
    Mutant(
        ("PAIR-021",),
        "heads",
        "first = local_rank // readers * ours",
        "first = local_rank % kv_heads * ours",
        "replicas by modulo in place of division (sgl-project/sglang#32247)",
    ),
    Mutant(
        ("PAIR-024",),
        "reading_plan",
        "or [remote * ours.tp_size // remote_tp]",
        "or []",
        "P's ranks that nobody reads from are not told (vllm-project/vllm#36958)",
    ),
    Mutant(
        ("PAIR-025",),
        "loads",
        "dp_rank=transfer.remote_dp_rank",
        "dp_rank=0",
        "P's data-parallel rank is left out of the port (vllm-project/vllm#32291)",
    ),
    Mutant(
        ("PAIR-026",),
        "targets.reference_pair",
        "            if dp == dp_rank:\n",
        "            if dp == 0:\n",
        "all of D's data-parallel ranks load on rank 0 (vllm-project/vllm#53579)",
    ),
    # -- many requests
    Mutant(
        ("PAIR-027",),
        "peers",
        "status = self._engine.connect(peer.engine)\n",
        'status = self._engine.connect("p0.dp0.tp0")\n',
        "every P engine is taken for the first one (vllm-project/vllm#27083)",
    ),
    Mutant(
        ("PAIR-028", "PAIR-050"),
        "moves",
        "if self._clock() >= running.deadline:",
        "if True:",
        "a load that is still under way at the next poll is given up",
    ),
    Mutant(
        ("PAIR-029",),
        "moves",
        """        if not all(meeting.done() for meeting in meetings):
            return None
""",
        """        if not all(meeting.done() for meeting in meetings):
            return False
""",
        "requests that come while a peer is being met fail (sgl-project/sglang#22990)",
    ),
    Mutant(
        ("PAIR-030", "PAIR-033"),
        "holds",
        "            del self._requests[transfer_id], self._told[transfer_id]\n",
        "            del self._requests[transfer_id]\n",
        "what was told of a request outlives it (sgl-project/sglang#22320)",
    ),
    Mutant(
        ("PAIR-031", "PAIR-034", "PAIR-040", "PAIR-075", "PAIR-076", "PAIR-078"),
        "moves",
        _POSTED,
        _POSTED.replace("None", "True"),
        "a load is done when its transfers are posted",
    ),
    Mutant(
        ("PAIR-032",),
        "moves",
        "self._running.pop(key).move.end(good)",
        "self._running[key].move.end(good)",
        "a load that has ended is reported at every poll",
    ),
    Mutant(
        ("PAIR-034", "PAIR-060"),
        "moves",
        "if not all(status.done for status in statuses):",
        "if not any(status.done for status in statuses):",
        "a load has ended when one of its layers has",
    ),
    Mutant(
        ("PAIR-035",),
        "holds",
        ">= self._requests[transfer_id] and",
        ">= 1 and",
        "the first of several readers frees the prompt (vllm-project/vllm#43509)",
    ),
    Mutant(
        ("PAIR-036",),
        "holds",
        "        if transfer_id in self._requests:\n            self._told",
        "        if transfer_id:\n            self._told",
        "a late completion is looked up and is not there (vllm-project/vllm#46874)",
    ),
    Mutant(
        ("PAIR-037",),
        "worker",
        "in metadata.receive.items():",
        "in [metadata.receive.popitem()]:",
        "a step without a load is an error",
    ),
    *pair_ends.MUTANTS,
)
