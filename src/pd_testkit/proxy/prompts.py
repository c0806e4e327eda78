"""A prompt's beginnings, by digest: what a conversation is recognised by.

A prompt is a row of units: the messages of a chat, the characters of a text, or token ids. The
digest of its first ``n`` units is a chain of keyed hashes (BLAKE2b, 128 bits, as wide as makes
equal digests mean equal beginnings), one link per piece of units, so that all beginnings of a
long prompt are known after one pass over it. The chain starts from what the KV depends on besides
the prompt: the model, the API (a chat template stands between messages and tokens), the cache
salt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

_CHARACTERS = 512
_TOKENS = 128
_DIGEST_BYTES = 16

_encoder = msgspec.json.Encoder(order="deterministic")


class Prompt:
    """One prompt, hashed.

    Args:
        root: what the KV depends on besides the units.
        units: messages, characters or token ids.
        piece: units per link; 1 for messages, whose beginnings always end with one.
    """

    __slots__ = ("_units", "links", "piece", "size")

    def __init__(self, root: bytes, units: Sequence[Any], piece: int) -> None:
        self._units = units
        self.piece = piece
        self.size = len(units)
        """Units."""
        self.links = [blake2b(root, digest_size=_DIGEST_BYTES).digest()]
        """``links[i]``: of the first ``i * piece`` units."""
        for start in range(0, self.size // piece * piece, piece):
            self.links.append(self._link(self.links[-1], start, start + piece))

    def beginning(self, size: int) -> bytes:
        """The digest of the first ``size`` units; at most `size` of the prompt."""
        whole, rest = divmod(size, self.piece)
        return self._link(self.links[whole], size - rest, size) if rest else self.links[whole]

    def _link(self, before: bytes, start: int, end: int) -> bytes:
        units = self._units[start:end]
        return blake2b(_encode(units), key=before, digest_size=_DIGEST_BYTES).digest()


def prompt_of(body: Mapping[str, Any]) -> Prompt | None:
    """The prompt of an OpenAI request; None where there is not exactly one."""
    messages, prompt = body.get("messages"), body.get("prompt")
    if isinstance(messages, list) and messages:
        return Prompt(_root("messages", body), messages, 1)
    if isinstance(prompt, str) and prompt:
        return Prompt(_root("text", body), prompt, _CHARACTERS)
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], int):
        return Prompt(_root("tokens", body), prompt, _TOKENS)
    return None


def opening(body: Mapping[str, Any], size: int) -> bytes:
    """The digest of about the first ``size`` bytes of the prompt, and of its model."""
    prompt = body.get("messages") or body.get("prompt") or ""
    raw = _encode(prompt[:size] if isinstance(prompt, (str, list)) else "")
    return blake2b(_root("opening", body) + raw[:size], digest_size=_DIGEST_BYTES).digest()


def estimated_tokens(body: Mapping[str, Any], characters_per_token: float) -> int:
    """The prompt's length in tokens, from its length in characters; exact for token ids."""
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return int(len(prompt) / characters_per_token)
    messages = body.get("messages")
    if isinstance(messages, list):
        return int(sum(map(_characters, messages)) / characters_per_token)
    prompts = prompt if isinstance(prompt, list) else ()
    if prompts and isinstance(prompts[0], int):
        return len(prompts)
    tokens = sum(len(each) for each in prompts if isinstance(each, list))
    characters = sum(len(each) for each in prompts if isinstance(each, str))
    return tokens + int(characters / characters_per_token)


def _characters(message: Any) -> int:
    """Of a message's text, in one piece or in parts."""
    content = message.get("content") if isinstance(message, Mapping) else None
    if isinstance(content, str):
        return len(content)
    if not isinstance(content, list):
        return 0
    texts = (part.get("text") for part in content if isinstance(part, Mapping))
    return sum(len(text) for text in texts if isinstance(text, str))


def _root(form: str, body: Mapping[str, Any]) -> bytes:
    return _encode([form, body.get("model"), body.get("cache_salt")])


def _encode(value: Any) -> bytes:
    return _encoder.encode(value)
