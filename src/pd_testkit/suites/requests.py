"""The requests that the scheduler suites send, and the hand-off that they follow."""

from __future__ import annotations

from pd_testkit.contract import HandOff, Request

BLOCK_SIZE = 4

SOURCE = HandOff(
    engine_id="prefill-3",
    host="192.0.2.7",
    port=8107,
    handshake_port=17301,
    block_ids=(40, 17, 33),
    transfer_id=9001,
    tp_size=1,
    dp_size=1,
    dp_rank=0,
)
"""Three blocks of a prefill engine."""


def prompt(tokens: int, first: int = 100) -> tuple[int, ...]:
    """``tokens`` token ids; those with another ``first`` share no prefix."""
    return tuple(range(first, first + tokens))


def blocks_for(tokens: int) -> int:
    return -(-tokens // BLOCK_SIZE)


def source_of(tokens: int, transfer_id: int = 9001) -> HandOff:
    """A hand-off of a prompt of ``tokens`` tokens."""
    first = 1000 + 10 * (transfer_id - 9000)
    return SOURCE.with_(
        block_ids=tuple(range(first, first + blocks_for(tokens))), transfer_id=transfer_id
    )


def remote(
    request_id: str = "d-1",
    tokens: int = 3 * BLOCK_SIZE,
    source: HandOff = SOURCE,
    *,
    first: int = 100,
    max_tokens: int = 3,
) -> Request:
    """A request on D whose prompt was prefilled elsewhere."""
    return Request(request_id, prompt(tokens, first), max_tokens, source)


def for_decode(
    request_id: str = "p-1", tokens: int = 3 * BLOCK_SIZE, *, first: int = 100
) -> Request:
    """A request on P that a decode engine waits for."""
    return Request(request_id, prompt(tokens, first), max_tokens=1, remote_decode=True)


def local(
    request_id: str = "l-1", tokens: int = 3 * BLOCK_SIZE, *, first: int = 100, max_tokens: int = 3
) -> Request:
    """A request that has nothing to do with another engine."""
    return Request(request_id, prompt(tokens, first), max_tokens)
