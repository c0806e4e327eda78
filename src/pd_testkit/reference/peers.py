"""The peers of a worker: met once on a thread, told things, asked for digests."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pd_testkit.fabric import Status
from pd_testkit.reference.side_channel import Client, PeerSilent
from pd_testkit.reference.side_channel_messages import (
    Claim,
    Claimed,
    DigestQuery,
    Digests,
    Geometry,
    Handshake,
    Message,
    Refused,
)
from pd_testkit.reference.terms import USUAL, Terms
from pd_testkit.reference.transport import Transport

Address = tuple[str, int]
"""Host and port of a worker's side channel."""

_THREADS = 16
"""Silent peers that a worker can wait for at once."""
_CLAIMS = 128
"""Where each load waits for an answer of its own."""

_log = logging.getLogger(__name__)


class Peers:
    """Those that one worker has met. Nothing here blocks the caller, but for `close`.

    Args:
        ours: what peers are told of this worker's memory.
        patience_s: for which a peer may be silent.
        wake: called, on any thread, when an answer has come or will not come any more.
    """

    def __init__(
        self,
        engine: Transport,
        ours: Geometry,
        patience_s: float,
        wake: Callable[[], None],
        terms: Terms = USUAL,
    ) -> None:
        self._engine = engine
        self._ours = ours
        self._patience_s = patience_s
        self._wake = wake
        self._client = Client(converts=terms.converts, hasty=terms.claims)
        threads = _THREADS if not terms.claims else _CLAIMS
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"peers of {engine.name}")
        self._claims = terms.claims
        self._reached: set[Address] = set()
        self._met: dict[Address, tuple[str, Future[Handshake]]] = {}

    def meet(self, address: Address, engine_id: str | None) -> Future[Handshake]:
        """Who listens there, if it is that engine in that life; all who ask share one answer.
        Without an id it is whoever is there now.

        The future's exception is a `Refused`, a `PeerSilent` or another OSError.
        """
        known = self._met.get(address)
        if engine_id is None:
            return self._submit(self._shake_hands, address, None)
        if known is not None and known[0] == engine_id:
            return known[1]
        if known is not None:  # what its earlier life did not hear is not for this one
            self._client.forget(*address)
        meeting = self._submit(self._shake_hands, address, engine_id)
        self._met[address] = engine_id, meeting
        return meeting

    def met(self, address: Address) -> Handshake | None:
        """What the worker there has told of itself; None before."""
        known = self._met.get(address)
        if known is None or not known[1].done() or known[1].exception() is not None:
            return None
        return known[1].result()

    def forget(self, address: Address) -> None:
        """It failed, or came back as another: meet it anew the next time."""
        self._met.pop(address, None)

    def digests(self, address: Address, query: DigestQuery) -> Future[Digests]:
        """What the peer's KV is; exceptions as of `meet`."""
        return self._submit(self._client.digests, *address, query, self._patience_s)

    def claim(self, address: Address, claim: Claim) -> Future[Claimed]:
        """Have the peer keep its KV; exceptions as of `meet`."""
        return self._submit(self._client.claim, *address, claim, self._patience_s)

    def tell(self, address: Address, message: Message) -> None:
        """Say something once; a peer that is gone does not hear it, nor anyone what cannot be
        written, such as too large a number: the log has it.

        What is said to one that was never reached may have to wait for its host's name, and is
        said on a thread.
        """
        if self._claims and address not in self._reached:
            self._submit(self._tell, address, message)
        else:
            self._tell(address, message)

    def _tell(self, address: Address, message: Message) -> None:
        try:
            self._client.tell(*address, message)
        except (PeerSilent, OverflowError) as error:
            _log.warning("%s was not told: %s", address, error)

    def close(self) -> None:
        """Give all back; what is asked now ends unanswered. Harmless twice."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()
        self._pool.shutdown(wait=True)
        self._met.clear()

    def _shake_hands(self, address: Address, engine_id: str | None) -> Handshake:
        peer = self._client.meet(*address, self._ours, self._patience_s)
        self._reached.add(address)
        if peer.engine_id != engine_id and engine_id is not None:
            raise Refused("engine", engine_id, peer.engine_id)
        status = self._engine.connect(peer.engine)
        if status is not Status.SUCCESS:
            raise ConnectionError(f"{peer.engine!r} cannot be connected to: {status.name}")
        return peer

    def _submit(self, ask: Callable[..., Any], *args: Any) -> Future[Any]:
        future = self._pool.submit(ask, *args)
        future.add_done_callback(lambda _: self._wake())
        return future
