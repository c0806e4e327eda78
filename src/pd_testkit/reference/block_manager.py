"""KV blocks: reference counts, and full blocks found again by the tokens up to their end."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from hashlib import blake2b


class BlockManager:
    """A pool of ``num_blocks`` blocks of ``block_size`` tokens each.

    A free block keeps its contents until it is given out again, so that a later prompt can find
    them. Blocks with nothing to find go first, then those freed longest ago.
    """

    def __init__(self, num_blocks: int, block_size: int, *, prefix_caching: bool = False) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError(f"a pool of {num_blocks} blocks of {block_size} tokens")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._caching = prefix_caching
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._refs: dict[int, int] = {}
        self._block_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}

    @property
    def free_blocks(self) -> int:
        return len(self._free)

    @property
    def ref_counts(self) -> dict[int, int]:
        """Block id to reference count, of the blocks in use."""
        return dict(self._refs)

    def blocks_for(self, tokens: int) -> int:
        """How many blocks ``tokens`` tokens take."""
        return -(-tokens // self.block_size)

    def cached_prefix(self, tokens: Sequence[int]) -> list[int]:
        """The blocks that already hold a prefix of ``tokens``, the last token left out.

        That one is always computed: the next token is sampled from it.
        """
        found: list[int] = []
        for key in self._keys(tokens[:-1]):
            if key not in self._block_of:
                break
            found.append(self._block_of[key])
        return found

    def allocate(self, count: int, prefix: Sequence[int] = ()) -> list[int] | None:
        """The blocks of ``prefix``, shared, and ``count`` fresh ones; None if the pool is short."""
        if count > len(self._free) - sum(block in self._free for block in prefix):
            return None
        for block in prefix:
            self._free.pop(block, None)
            self._refs[block] = self._refs.get(block, 0) + 1
        fresh = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in fresh:
            self._refs[block] = 1
            key = self._key_of.pop(block, None)
            if key is not None:
                del self._block_of[key]
        return [*prefix, *fresh]

    def publish(self, tokens: Sequence[int], block_table: Sequence[int]) -> None:
        """The full blocks of ``block_table`` now hold ``tokens``: let later prompts find them."""
        for key, block in zip(self._keys(tokens), block_table, strict=False):
            if key not in self._block_of:
                self._block_of[key] = block
                self._key_of[block] = key

    def free(self, block_table: Sequence[int]) -> None:
        """Drop one reference to each block.

        Raises:
            ValueError: a block of it is free already.
        """
        for block in reversed(block_table):
            if block not in self._refs:
                raise ValueError(f"block {block} is freed twice")
            self._refs[block] -= 1
            if not self._refs[block]:
                del self._refs[block]
                self._free[block] = None
                self._free.move_to_end(block, last=block in self._key_of)

    def _keys(self, tokens: Sequence[int]) -> Iterator[bytes]:
        """A key per full block; it stands for all tokens up to the block's end."""
        key = b""
        size = self.block_size if self._caching else len(tokens) + 1
        for end in range(size, len(tokens) + 1, size):
            chunk = array("q", tokens[end - size : end]).tobytes()
            key = blake2b(key + chunk, digest_size=16).digest()
            yield key
