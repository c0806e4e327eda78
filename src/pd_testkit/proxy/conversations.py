"""Which D holds the KV of the conversation that a prompt continues."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Any

from pd_testkit.proxy.instances import Instance
from pd_testkit.proxy.prompts import Prompt


@dataclass
class Turn:
    """A prompt that a D has computed the answer of."""

    conversation: bytes
    """The digest of the conversation's first prompt."""
    number: int
    """Counted from one."""
    decode: Instance
    dp_rank: int | None
    """Of D; None where it has one only."""
    tokens: int
    """Of the prompt and, as it ends, of the answer, estimated: what D has cached."""
    size: int
    """Of the prompt, in its units."""
    link: bytes
    """The last whole link of the prompt's chain."""
    used_at: float
    """Seconds."""
    prefill: Instance | None = None
    """The P that has computed the conversation's last prompt that went over one."""
    prefilled: int = 0
    """Of the prompt, estimated: what that P has cached."""


class Conversations:
    """The turns of late, by the digest of their prompts; bounded, and forgotten after a while.

    A prompt continues the turn whose prompt it begins with and is longer than. The same prompt
    again is a first turn again, or everybody's "hello" would go to one D.

    Args:
        limit: turns that are kept; the least recently used one goes first.
        lifetime_s: seconds that a turn is kept after its last use.
    """

    def __init__(self, limit: int, lifetime_s: float) -> None:
        self._limit = limit
        self._lifetime_s = lifetime_s
        self._turns: OrderedDict[bytes, Turn] = OrderedDict()
        """The least recently used one first."""
        self._sizes: dict[bytes, Counter[int]] = {}
        """How many turns of which size go on after a link: the beginnings worth a look."""

    def __len__(self) -> int:
        """Conversations, not turns."""
        return len({turn.conversation for turn in self._turns.values()})

    def find(self, prompt: Prompt, now: float) -> Turn | None:
        """The longest turn that the prompt continues, which is thereby used."""
        for whole in reversed(range(len(prompt.links))):
            sizes = self._sizes.get(prompt.links[whole])
            for size in sorted(sizes or (), reverse=True):
                if size >= prompt.size:
                    continue
                key = prompt.beginning(size)
                turn = self._turns.get(key)
                if turn is not None and now - turn.used_at <= self._lifetime_s:
                    self._use(key, turn, now)
                    return turn
        return None

    def remember(
        self,
        prompt: Prompt,
        decode: Instance,
        dp_rank: int | None,
        tokens: int,
        continued: Turn | None,
        now: float,
        prefill: Instance | None = None,
    ) -> Turn:
        """D computes the answer to the prompt, which continues that turn.

        Args:
            prefill: the P that has computed the prompt; None: none has.
        """
        prefilled = tokens
        if prefill is None and continued is not None:
            prefill, prefilled = continued.prefill, continued.prefilled
        key = prompt.beginning(prompt.size)
        self._drop(key)
        link = prompt.links[prompt.size // prompt.piece]
        turn = self._turns[key] = Turn(
            conversation=key if continued is None else continued.conversation,
            number=1 if continued is None else continued.number + 1,
            decode=decode,
            dp_rank=dp_rank,
            tokens=tokens,
            size=prompt.size,
            link=link,
            used_at=now,
            prefill=prefill,
            prefilled=prefilled,
        )
        self._sizes.setdefault(link, Counter())[prompt.size] += 1
        while len(self._turns) > self._limit:
            self._drop(next(iter(self._turns)))
        return turn

    def forget(self, prompt: Prompt) -> None:
        """D did not get to the end of its answer."""
        self._drop(prompt.beginning(prompt.size))

    def expire(self, now: float) -> None:
        """Forget the turns whose time is over."""
        while self._turns:
            key, turn = next(iter(self._turns.items()))
            if now - turn.used_at <= self._lifetime_s:
                return
            self._drop(key)

    def clear(self) -> int:
        """Forget them all; how many conversations there were."""
        count = len(self)
        self._turns.clear()
        self._sizes.clear()
        return count

    def listed(self, now: float) -> list[dict[str, Any]]:
        """For people: the last turn of each conversation, the latest used one last."""
        last: dict[bytes, Turn] = {}
        for turn in self._turns.values():
            known = last.get(turn.conversation)
            if known is None or turn.number >= known.number:
                last[turn.conversation] = turn
        return [
            {
                "id": turn.conversation.hex(),
                "decode": turn.decode.engine.url,
                "dp_rank": turn.dp_rank,
                "turns": turn.number,
                "tokens": turn.tokens,
                "idle_s": now - turn.used_at,
            }
            for turn in sorted(last.values(), key=lambda turn: turn.used_at)
        ]

    def _use(self, key: bytes, turn: Turn, now: float) -> None:
        turn.used_at = now
        self._turns.move_to_end(key)

    def _drop(self, key: bytes) -> None:
        turn = self._turns.pop(key, None)
        if turn is None:
            return
        sizes = self._sizes[turn.link]
        sizes[turn.size] -= 1
        if not sizes[turn.size]:
            del sizes[turn.size]
        if not sizes:
            del self._sizes[turn.link]
