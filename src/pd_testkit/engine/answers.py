"""How answers are worded: OpenAI's forms, and what vLLM adds to them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pd_testkit.engine.generation import Token
from pd_testkit.engine.tokenizer import Tokenizer

_LEAST = -9999.0
"""In place of minus infinity, which JSON does not have; vLLM's number."""

_ERRORS = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    413: "RequestEntityTooLarge",
    500: "InternalServerError",
    503: "ServiceUnavailableError",
}


@dataclass(frozen=True)
class Form:
    """How one path words its answers."""

    chat: bool
    prefix: str
    """Of ids."""
    whole: str
    chunk: str


COMPLETION = Form(False, "cmpl", "text_completion", "text_completion")
CHAT = Form(True, "chatcmpl", "chat.completion", "chat.completion.chunk")


@dataclass
class Usage:
    """Tokens of all prompts and, so far, of all answers."""

    prompt: int
    completion: int = 0
    cached: int = 0
    """Of the prompts' tokens, those that were not computed here."""

    def told(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


@dataclass
class Choice:
    """One answer, as it grows.

    Attributes:
        echo: a text that the answer begins with.
        prompt_ids: to tell of beside the answer's; None: ids are not asked for.
        logprobs: they are asked for.
        tokens_as_ids: tokens are named ``token_id:ID`` there, in place of their text.
    """

    form: Form
    index: int
    tokenizer: Tokenizer
    echo: str = ""
    prompt_ids: Sequence[int] | None = None
    logprobs: bool = False
    tokens_as_ids: bool = False
    _offset: int = 0
    """Characters before the next token, for ``text_offset``."""
    tokens: list[Token] = field(default_factory=list)

    def whole(self) -> dict[str, Any]:
        """All of it, once its last token is there."""
        text = self.echo + "".join(token.text for token in self.tokens)
        told: dict[str, Any] = {"index": self.index}
        if self.form.chat:
            told["message"] = {"role": "assistant", "content": text}
        else:
            told["text"] = text
        told["logprobs"] = self._logprobs(self.tokens)
        told["finish_reason"] = self.tokens[-1].finish_reason
        told["stop_reason"] = None
        if self.prompt_ids is not None:
            told["prompt_token_ids"] = list(self.prompt_ids)
            told["token_ids"] = [token.id for token in self.tokens]
        return told

    def delta(self, token: Token, *, first: bool) -> dict[str, Any]:
        """What one token adds."""
        text = self.echo + token.text if first else token.text
        told: dict[str, Any] = {"index": self.index}
        if self.form.chat:
            role = {"role": "assistant"} if first else {}
            told["delta"] = {**role, "content": text}
        else:
            told["text"] = text
        told["logprobs"] = self._logprobs([token])
        told["finish_reason"] = token.finish_reason
        if self.prompt_ids is not None:
            if first:
                told["prompt_token_ids"] = list(self.prompt_ids)
            told["token_ids"] = [token.id]
        return told

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        return self._content(tokens) if self.form.chat else self._lists(tokens)

    def _content(self, tokens: Sequence[Token]) -> dict[str, Any]:
        """The form of a chat."""
        return {
            "content": [
                {
                    **self._entry(token.id, token.logprob),
                    "top_logprobs": [self._entry(*each) for each in token.top],
                }
                for token in tokens
            ]
        }

    def _entry(self, id_: int, logprob: float) -> dict[str, Any]:
        name, text = self._name(id_), self._text(id_)
        told = None if text is None else list(text.encode())
        return {"token": name, "logprob": max(logprob, _LEAST), "bytes": told}

    def _lists(self, tokens: Sequence[Token]) -> dict[str, Any]:
        """The form of a completion. The chosen token is among the likeliest, even if it is not
        one of them."""
        names = [self._name(token.id) for token in tokens]
        offsets = []
        for name in names:
            offsets.append(self._offset)
            self._offset += len(name)
        return {
            "text_offset": offsets,
            "token_logprobs": [max(token.logprob, _LEAST) for token in tokens],
            "tokens": names,
            "top_logprobs": [
                {
                    self._name(id_): max(logprob, _LEAST)
                    for id_, logprob in dict((*token.top, (token.id, token.logprob))).items()
                }
                for token in tokens
            ],
        }

    def _name(self, id_: int) -> str:
        """A token's text; that of a part of a character is its id, in vLLM's words."""
        text = None if self.tokens_as_ids else self._text(id_)
        return f"token_id:{id_}" if text is None else text

    def _text(self, id_: int) -> str | None:
        text = self.tokenizer.decode([id_])
        return text if text and "\ufffd" not in text else None


def error(status: int, message: str, param: str | None = None) -> dict[str, Any]:
    """The body of an error."""
    kind = _ERRORS.get(status, "BadRequestError" if status < 500 else "InternalServerError")
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def models(name: str, max_tokens: int, created: int) -> Mapping[str, Any]:
    """The list of the one model."""
    card = {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "pd-testkit",
        "root": name,
        "parent": None,
        "max_model_len": max_tokens,
    }
    return {"object": "list", "data": [card]}
