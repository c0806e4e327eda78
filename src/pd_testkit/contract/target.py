"""A target: an implementation under test, with a factory for each unit that it has."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from pd_testkit.contract import drivers
from pd_testkit.contract.capabilities import Capabilities
from pd_testkit.contract.clause import Unit
from pd_testkit.contract.domain import EngineSpec, Instance, ProxyOptions, Role, WorkerSpec

if TYPE_CHECKING:
    from pd_testkit.fabric import Fabric


class TargetError(Exception):
    """The target cannot be used as it stands; the message is one line that names what to do."""


class NotApplicable(Exception):
    """The target cannot be had as this clause needs it; the message is one line that says why.

    Raised by a factory, or by a pair's `load`, for what no capability tells ahead: a proxy that is
    started by others has as many engines as they gave it, a transport has block sizes of its own.
    The clause is then not applicable.
    """


@dataclass(frozen=True)
class KnownFailure:
    """A clause that the target is known to break. Strict: the clause must then really fail."""

    clause: str
    reason: str
    link: str = ""


class Target:
    """Subclass this in the repository under test.

    Set `name`, `units` and `capabilities`, and define the factory of each unit named. `open` is
    called once before the first clause and `close` after the last; what `open` takes (stubs in
    ``sys.modules``, paths, threads) `close` gives back. Each factory call gives a fresh driver;
    a driver that holds something has a ``close()`` that the suites call after each clause.
    """

    name: str = ""
    """In the header, the table and the report."""
    units: tuple[Unit, ...] = ()
    """What it has; the clauses of all others are not applicable."""
    capabilities: Capabilities = Capabilities()
    """What it means to support; clauses that need more are not applicable."""
    known_failures: tuple[KnownFailure, ...] = ()
    """What it is known to break: checked all the same, and an error once it is kept."""
    engine_ports: Mapping[Role, Sequence[int]] = MappingProxyType({})
    """Where the suites' engines have to listen: for a proxy that others started and told so. Each
    role that is not in it may listen anywhere."""
    worker_spec: WorkerSpec = WorkerSpec()
    """The workers of a `pair`, for clauses that do not care: those that do change a field or two.
    At least as many blocks, layers and KV heads as here, on the default host."""
    latent_spec: WorkerSpec = WorkerSpec(mla=True, kv_heads=1, head_dim=24)
    """The same for clauses on latent caches. Capability ``mla``."""
    least_patience_s: float = 0.0
    """The shortest ``patience_s`` that its workers can be given; clauses wait that much longer."""
    reaction_s: float = 0.0
    """Real seconds within which what its workers do by themselves, between two calls, shows in what
    a `pair` reports: clauses on what must not be reported look on for so long. 0: they do nothing
    by themselves."""

    def version(self) -> str:
        """A release or a commit, for the header and the report."""
        return "unknown"

    def open(self) -> None:
        """Make the implementation importable."""

    def close(self) -> None:
        """Give back all that `open` took."""

    def aggregator(self, *, world_size: int, expected: int | None = None) -> drivers.Aggregator:
        """For ``world_size`` workers; ``expected`` with the capability ``expected_count``.

        Must raise ValueError for sizes that make no sense.
        """
        raise self._lacks("aggregator")

    def metadata(self) -> drivers.Metadata:
        raise self._lacks("metadata")

    def scheduler_side(self, spec: EngineSpec) -> drivers.SchedulerSide:
        raise self._lacks("scheduler_side")

    def engine_scheduler(self, spec: EngineSpec) -> drivers.EngineScheduler:
        raise self._lacks("engine_scheduler")

    def proxy(self) -> drivers.Proxy:
        raise self._lacks("proxy")

    def transfer(self) -> drivers.Transfer:
        raise self._lacks("transfer")

    def pair(
        self,
        prefill: Sequence[WorkerSpec],
        decode: WorkerSpec,
        *,
        mode: str = "read",
        fabric: Fabric | None = None,
    ) -> drivers.Pair:
        """The workers of these P engines and of one D engine, up and listening.

        Args:
            mode: ``read`` (D pulls) or ``write`` (P pushes); one that the target claims.
            fabric: where the bytes move; None without the capability ``fabric``.

        Must raise ValueError for a spec that makes no sense, and NotApplicable for one that the
        target cannot be had with: a geometry, a ``model``, a ``version``, a ``host``.
        """
        raise self._lacks("pair")

    def worker_group(self, size: int) -> drivers.WorkerGroup:
        raise self._lacks("worker_group")

    def discovery(self) -> drivers.Discovery:
        raise self._lacks("discovery")

    def server(self) -> drivers.Server:
        raise self._lacks("server")

    def proxy_server(
        self, instances: Sequence[Instance], options: ProxyOptions
    ) -> drivers.ProxyServer:
        """A proxy that serves, with these instances behind it.

        May raise NotApplicable for other instances or options than it can be had with.
        """
        raise self._lacks("proxy_server")

    def rooms(
        self, prefill: WorkerSpec, decode: WorkerSpec, *, fabric: Fabric | None = None
    ) -> drivers.Rooms:
        """A sending and a receiving engine, up and listening.

        A room's patience on either side is that side's ``patience_s``.

        Args:
            fabric: where the bytes move; None without the capability ``fabric``.

        Must raise ValueError for a spec that the target cannot be built for.
        """
        raise self._lacks("rooms")

    def _lacks(self, factory: str) -> TargetError:
        return TargetError(
            f"target {self.name!r} has no driver {factory!r}: "
            f"define {type(self).__name__}.{factory}(), or leave its unit out of `units`"
        )


FACTORIES: dict[Unit, tuple[str, type]] = {
    Unit.AGGREGATOR: ("aggregator", drivers.Aggregator),
    Unit.METADATA: ("metadata", drivers.Metadata),
    Unit.SCHEDULER: ("scheduler_side", drivers.SchedulerSide),
    Unit.ENGINE: ("engine_scheduler", drivers.EngineScheduler),
    Unit.PROXY: ("proxy", drivers.Proxy),
    Unit.TRANSFER: ("transfer", drivers.Transfer),
    Unit.HANDSHAKE: ("pair", drivers.Pair),
    Unit.PAIR: ("pair", drivers.Pair),
    Unit.WORKERS: ("worker_group", drivers.WorkerGroup),
    Unit.DISCOVERY: ("discovery", drivers.Discovery),
    Unit.SERVER: ("server", drivers.Server),
    Unit.FLOW: ("proxy_server", drivers.ProxyServer),
    Unit.POLLING: ("rooms", drivers.Rooms),
    Unit.ROUTER: ("proxy_server", drivers.ProxyServer),
}
"""Each unit's factory on `Target` and the Protocol of the driver that it gives."""


def check_target(target: Any) -> Target:
    """The target itself, if it is usable.

    Raises:
        TargetError: it is no `Target`, has no name, names a unit that there is none of or lacks
            the factory of a unit that it names, or lists a known failure of a clause that there is
            none of; or one of these is not of its type.
    """
    if not isinstance(target, Target):
        raise TargetError(
            f"{target!r} is no target: subclass pd_testkit.contract.Target and give an instance"
        )
    if not target.name:
        raise TargetError(f"{type(target).__name__} has no `name`")
    if isinstance(cast(object, target.units), str):
        raise TargetError(
            f"target {target.name!r}: `units` is {str(target.units)!r}, which is no tuple: "
            "a comma makes one, as in (Unit.AGGREGATOR,)"
        )
    if not target.units:
        raise TargetError(f"target {target.name!r} names no `units`: choose of {_units()}")
    if not isinstance(target.capabilities, Capabilities):
        raise TargetError(
            f"target {target.name!r}: `capabilities` is no Capabilities: "
            "give Capabilities(read_mode=True), with what it claims"
        )
    for unit in target.units:
        if unit not in FACTORIES:
            raise TargetError(f"target {target.name!r} names unit {unit!r}: choose of {_units()}")
        factory = FACTORIES[Unit(unit)][0]
        if getattr(type(target), factory) is getattr(Target, factory):
            raise target._lacks(factory)
        _check_signature(target, factory)
    from pd_testkit.contract.clauses import CLAUSES, unknown_clause

    for known in _tuple_of_known(target):
        if known.clause not in CLAUSES:
            raise TargetError(
                f"target {target.name!r}, known_failures: {unknown_clause(known.clause)}"
            )
    return target


def _check_signature(target: Target, factory: str) -> None:
    """Whether the suites can call it: with what has no default on `Target`, as it is there."""
    asked = inspect.signature(getattr(Target, factory))
    needed = [p for p in asked.parameters.values() if p.default is p.empty and p.name != "self"]
    try:
        inspect.signature(getattr(target, factory)).bind(
            *(p.name for p in needed if p.kind is not p.KEYWORD_ONLY),
            **{p.name: p.name for p in needed if p.kind is p.KEYWORD_ONLY},
        )
    except TypeError as wrong:
        bare = [p.replace(annotation=p.empty) for p in asked.parameters.values()]
        raise TargetError(
            f"target {target.name!r}: {factory}() cannot be called as the suites do: {wrong}; "
            f"define {factory}{inspect.Signature(bare)}"
        ) from None


def _tuple_of_known(target: Target) -> tuple[KnownFailure, ...]:
    known = target.known_failures
    if not isinstance(known, (tuple, list)) or not all(isinstance(k, KnownFailure) for k in known):
        raise TargetError(
            f"target {target.name!r}: `known_failures` is no tuple of KnownFailure: "
            'give (KnownFailure("AGG-001", "why"),)'
        )
    return tuple(known)


def make_driver(target: Target, unit: Unit, *args: Any, **kwargs: Any) -> Any:
    """A fresh driver of the unit.

    Raises:
        TargetError: the driver lacks a member of its Protocol that its capabilities ask for.
    """
    factory, protocol = FACTORIES[unit]
    driver = cast(Callable[..., Any], getattr(target, factory))(*args, **kwargs)
    lacking = [
        name
        for name in (*vars(protocol), *inspect.get_annotations(protocol))
        if not name.startswith("_")
        and not _provides(driver, protocol, name)
        and not target.capabilities.missing(
            drivers.OPTIONAL.get(f"{protocol.__name__}.{name}", frozenset())
        )
    ]
    if lacking:
        raise TargetError(
            f"target {target.name!r}: the driver from {factory}() lacks "
            f"{', '.join(sorted(set(lacking)))} (see pd_testkit.contract.{protocol.__name__})"
        )
    return driver


def _provides(driver: Any, protocol: type, name: str) -> bool:
    """Whether the driver has the member itself, not only by inheriting the Protocol's."""
    inherited = vars(protocol).get(name)
    return hasattr(driver, name) and (
        inherited is None
        or name in vars(driver)
        or getattr(type(driver), name, None) is not inherited
    )


def _units() -> str:
    return ", ".join(str(unit) for unit in Unit)
