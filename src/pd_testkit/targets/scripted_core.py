"""The engine core behind a server under test: it generates what the clause says."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pd_testkit.contract import Generation


class Script:
    """What the sequences of one request get, and what they were given."""

    def __init__(self, generations: Sequence[Generation]) -> None:
        self._left = deque(generations)
        self.params: list[Mapping[str, Any] | None] = []

    def take(self, params: Mapping[str, Any] | None) -> Generation:
        """The next sequence's."""
        self.params.append(params)
        return self._left.popleft()


class ScriptedCore:
    """Finds a sequence's script by its prompt. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scripts: dict[str, Script] = {}

    @contextmanager
    def expecting(self, body: Any, generations: Sequence[Generation]) -> Iterator[Script]:
        """While open, a prompt that ends with the body's text gets these generations."""
        script = Script(generations)
        text = _text(body)
        with self._lock:
            self._scripts[text] = script
        try:
            yield script
        finally:
            with self._lock:
                del self._scripts[text]

    def begin(self, prompt: str, params: Mapping[str, Any] | None) -> Generation:
        """A sequence starts.

        Raises:
            LookupError: no request with that prompt is expected.
            ValueError: the script says that the core refuses it.
        """
        with self._lock:
            for text, script in self._scripts.items():
                if text and prompt.endswith(text):
                    generation = script.take(params)
                    break
            else:
                raise LookupError(f"no script for the prompt {prompt[-80:]!r}")
        if generation.refusal is not None:
            raise ValueError(generation.refusal)
        return generation


def _text(body: Any) -> str:
    """The prompt, or the text of the last message; empty where there is none."""
    if not isinstance(body, Mapping):
        return ""
    messages = body.get("messages")
    found = messages[-1].get("content") if messages else body.get("prompt")
    if isinstance(found, list):
        found = found[-1].get("text")
    return found if isinstance(found, str) else ""
