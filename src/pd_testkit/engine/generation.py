"""What an engine is asked to generate, and what it gives, token by token."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pd_testkit.engine.counts import Stats, Transferred


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen, and when an answer ends.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_p, top_k: of which the others are left out; 1.0 and 0 leave none out.
        presence_penalty, frequency_penalty: what a token's logit loses if it is in the answer
            already, and for each time that it is; 0.0 is none, less makes it likelier.
        repetition_penalty: by which the logit of a token of prompt or answer is divided, or
            multiplied if it is negative; 1.0 is none.
        seed: of this answer's own random numbers; the same seed gives the same answer.
        logprobs: likeliest tokens to tell of beside each chosen one; None: no probabilities.
        stop: texts that end the answer, and are not part of it.
        ignore_eos: the token of the text's end is one like any other.
    """

    max_tokens: int = 16
    min_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    logprobs: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False


@dataclass(frozen=True)
class Hold:
    """P: keep the prompt's KV for a D. The answer ends with its first token.

    Attributes:
        transfer_id: what D will ask for; None: the request's own id.
    """

    transfer_id: str | int | None = None


@dataclass(frozen=True)
class Load:
    """D: the prompt's KV lies on a P.

    Attributes:
        engine_id: P's, of this life; None where the protocol does not tell it.
        host, port: of P's side channel, TP rank 0 of `dp_rank`'s engine's DP rank 0; see
            `pd_testkit.reference.ports`.
        tp_size, dp_size, dp_rank: P's.
        transfer_id: what P holds it under.
        block_ids: P's, in prompt order; None where D came without knowing them, and P, which may
            not even have begun, writes into D's blocks.
        block_size: of P's blocks; None: as D's.
        tokens: of the prompt, that P has computed; None: as many as the blocks hold.
    """

    engine_id: str | None
    host: str
    port: int
    transfer_id: str | int
    tp_size: int = 1
    dp_size: int = 1
    dp_rank: int = 0
    block_ids: tuple[int, ...] | None = None
    block_size: int | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class Generation:
    """One answer to one prompt.

    Attributes:
        prompt: token ids.
        transfer: this engine's part in a hand-off; None: it does all of the request. What the
            protocols say of it on the wire is read by `pd_testkit.engine.wire`.
        dp_rank: of the engine's data-parallel ranks; None: the one with the fewest requests.
    """

    request_id: str
    prompt: tuple[int, ...]
    sampling: Sampling = Sampling()
    transfer: Hold | Load | None = None
    dp_rank: int | None = None


@dataclass(frozen=True)
class Course:
    """A request's way to its first token, by `time.monotonic`.

    Attributes:
        began: its first step was scheduled.
        load_began: it left the queue, and P was asked for its KV; None: no P was.
        load_ended: the KV was there, or the load had failed.
        load_s: of that, copying bytes.
        load_bytes: 0 where it failed.
    """

    began: float
    load_began: float | None = None
    load_ended: float | None = None
    load_s: float = 0.0
    load_bytes: int = 0


@dataclass(frozen=True)
class Token:
    """One token of an answer.

    Attributes:
        id: of the vocabulary.
        text: what it adds to the text; may be empty while a character or a stop string is
            incomplete, and then a later one has it.
        logprob: natural logarithm of its probability.
        top: likeliest tokens' ids and logprobs, best first, as many as were asked for.
        finish_reason: of the last one: ``stop``, ``length``, ``abort`` or ``error``.
        transfer: with the last one, the ``kv_transfer_params`` of the answer.
        cached_tokens: with the first one, tokens of the prompt that were not computed here.
        queued_s: with the first one, seconds from its arrival to its first step.
        course: with the first one.
    """

    id: int
    text: str
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()
    finish_reason: str | None = None
    transfer: Mapping[str, Any] | None = None
    cached_tokens: int = 0
    queued_s: float = 0.0
    course: Course | None = None


class TooLong(ValueError):
    """Prompt and answer do not fit into the model's context, or into the KV cache."""


class LoadFailed(RuntimeError):
    """The request's KV could not be had from P, and the engine does not compute it itself."""


class Core(Protocol):
    """What computes tokens, behind the HTTP server."""

    def generate(self, generation: Generation) -> AsyncIterator[Token]:
        """The answer's tokens as they come. Closing the iterator aborts the request.

        Raises:
            TooLong: with the first token asked for.
            ValueError: the hand-off makes no sense, or the request id is in use.
            LoadFailed: where failed loads are not computed again.
        """

    def release(self, load: Load) -> None:
        """Have P free what it holds: the request was refused before the core was asked."""

    def ranks(self) -> Sequence[Stats]:
        """Of each data-parallel rank, now."""

    def transfers(self) -> Sequence[Transferred]:
        """Loads that ended well since the last call, in the order of their ends."""

    @property
    def alive(self) -> bool:
        """It can serve: started, not closed, and its steps go on."""
