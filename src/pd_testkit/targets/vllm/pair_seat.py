"""A worker of a pair, as the test's process knows it. Nothing of vLLM is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pd_testkit.contract import HandOff, RequestId, Role, WorkerReport, WorkerSpec

Params = dict[str, Any]
"""vLLM's ``kv_transfer_params``."""


@dataclass(frozen=True)
class Seat:
    """Where a worker sits, and what it is to be.

    Attributes:
        variant: of the connector.
        model: folder of its ``config.json``.
        group: a file by which the TP ranks of the engine find each other.
        memory: paths of the shared memory of its caches, layer by layer.
        extra: this engine's own ``kv_connector_extra_config``.
        environment: variables that vLLM reads when the connector is made.
        fabric: address of the served one that the kit's stand-ins move bytes on; empty: none.
        device: where its caches are, as torch names it; empty: in the shared memory itself, which
            otherwise shows what the device holds after each step.
    """

    variant: str
    model: str
    role: Role
    spec: WorkerSpec
    engine_id: str
    tp_rank: int
    group: str
    memory: Sequence[str]
    extra: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    fabric: str = ""
    device: str = ""

    @property
    def on_gpu(self) -> bool:
        return self.device not in ("", "cpu")


@dataclass(frozen=True)
class Order:
    """A request that the engine's scheduler takes in: on P a prompt to prefill, on D one to load.

    Attributes:
        block_ids: of the prompt, or what of it is to be loaded, in prompt order.
        tokens: of the prompt.
        external_tokens: of those, what is to come from P.
    """

    request_id: RequestId
    block_ids: Sequence[int]
    tokens: int
    external_tokens: int
    params: Params


class Worker(Protocol):
    """One TP rank of an engine; rank 0 has the connector's scheduler half as well."""

    def addresses(self) -> list[int]:
        """Where its process maps each layer's memory."""

    def handshake(self) -> bytes:
        """What the worker half has its engine's scheduler half tell to peers; empty: nothing."""

    def listen(self, handshakes: Sequence[bytes]) -> None:
        """The scheduler half is told the handshakes of all TP ranks. Rank 0 only."""

    def step(self, orders: Sequence[Order], ended: WorkerReport) -> WorkerReport:
        """One step of the engine; all TP ranks are to be called at once.

        Args:
            orders: what the scheduler takes in. Rank 0 only.
            ended: what all ranks have reported by now. Rank 0 only.
        """

    def finish(self, request_id: RequestId) -> Params | None:
        """The request has ended by itself: the hand-off, if there is one. Rank 0 only."""

    def abort(self, request_id: RequestId) -> None:
        """The client of the request is gone. Rank 0 only."""

    def peer(self, source: HandOff) -> list[tuple[int, int]]:
        """Address and bytes of each layer's memory of the worker that this one reads from, as it
        knows it; nothing before they have met."""
