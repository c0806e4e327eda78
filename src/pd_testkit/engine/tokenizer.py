"""Text to tokens and back: one token per byte of UTF-8. Stop strings. Pure."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from pd_testkit.engine.shape import VOCABULARY

END_OF_TEXT = 256
MARKS = {"system": 257, "user": 258, "assistant": 259}
"""What a chat puts before a message, by its role."""
_ROLES = {"developer": "system", "tool": "user"}
"""Those that are said as another one."""


class Detokenizer(Protocol):
    """The text of one answer, as its tokens come."""

    def push(self, token: int) -> str:
        """What the token adds: nothing while a character lacks bytes."""

    def flush(self) -> str:
        """What an incomplete character is shown as, at the end."""


class Tokenizer(Protocol):
    """A model's.

    Attributes:
        vocabulary: ids are below it.
        ends: ids that end an answer.
    """

    vocabulary: int
    ends: frozenset[int]

    def encode(self, text: str) -> tuple[int, ...]:
        """The ids of a prompt."""

    def decode(self, ids: Iterable[int]) -> str:
        """Their text; marks have none, and bytes that are no UTF-8 become U+FFFD."""

    def chat(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        """A prompt for the next message of the assistant.

        Args:
            messages: each with its ``role`` and ``content``.

        Raises:
            ValueError: a role is unknown.
        """

    def detokenizer(self) -> Detokenizer:
        """For one answer."""


class Bytes:
    """One token per byte, and marks that have no text. A `Tokenizer`."""

    vocabulary = VOCABULARY
    ends = frozenset({END_OF_TEXT})

    def encode(self, text: str) -> tuple[int, ...]:
        """Lone surrogates, which JSON can hold and UTF-8 cannot, become ``?``."""
        return tuple(text.encode("utf-8", "replace"))

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(i for i in ids if i < 256).decode("utf-8", "replace")

    def chat(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        ids: list[int] = []
        for message in messages:
            role = message["role"]
            mark = MARKS.get(_ROLES.get(role, role))
            if mark is None:
                raise ValueError(f"role {role!r}; choose of {', '.join((*MARKS, *_ROLES))}")
            ids += (mark, *self.encode(message["content"]))
        return (*ids, MARKS["assistant"])

    def detokenizer(self) -> Detokenizer:
        return _ByteDetokenizer()


class _ByteDetokenizer:
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        # A mark between a character's bytes does not complete it.
        return self._decoder.decode(bytes([token])) if token < 256 else ""

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


class StopMatcher:
    """Ends a text before the first of its stop strings, however the text is cut into pieces.

    First is the one that is complete first; of those that end together, the longest.

    Attributes:
        stopped: a stop string was found; nothing comes after.

    Raises:
        ValueError: a stop string is empty.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(stops)
        if not all(self._stops):
            raise ValueError("a stop string is empty")
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """What may be shown now: not the start of what may become a stop string."""
        if self.stopped:
            return ""
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)[1]]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        shown, self._held = text[: len(text) - keep], text[len(text) - keep :]
        return shown

    def flush(self) -> str:
        """What was held back, at the end of the answer."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that `stop` begins with."""
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
