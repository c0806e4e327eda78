"""The oracle of the pair clauses: what should be in each worker's KV memory, byte for byte.

Nothing here asks the implementation where a token or a head belongs: a prompt's KV is random, and
is put and looked for by position in the prompt and by global head.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pd_testkit.contract import WorkerSpec

    Bits = npt.NDArray[Any]
    """A cache's elements as unsigned integers of their size."""


def rank_heads(spec: WorkerSpec, tp_rank: int) -> list[int]:
    """Global numbers of the KV heads that a TP rank holds, in its cache's order.

    With fewer heads than ranks, neighbouring ranks hold the same head.
    """
    if spec.mla:
        return [0]
    if spec.kv_heads >= spec.tp_size:
        share = spec.kv_heads // spec.tp_size
        return list(range(tp_rank * share, (tp_rank + 1) * share))
    return [tp_rank * spec.kv_heads // spec.tp_size]


def bits(array: npt.NDArray[Any]) -> Bits:
    """A copy of the array's bytes that compares equal only where they are the same."""
    import numpy as np

    return np.array(array, order="C").view(f"u{array.itemsize}")


class PromptKV:
    """A prompt's KV, of all layers and heads, as a model would have computed it.

    Args:
        tokens: of the prompt.
        like: a worker's caches, for the names and the vector of one head and token.
    """

    def __init__(
        self,
        random: np.random.Generator,
        tokens: int,
        heads: int,
        like: Mapping[str, npt.NDArray[Any]],
    ) -> None:
        self.tokens = tokens
        self._bits = {
            name: random.integers(
                0, 256**cache.itemsize, (tokens, heads, *cache.shape[3:]), f"u{cache.itemsize}"
            )
            for name, cache in like.items()
        }

    def after(self, tokens: int) -> PromptKV:
        """That of all but the first ``tokens`` tokens."""
        part = copy(self)
        part.tokens = self.tokens - tokens
        part._bits = {name: values[tokens:] for name, values in self._bits.items()}
        return part

    def of(self, name: str, heads: Sequence[int], tokens: int) -> Bits:
        """(token, head, ...) of the first ``tokens`` tokens."""
        return self._bits[name][:tokens, list(heads)]


class WorkerMemory:
    """One worker's KV memory, and what should be in it: random bytes at first."""

    def __init__(
        self,
        spec: WorkerSpec,
        tp_rank: int,
        caches: Mapping[str, npt.NDArray[Any]],
        random: np.random.Generator,
    ) -> None:
        self.heads = rank_heads(spec, tp_rank)
        self.caches = caches
        self._block_size = spec.block_size
        kinds = ("",) if spec.mla else (".k", ".v")
        expected = {f"{layer}{kind}" for layer in range(spec.layers) for kind in kinds}
        assert set(caches) == expected, f"the caches are {sorted(caches)}, not {sorted(expected)}"
        self._image: dict[str, Bits] = {}
        for name, cache in caches.items():
            shape = (spec.num_blocks, spec.block_size, len(self.heads))
            assert cache.shape[:3] == shape, f"cache {name} is {cache.shape}, not {shape} x ..."
            noise = random.integers(0, 256**cache.itemsize, cache.shape, f"u{cache.itemsize}")
            cache[...] = noise.view(cache.dtype)
            self._image[name] = noise

    def put(self, blocks: Sequence[int], kv: PromptKV) -> None:
        """The prompt is prefilled into these blocks."""
        for name, cache in self.caches.items():
            at = self._slots(blocks, kv.tokens)
            values = kv.of(name, self.heads, kv.tokens)
            cache[at] = values.view(cache.dtype)
            self._image[name][at] = values

    def wrong(self, blocks: Sequence[int], kv: PromptKV, tokens: int) -> str:
        """Where these blocks do not hold the prompt's KV; empty when they do."""
        import numpy as np

        for name, cache in self.caches.items():
            found = bits(cache[self._slots(blocks, tokens)])
            same = found == kv.of(name, self.heads, tokens)
            if not same.all():
                token, head = np.argwhere(~same)[0][:2].tolist()
                count = int((~same.reshape(*same.shape[:2], -1).all(axis=-1)).sum())
                return (
                    f"cache {name}, token {token}, head {self.heads[head]} "
                    f"({count} of {tokens * len(self.heads)} vectors)"
                )
        return ""

    def expect(self, blocks: Sequence[int], kv: PromptKV, tokens: int) -> None:
        """From now on the prompt's KV belongs here."""
        for name in self.caches:
            at = self._slots(blocks, tokens)
            self._image[name][at] = kv.of(name, self.heads, tokens)

    def reuse(self, blocks: Sequence[int], skip: int = 0) -> None:
        """Another owner writes into the blocks, but for the first ``skip`` tokens."""
        import numpy as np

        slots = np.arange(skip, len(blocks) * self._block_size)
        at = np.asarray(blocks, dtype=int)[slots // self._block_size], slots % self._block_size
        for name, cache in self.caches.items():
            self._image[name][at] = np.iinfo(self._image[name].dtype).max
            cache[at] = self._image[name][at].view(cache.dtype)

    def changed(self, but: Iterable[int] = ()) -> dict[str, list[int]]:
        """The blocks that do not hold what they should, by cache; ``but`` for some blocks."""
        import numpy as np

        spared = list(but)
        found = {}
        for name, cache in self.caches.items():
            same = (bits(cache) == self._image[name]).reshape(len(cache), -1).all(axis=1)
            same[spared] = True
            if not same.all():
                found[name] = np.flatnonzero(~same).tolist()
        return found

    def _slots(self, blocks: Sequence[int], tokens: int) -> tuple[Bits, Bits]:
        """Block and offset of each of the first tokens."""
        import numpy as np

        position = np.arange(tokens)
        table = np.asarray(blocks, dtype=int)
        return table[position // self._block_size], position % self._block_size
