"""The embedded reference implementation as a target: every clause holds for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_testkit.contract import Capabilities, Target, Unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pd_testkit.contract import EngineSpec, Instance, ProxyOptions, WorkerSpec, drivers
    from pd_testkit.fabric import Fabric
    from pd_testkit.targets.choice import Choice
    from pd_testkit.targets.reference_workers import Pool


class ReferenceTarget(Target):
    """`pd_testkit.reference`. Each unit is imported when its first driver is made."""

    name = "reference"
    units = tuple(Unit)
    capabilities = Capabilities(
        read_mode=True,
        write_mode=True,
        mla=True,
        tp=True,
        dp=True,
        tp_asymmetry=True,
        block_size_asymmetry=True,
        failure_reporting=True,
        expected_count=True,
        discard=True,
        reset=True,
        abort=True,
        preemption=True,
        prefix_cache=True,
        prefix_aware_match=True,
        chunked_prefill=True,
        transfer_ids=True,
        transfer_id_map=True,
        save=True,
        connector_holds_blocks=True,
        transfer_modes=True,
        unregister=True,
        joining=True,
        retries=True,
        circuit_breaker=True,
        health_checks=True,
        readiness=True,
        heartbeats=True,
        failure_count=True,
        process_id=True,
        registration_hello=True,
        registration_role=True,
        fabric=True,
        integrity=True,
        layouts=True,
        head_replication=True,
        worker_restart=True,
        choices=True,
        zmq_side_channel=True,
        async_loads=True,
        sync_loads=True,
        hand_off_blocks=True,
        load_failure_policy=True,
        failed_blocks=True,
    )

    def __init__(self) -> None:
        self._workers: Pool | None = None

    def close(self) -> None:
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def version(self) -> str:
        from pd_testkit import __version__

        return __version__

    def aggregator(self, *, world_size: int, expected: int | None = None) -> drivers.Aggregator:
        from pd_testkit.targets.reference_aggregator import AggregatorDriver

        return AggregatorDriver(world_size, expected)

    def metadata(self) -> drivers.Metadata:
        from pd_testkit.targets.reference_metadata import MetadataDriver

        return MetadataDriver()

    def scheduler_side(self, spec: EngineSpec) -> drivers.SchedulerSide:
        from pd_testkit.targets.reference_scheduler import SchedulerSideDriver

        return SchedulerSideDriver(spec)

    def engine_scheduler(self, spec: EngineSpec) -> drivers.EngineScheduler:
        from pd_testkit.targets.reference_scheduler import EngineSchedulerDriver

        return EngineSchedulerDriver(spec)

    def proxy(self) -> drivers.Proxy:
        from pd_testkit.targets.reference_proxy import ProxyDriver

        return ProxyDriver()

    def transfer(self) -> drivers.Transfer:
        from pd_testkit.targets.reference_transfer import TransferDriver

        return TransferDriver()

    def pair(
        self,
        prefill: Sequence[WorkerSpec],
        decode: WorkerSpec,
        *,
        mode: str = "read",
        fabric: Fabric | None = None,
    ) -> drivers.Pair:
        from pd_testkit.targets.reference_pair import PairDriver

        return PairDriver(prefill, decode, mode, fabric)

    def worker_group(self, size: int) -> drivers.WorkerGroup:
        from pd_testkit.targets.reference_workers import Pool, WorkerGroupDriver

        if self._workers is None:
            self._workers = Pool()
        return WorkerGroupDriver(self._workers, size)

    def discovery(self) -> drivers.Discovery:
        from pd_testkit.targets.reference_discovery import DiscoveryDriver

        return DiscoveryDriver()

    def server(self) -> drivers.Server:
        from pd_testkit.targets.reference_server import ServerDriver

        return ServerDriver()

    def proxy_server(
        self, instances: Sequence[Instance], options: ProxyOptions
    ) -> drivers.ProxyServer:
        from pd_testkit.targets.reference_flow import ProxyServerDriver

        return ProxyServerDriver(instances, options)

    def rooms(
        self, prefill: WorkerSpec, decode: WorkerSpec, *, fabric: Fabric | None = None
    ) -> drivers.Rooms:
        from pd_testkit.targets.reference_rooms import RoomsDriver

        return RoomsDriver(prefill, decode, fabric)


def target(choice: Choice) -> Target:
    """The target of ``--pd-target reference``.

    Raises:
        TargetError: a source tree was named; the reference has none.
    """
    choice.takes()
    return ReferenceTarget()
