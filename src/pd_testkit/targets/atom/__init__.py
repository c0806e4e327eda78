"""ROCm's ATOM as a target: its own classes, unpatched, from a checkout, on a plain CPU."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from pd_testkit.contract import EngineSpec, Instance, ProxyOptions, Target, Unit, WorkerSpec
from pd_testkit.targets.atom import checkout
from pd_testkit.targets.atom.aggregator import AggregatorDriver
from pd_testkit.targets.atom.discovery import DiscoveryDriver
from pd_testkit.targets.atom.engine import EngineSchedulerDriver
from pd_testkit.targets.atom.flow import ProxyServerDriver
from pd_testkit.targets.atom.known_failures import failures_of
from pd_testkit.targets.atom.metadata import MetadataDriver
from pd_testkit.targets.atom.pair import PairDriver
from pd_testkit.targets.atom.proxy import Networks, ProxyDriver
from pd_testkit.targets.atom.scheduler import SchedulerSideDriver
from pd_testkit.targets.atom.server import ServerDriver
from pd_testkit.targets.atom.transfer import TransferDriver
from pd_testkit.targets.atom.versions import DISAGGREGATION, detect
from pd_testkit.targets.atom.workers import Pool, WorkerGroupDriver
from pd_testkit.targets.choice import Choice

if TYPE_CHECKING:
    from pd_testkit.contract import drivers
    from pd_testkit.fabric import Fabric

__all__ = ["AtomTarget", "target"]


class AtomTarget(Target):
    """One ATOM tree. Its drivers are made while it is open: they speak to what is imported."""

    name = "atom"

    def __init__(self, package: Path) -> None:
        self._package = package
        self._version = detect(package)
        self._open = ExitStack()
        self._networks = Networks()
        self._workers = Pool()
        self.units = self._version.units
        self.capabilities = self._version.capabilities
        self.known_failures = failures_of(self._version)

    def version(self) -> str:
        commit = checkout.commit(self._package)
        return f"{commit or 'unknown commit'} ({self._version.shape})"

    def open(self) -> None:
        """Import ATOM under the stubs.

        Raises:
            TargetError: the import fails.
        """
        modules = [
            DISAGGREGATION,
            self._version.connector,
            self._version.roles,
            "atom.model_engine.scheduler",
            "atom.utils.forward_context",
        ]
        if Unit.PROXY in self.units:
            modules.append(f"{DISAGGREGATION}.proxy")
        if self.capabilities.abort:
            modules.append("atom.model_engine.engine_utility")
        self._stubs = self._open.enter_context(
            checkout.imported(self._package, self._version.stubs, tuple(modules))
        )

    def close(self) -> None:
        self._workers.close()
        self._open.close()

    def aggregator(self, *, world_size: int, expected: int | None = None) -> drivers.Aggregator:
        return AggregatorDriver(world_size, expected)

    def metadata(self) -> drivers.Metadata:
        return MetadataDriver(self._version)

    def scheduler_side(self, spec: EngineSpec) -> drivers.SchedulerSide:
        return SchedulerSideDriver(self._version, spec)

    def engine_scheduler(self, spec: EngineSpec) -> drivers.EngineScheduler:
        return EngineSchedulerDriver(self._version, spec)

    def proxy(self) -> drivers.Proxy:
        return ProxyDriver(self._networks)

    def transfer(self) -> drivers.Transfer:
        return TransferDriver(self._version)

    def worker_group(self, size: int) -> drivers.WorkerGroup:
        return WorkerGroupDriver(self._workers, size)

    def discovery(self) -> drivers.Discovery:
        return DiscoveryDriver()

    def pair(
        self,
        prefill: Sequence[WorkerSpec],
        decode: WorkerSpec,
        *,
        mode: str = "read",
        fabric: Fabric | None = None,
    ) -> drivers.Pair:
        return PairDriver(self._version, self._stubs, prefill, decode, mode, fabric)

    def server(self) -> drivers.Server:
        return ServerDriver()

    def proxy_server(
        self, instances: Sequence[Instance], options: ProxyOptions
    ) -> drivers.ProxyServer:
        # It has no options.
        return ProxyServerDriver(instances)


def target(choice: Choice) -> Target:
    """The target of ``--pd-target atom``: that of ``--pd-source``, an ATOM checkout, or the
    ``atom`` that is importable.

    Raises:
        TargetError: there is no ATOM, or a package that it needs is missing.
    """
    choice.takes(source=True)
    atom = AtomTarget(checkout.find(choice.source))
    checkout.check_packages()
    return atom
