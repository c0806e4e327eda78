"""One request, from its arrival to its last token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pd_testkit.reference.metadata import RemoteTransfer


@dataclass(eq=False)
class Request:
    """What an engine knows of a request.

    Attributes:
        source: where a prefill engine keeps the prompt's KV; without local blocks yet.
        remote_decode: a decode engine will come for the prompt's KV.
        output: the tokens generated so far.
        block_table: the request's blocks, in token order.
        computed: tokens whose KV lies in these blocks.
        expected: while it loads, what `computed` will be once the load is done.
    """

    request_id: str
    prompt: tuple[int, ...]
    max_tokens: int
    source: RemoteTransfer | None = None
    remote_decode: bool = False
    output: list[int] = field(default_factory=list)
    block_table: list[int] = field(default_factory=list)
    computed: int = 0
    expected: int = 0

    @classmethod
    def from_params(
        cls,
        request_id: str,
        prompt: Sequence[int],
        max_tokens: int,
        params: Mapping[str, Any],
    ) -> Request:
        """A request with ``kv_transfer_params``, which may be empty.

        Refused here rather than in the middle of a step, where it would take all requests down.

        Raises:
            KeyError: a remote prefill that lacks a required parameter.
            ValueError: no prompt, no token to generate, or a remote prefill of no blocks.
        """
        if not prompt or max_tokens < 1:
            raise ValueError(f"request {request_id!r} has no prompt or nothing to generate")
        source = None
        if params.get("do_remote_prefill"):
            source = RemoteTransfer.from_params((), params)
            if not source.remote_block_ids:
                raise ValueError(f"request {request_id!r}: a remote prefill of no blocks")
        remote_decode = bool(params.get("do_remote_decode"))
        return cls(request_id, tuple(prompt), max_tokens, source, remote_decode)

    @property
    def tokens(self) -> tuple[int, ...]:
        """Prompt and output."""
        return (*self.prompt, *self.output)

    @property
    def missing(self) -> int:
        """Tokens to compute before the next one can be sampled."""
        return len(self.prompt) + len(self.output) - self.computed
