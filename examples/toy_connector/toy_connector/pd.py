"""The connector as a target of pd-testkit: all that the kit asks of a repository.

Not imported by the connector itself. A driver subclasses its Protocol, and leaves out the
members of capabilities that the target does not claim.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pd_testkit.contract import (
    Aggregator,
    Capabilities,
    EngineSpec,
    Finish,
    HandOff,
    Match,
    Metadata,
    Request,
    RequestId,
    SchedulerSide,
    StepMetadata,
    Target,
    TransferMeta,
    Unit,
    WorkerReport,
)
from pd_testkit.targets.arguments import spoil
from toy_connector.plan import TICKET, Plan
from toy_connector.scheduler import Engine, Scheduler
from toy_connector.tally import Tally


class AggregatorDriver(Aggregator):
    def __init__(self, world_size: int) -> None:
        self._tally = Tally(world_size)

    def step(self, reports: Sequence[WorkerReport]) -> WorkerReport:
        done: dict[str, list[RequestId]] = {"sent": [], "received": []}
        for worker, report in enumerate(reports):
            for kind in done:
                for request in getattr(report, kind):
                    if self._tally.hear(worker, kind, request):
                        done[kind].append(request)
        return WorkerReport.of(**done)

    def pending(self) -> int:
        return len(self._tally)


class MetadataDriver(Metadata):
    required_params = TICKET

    def __init__(self) -> None:
        self._plan = Plan()
        self._queued: dict[RequestId, tuple[Sequence[int], Mapping[str, Any]]] = {}

    def params(self, hand_off: HandOff) -> dict[str, Any]:
        return ticket_of(hand_off)

    def add_receive(
        self, request_id: RequestId, block_ids: Sequence[int], params: Mapping[str, Any]
    ) -> None:
        self._plan.add(request_id, block_ids, params)
        self._queued[request_id] = block_ids, params

    def spoil(self, request_id: RequestId) -> dict[str, Any]:
        return spoil(*self._queued[request_id])

    def snapshot(self) -> StepMetadata:
        return told(self._plan)


class SchedulerDriver(SchedulerSide):
    def __init__(self, spec: EngineSpec) -> None:
        self._scheduler = Scheduler(
            Engine("toy", "192.0.2.1", 8000, spec.handshake_port, spec.block_size)
        )
        self._requests: dict[RequestId, Request] = {}

    def add(self, request: Request) -> None:
        self._requests[request.request_id] = request

    def match(self, request_id: RequestId, computed_tokens: int = 0) -> Match:
        request = self._requests[request_id]
        tokens = self._scheduler.remote_tokens(
            request_id, len(request.prompt), self._ticket(request)
        )
        return Match(tokens, asynchronous=tokens > 0)

    def allocated(
        self, request_id: RequestId, block_ids: Sequence[int], external_tokens: int
    ) -> None:
        ticket = self._ticket(self._requests[request_id])
        self._scheduler.assigned(request_id, block_ids, ticket)

    def build_metadata(self) -> StepMetadata:
        return told(self._scheduler.take_plan())

    def finished(
        self, request_id: RequestId, block_ids: Sequence[int], output: Sequence[int] = (0,)
    ) -> Finish:
        request = self._requests.pop(request_id)
        self._scheduler.ended(request_id)
        if not request.remote_decode:
            return Finish()
        ticket = self._scheduler.ticket(len(request.prompt), block_ids)
        return Finish(
            HandOff(
                engine_id=ticket["engine"],
                host=ticket["host"],
                port=ticket["http_port"],
                handshake_port=ticket["channel_port"],
                block_ids=tuple(ticket["blocks"]),
            )
        )

    def _ticket(self, request: Request) -> dict[str, Any] | None:
        return None if request.source is None else ticket_of(request.source)


def ticket_of(hand_off: HandOff) -> dict[str, Any]:
    """The kit's hand-off as the ticket that D gets."""
    ticket = {
        "engine": hand_off.engine_id,
        "host": hand_off.host,
        "http_port": hand_off.port,
        "channel_port": hand_off.handshake_port,
        "blocks": None if hand_off.block_ids is None else list(hand_off.block_ids),
    }
    return {name: value for name, value in ticket.items() if value is not None}


def told(plan: Plan) -> StepMetadata:
    """The plan in the kit's words."""
    return StepMetadata(
        receive={
            request: TransferMeta(
                local_block_ids=load.into,
                remote_block_ids=load.blocks,
                remote_host=load.host,
                remote_port=load.http_port,
                remote_handshake_port=load.channel_port,
                remote_engine_id=load.engine,
            )
            for request, load in plan.loads.items()
        }
    )


class ToyTarget(Target):
    name = "toy"
    units = (Unit.AGGREGATOR, Unit.METADATA, Unit.SCHEDULER)
    capabilities = Capabilities(read_mode=True)

    def version(self) -> str:
        return "0.1.0"

    def aggregator(self, *, world_size: int, expected: int | None = None) -> AggregatorDriver:
        return AggregatorDriver(world_size)

    def metadata(self) -> MetadataDriver:
        return MetadataDriver()

    def scheduler_side(self, spec: EngineSpec) -> SchedulerDriver:
        return SchedulerDriver(spec)


target = ToyTarget()
