"""Targets that are the reference and do not look like it: for what the pair clauses may ask.

Their bytes move over something that the suites cannot see, their geometry is not the default one,
and they cannot be had with any. One of them writes, and its side channel is no ZMQ to the suites.
The last one is on the suites' fabric, and does nothing but write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pd_testkit.contract import (
    Capabilities,
    HandOff,
    Load,
    NotApplicable,
    RequestId,
    Role,
    Target,
    Unit,
    WorkerReport,
    WorkerSpec,
)
from pd_testkit.fabric import Fabric, RealTimeDriver
from pd_testkit.targets.reference import ReferenceTarget
from pd_testkit.targets.reference_pair import PairDriver

BLOCK_SIZE = 32
READS = replace(ReferenceTarget.capabilities, fabric=False, write_mode=False, suffix_loads=True)
WRITES = replace(
    ReferenceTarget.capabilities, fabric=False, read_mode=False, zmq_side_channel=False
)


class PrivatePair(PairDriver):
    """Workers on a fabric of their own, on which time passes as it does."""

    def __init__(self, prefill: Sequence[WorkerSpec], decode: WorkerSpec, mode: str) -> None:
        fabric = Fabric()
        super().__init__(prefill, decode, mode, fabric)
        self._time = RealTimeDriver(fabric.clock).start()

    def close(self) -> None:
        super().close()
        self._time.close()


class SuffixPair(PrivatePair):
    """D has the start of a prompt for which it has fewer blocks than P."""

    def load(self, loads: Sequence[Load], *, dp_rank: int = 0, seconds: float = 10.0) -> None:
        super().load(
            [replace(load, source=self._rest(load)) for load in loads],
            dp_rank=dp_rank,
            seconds=seconds,
        )

    def _rest(self, load: Load) -> HandOff:
        blocks = load.source.block_ids
        if blocks is None or load.tokens is not None or not load.block_ids:
            return load.source
        return load.source.with_(block_ids=blocks[-len(load.block_ids) :])


class OwnTransport(Target):
    """The reference's workers, over what is their own."""

    units = (Unit.HANDSHAKE, Unit.PAIR)
    worker_spec = WorkerSpec(block_size=BLOCK_SIZE, num_blocks=24, head_dim=16)
    latent_spec = WorkerSpec(mla=True, kv_heads=1, head_dim=40, block_size=BLOCK_SIZE)
    least_patience_s = 0.2
    driver: type[PrivatePair] = PrivatePair

    def __init__(self, name: str, capabilities: Capabilities) -> None:
        self.name = name
        self.capabilities = capabilities

    def pair(
        self,
        prefill: Sequence[WorkerSpec],
        decode: WorkerSpec,
        *,
        mode: str = "read",
        fabric: Fabric | None = None,
    ) -> PrivatePair:
        assert fabric is None, "it takes none"
        for spec in (*prefill, decode):
            if spec.block_size % BLOCK_SIZE:
                raise NotApplicable(f"its block sizes are multiples of {BLOCK_SIZE}")
            if spec.version != "1":
                raise NotApplicable("there is one version of it")
        return self.driver(prefill, decode, mode)


class Reads(OwnTransport):
    driver = SuffixPair

    def __init__(self) -> None:
        super().__init__("reads", READS)


class Writes(OwnTransport):
    def __init__(self) -> None:
        super().__init__("writes", WRITES)


class IdlePair(PrivatePair):
    """Says that everything has come and gone, and moves nothing."""

    def __init__(self, prefill: Sequence[WorkerSpec], decode: WorkerSpec, mode: str) -> None:
        super().__init__(prefill, decode, mode)
        self._ended: dict[Role, set[RequestId]] = {role: set() for role in Role}

    def load(self, loads: Sequence[Load], *, dp_rank: int = 0, seconds: float = 10.0) -> None:
        for load in loads:
            self._ended[Role.CONSUMER].add(load.request_id)
            transfer_id = load.source.transfer_id
            assert transfer_id is not None
            self._ended[Role.PRODUCER].add(self._requests[transfer_id])

    def poll(self, role: Role, *, engine: int = 0) -> tuple[WorkerReport, ...]:
        ended, self._ended[role] = frozenset(self._ended[role]), set()
        sent = WorkerReport(sent=ended) if role is Role.PRODUCER else WorkerReport(received=ended)
        return tuple(sent for _ in super().poll(role, engine=engine))


class Idles(OwnTransport):
    driver = IdlePair

    def __init__(self) -> None:
        super().__init__("idles", READS)


class Pushes(ReferenceTarget):
    """Over the suites' fabric, and P writes: there is no reading."""

    name = "pushes"
    capabilities = replace(ReferenceTarget.capabilities, read_mode=False)
