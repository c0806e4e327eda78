"""The clauses of the unit `transfer` on memory: pages, copies, offsets and regions."""

from __future__ import annotations

from pd_testkit.contract.capabilities import Capability
from pd_testkit.contract.clause import Clause

_MLA = frozenset({Capability.MLA})

_PAGES = (
    Clause(
        "XFER-001",
        "By default a block of 16 tokens becomes 16 pages of one token.",
        "The attention kernel's pages and the scheduler's blocks drift apart: wrong KV.",
        ("vllm-project/vllm#28925",),
    ),
    Clause(
        "XFER-002",
        "Where both block sizes are the same, the pages are the blocks.",
        "The common case moves other blocks than were asked for.",
        ("vllm-project/vllm#30275",),
    ),
    Clause(
        "XFER-003",
        "A block becomes as many pages as the ratio of the two sizes says.",
        "A ratio that is taken for granted moves too few pages, or too many.",
        ("vllm-project/vllm#28925", "vllm-project/vllm#42895"),
    ),
    Clause(
        "XFER-004",
        "Pages come in the order of their blocks.",
        "Pages pair with P's by position; reordered ones put tokens into wrong places.",
        ("xLLM-AI/xllm#2040",),
    ),
    Clause(
        "XFER-005",
        "No blocks have no pages.",
        "A full prefix hit, which moves nothing, raises.",
        ("vllm-project/vllm#56640",),
    ),
    Clause(
        "XFER-006",
        "Block sizes that do not divide are refused with ValueError.",
        "A rounded ratio leaves the end of each block behind: silent corruption.",
        ("vllm-project/vllm#28925", "vllm-project/vllm#42895"),
    ),
    Clause(
        "XFER-007",
        "A physical block larger than the virtual one is refused with ValueError.",
        "A ratio of zero moves nothing at all, and reports success.",
        ("vllm-project/vllm#42895",),
    ),
    Clause(
        "XFER-008",
        "Every token lies in the page that its position says, for any blocks and sizes.",
        "Tokens are read from each other's places.",
    ),
    Clause(
        "XFER-009",
        "A hundred thousand blocks have all their pages, also of large block ids.",
        "Large caches wrap around or lose their tail.",
    ),
)

_MERGE = (
    Clause(
        "XFER-010",
        "Copies that follow each other on both sides become one.",
        "Thousands of small reads where one would do: bandwidth falls by an order.",
    ),
    Clause(
        "XFER-011",
        "Copies that do not follow each other stay as they are.",
        "Memory between them, which belongs to other requests, is overwritten.",
    ),
    Clause(
        "XFER-012",
        "Runs among other copies are merged, each for itself.",
        "One gap spoils the merging, or is closed.",
    ),
    Clause(
        "XFER-013",
        "Nothing to merge gives nothing.",
        "A full prefix hit raises.",
        ("vllm-project/vllm#56640",),
    ),
    Clause(
        "XFER-014",
        "A single copy stays as it is.",
        "Prompts of one block fail.",
    ),
    Clause(
        "XFER-015",
        "Copies in any order are merged, and come out by rising local offset.",
        "A fragmented cache gives blocks in any order.",
    ),
    Clause(
        "XFER-016",
        "Copies that follow each other locally but not remotely are not merged.",
        "D fills its blocks with P's next block instead of the one it asked for.",
    ),
    Clause(
        "XFER-017",
        "Copies that follow each other remotely but not locally are not merged.",
        "D overwrites blocks between its own: another request answers nonsense.",
    ),
    Clause(
        "XFER-018",
        "Copies of unequal sizes are merged by their own sizes.",
        "Layers of unequal block sizes, as in hybrid models, are cut short.",
        ("vllm-project/vllm#30275",),
    ),
    Clause(
        "XFER-019",
        "Copies that write the same local bytes are refused with ValueError.",
        "Two blocks land in one place; which one wins is a race.",
        ("sgl-project/sglang#32564",),
    ),
    Clause(
        "XFER-020",
        "Lists of unequal length are refused with ValueError.",
        "A copy without a source or a size reads whatever lies there.",
        ("vllm-project/vllm#50558",),
    ),
    Clause(
        "XFER-021",
        "Lists of unequal length are refused with ValueError also where one is empty.",
        "A lost list passes for a transfer of nothing: silent recompute, or stale KV.",
    ),
    Clause(
        "XFER-022",
        "A hundred thousand copies in random order are merged to the fewest.",
        "Long prompts stall the step, or break where a shortcut was taken.",
    ),
    Clause(
        "XFER-023",
        "Offsets and totals beyond 2 GiB and 4 GiB are exact.",
        "32 bits wrap around in caches of usual size: another block is read.",
    ),
    Clause(
        "XFER-024",
        "Offsets near 2**62 are exact.",
        "Absolute addresses wrap around or turn into floats.",
    ),
    Clause(
        "XFER-025",
        "Results are lists of plain ints.",
        "A numpy integer is refused by the RDMA binding or by msgpack.",
    ),
    Clause(
        "XFER-026",
        "Merging moves the same bytes to the same places, whatever the copies.",
        "A merged transfer differs from the blocks that were asked for.",
    ),
    Clause(
        "XFER-027",
        "What was merged cannot be merged further.",
        "Copies that could be one are sent as several, and cost as several.",
    ),
    Clause(
        "XFER-028",
        "The lists that go in are left as they were.",
        "The K offsets are used again for V; sorted in place, they no longer fit.",
    ),
)

_OFFSETS = (
    Clause(
        "XFER-029",
        "In a 5-D MHA cache a block begins at its id times the bytes of one index of dim 0.",
        "D reads at wrong offsets: fluent wrong answers.",
        ("vllm-project/vllm#47871",),
    ),
    Clause(
        "XFER-030",
        "So it does in a 4-D MHA cache.",
        "The other attention backend's layout is read at wrong offsets.",
        ("vllm-project/vllm#30275",),
    ),
    Clause(
        "XFER-031",
        "In a 3-D MLA cache, whose dim 0 counts tokens, a block is block-size indexes long.",
        "One token of each block is moved instead of the block.",
        ("vllm-project/vllm#28925",),
        _MLA,
    ),
    Clause(
        "XFER-032",
        "Offsets beyond 4 GiB are exact.",
        "Blocks at the end of a large cache are read from its beginning.",
        ("sgl-project/sglang#31968",),
    ),
    Clause(
        "XFER-033",
        "Block lists of unequal length are refused, not cut to the shorter.",
        "The end of the prompt is never moved, or goes to a wrong place.",
        ("vllm-project/vllm#50558", "xLLM-AI/xllm#2040"),
    ),
    Clause(
        "XFER-034",
        "A negative block id, as in the padding of a block table, is refused.",
        "The read goes to memory before the cache.",
        ("sgl-project/sglang#31968",),
    ),
    Clause(
        "XFER-035",
        "No blocks give no offsets.",
        "A full prefix hit raises.",
        ("vllm-project/vllm#56640",),
    ),
    Clause(
        "XFER-036",
        "Pairs of blocks keep their order and their partners.",
        "Tokens are put into each other's places.",
        ("xLLM-AI/xllm#2040",),
    ),
    Clause(
        "XFER-037",
        "A block's offset and size cover the block's elements and no others, in any layout.",
        "A neighbour's KV is overwritten, or a part of the block is left behind.",
        ("vllm-project/vllm#47871",),
    ),
)

_CHUNKS = (
    Clause(
        "XFER-038",
        "A small cache is one region to register, at its own address and size.",
        "Every transfer pays for sessions that it does not need.",
    ),
    Clause(
        "XFER-039",
        "No region to register reaches 2 GiB.",
        "The NIC refuses the registration, or cuts its length to 31 bits.",
    ),
    Clause(
        "XFER-040",
        "Regions are cut between blocks, never within one.",
        "A block over two regions needs two reads, and gets one.",
    ),
    Clause(
        "XFER-041",
        "Regions follow each other without a gap or an overlap and cover the whole cache.",
        "Blocks in a gap fail with a remote access error, as soon as the cache is full.",
    ),
    Clause(
        "XFER-042",
        "In an MLA cache regions are cut between blocks of tokens, not between tokens.",
        "The block that lies across two regions is read past the end of the first.",
        needs=_MLA,
    ),
    Clause(
        "XFER-043",
        "Block b lies in region b // blocks-per-region, that many blocks from its start.",
        "Blocks beyond the first region are read from a wrong one.",
    ),
    Clause(
        "XFER-044",
        "A block too large for a region is refused with ValueError.",
        "The registration fails later, without saying why, or is cut short.",
    ),
    Clause(
        "XFER-045",
        "For any cache the regions hold all of its blocks, each in the one that its id says.",
        "Some model's geometry leaves a block outside of all regions.",
    ),
)

CLAUSES: tuple[Clause, ...] = (*_PAGES, *_MERGE, *_OFFSETS, *_CHUNKS)
