"""Engines on the nodes of a Ray cluster: placed, found, and ended with their nodes.

Each engine is the child of an actor in a bundle of a placement group. A process that an actor has
started would survive its node; here it is on a leash, whose end the actor's process holds.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.placement_group import placement_group, placement_group_table
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from pd_testkit.stack.leash import NOT_RUN
from pd_testkit.stack.machine import ThisMachine
from pd_testkit.stack.plan import Plan, Process
from pd_testkit.stack.planner import CannotPlan, assemble, check
from pd_testkit.stack.processes import Child, locally
from pd_testkit.stack.seats import RouterSeat, Seat, router_seat, seats
from pd_testkit.stack.settings import Leg, Settings
from pd_testkit.stack.supervisor import Launch, Running

_REACHED_S = 5.0
_PLACED_S = 120.0
"""For the cluster to make room for all engines."""


@dataclass(frozen=True)
class Place:
    """What a node says of itself.

    Attributes:
        python: its interpreter that has the kit.
        taken: ports of the seat that something else has.
    """

    seat: Seat
    python: str
    taken: tuple[int, ...]


class Host:
    """An actor: a place for one engine, then the engine."""

    async def place(self, settings: Settings, leg: Leg, index: int) -> Place:
        """Args: settings: their host is this node's address."""
        machine = ThisMachine()
        gpus = tuple(map(str, ray.get_gpu_ids()))  # of those that the node's environment shows
        seat = seats(settings, leg, machine, [gpus] * leg.count)[index]
        taken = tuple(port for port in seat.ports if machine.busy(seat.host, port))
        return Place(seat, sys.executable, taken)

    async def start(self, argv: Sequence[str], env: Mapping[str, str], log: str) -> None:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        self._child = Child(argv, env, Path(log))
        await asyncio.shield(self._child.pids)

    async def ended(self) -> int:
        return await asyncio.shield(self._child.ended)

    async def stop(self) -> int:
        return await self._child.stop()

    async def kill(self) -> None:
        self._child.kill()

    async def tail(self) -> list[str]:
        return await self._child.tail()


class Far:
    """An engine on another machine, as `processes.Child` is one on this."""

    def __init__(self, actor: Any, seat: Seat, process: Process, log: Path) -> None:
        self._actor = actor
        self._node = seat.host
        self.log = f"{seat.host}:{log}"
        self._why = ""
        self.pids: asyncio.Future[tuple[int, ...]] = asyncio.get_running_loop().create_future()
        self.ended = asyncio.create_task(self._follow(process, log))

    async def stop(self) -> int:
        if not self.ended.done():
            with suppress(RayError):  # the engine has just ended, or was not started
                await self._actor.stop.remote()
        return await asyncio.shield(self.ended)

    def kill(self) -> None:
        if not self.ended.done():
            self._actor.kill.remote()

    async def tail(self) -> list[str]:
        """Of its log; or why there is none, where that is known."""
        if self._why:
            return [f"{self._node}: {self._why}"]
        try:
            lines: list[str] = await self._actor.tail.remote()
        except RayError:
            return [f"its log is lost with its node, {self._node}"]
        return lines

    async def _follow(self, process: Process, log: Path) -> int:
        env = {**process.env, **process.secrets}
        try:
            await self._actor.start.remote(process.argv, env, str(log))
            self.pids.set_result(())
            status: int = await self._actor.ended.remote()
        except RayActorError:  # the actor has gone, and the engine with it
            return -signal.SIGKILL
        except RayError as problem:
            self._why = _reason(problem)
            return -signal.SIGKILL if self.pids.done() else NOT_RUN
        finally:
            if not self.pids.done():  # who waits for them is not to wait for ever
                self.pids.set_result(())
        return status


def _reason(problem: RayError) -> str:
    """In one line: an error of the actor's own comes with its traceback."""
    cause = problem.cause if isinstance(problem, RayTaskError) else problem
    return next(iter(str(cause).splitlines()), type(cause).__name__)


@contextmanager
def placed(settings: Settings, logs: Path) -> Iterator[tuple[Plan, Launch]]:
    """The plan of engines that have their nodes, and what starts them there.

    The router runs on this machine. At the end the cluster is left, and all actors end.

    Args:
        logs: the folder of the logs, by the same path on each node.

    Raises:
        CannotPlan: what is wrong, one line each.
    """
    machine = ThisMachine()
    if problems := check(settings, machine):
        raise CannotPlan(problems)
    with _joined(settings):
        actors, places = _hosts(settings)
        router = router_seat(settings, machine)
        if problems := _problems(settings, places, router):
            raise CannotPlan(problems)
        found = {place.seat.name: place for place in places}
        plan = assemble(settings, [place.seat for place in places], router, machine)

        def launch(process: Process) -> Running:
            place = found.get(process.name)
            if place is None:
                return locally(logs)(process)
            if process.argv[0] == machine.python:
                process = replace(process, argv=(place.python, *process.argv[1:]))
            return Far(actors[process.name], place.seat, process, logs / process.log)

        yield plan, launch


@contextmanager
def _joined(settings: Settings) -> Iterator[None]:
    # Which of its addresses this machine has in the cluster, Ray does not always guess.
    default = Settings.model_fields["host"].default
    here: dict[str, Any] = {} if settings.host == default else {"_node_ip_address": settings.host}
    address = settings.ray_address or "auto"
    try:
        _check_reachable(settings.ray_address)
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False, **here)
    except OSError as problem:
        raise CannotPlan([f"--ray-address {address} (RAY_ADDRESS): {problem}"]) from None
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself would try for minutes.

    Raises:
        OSError: nothing listens there.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), _REACHED_S).close()


def _hosts(settings: Settings) -> tuple[dict[str, Any], list[Place]]:
    """An actor for each engine by its name, and its place."""
    legs = [settings.leg(role) for role in ("prefill", "decode")]
    wanted = [(leg, index) for leg in legs for index in range(leg.count)]
    bundles = [_bundle(settings, leg) for leg, _ in wanted]
    group = placement_group(bundles, strategy="SPREAD")
    try:
        ray.get(group.ready(), timeout=_PLACED_S)
    except GetTimeoutError:
        cluster: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        has = {name: amount for name, amount in cluster.items() if ":" not in name}
        problem = f"no room in the Ray cluster for {bundles}: it has {has}"
        raise CannotPlan([problem]) from None
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in _nodes()}
    node_of = placement_group_table(group)["bundles_to_node_id"]
    actors, places = {}, []
    for index, ((leg, number), bundle) in enumerate(zip(wanted, bundles, strict=True)):
        actor = _actor(bundle, PlacementGroupSchedulingStrategy(group, index))
        there = settings.model_copy(update={"host": nodes[node_of[index]]})
        actors[f"{leg.role}-{number}"] = actor
        places.append(actor.place.remote(there, leg, number))
    try:
        found: list[Place] = ray.get(places, timeout=_PLACED_S)
    except GetTimeoutError:
        raise CannotPlan([f"no Ray actor within {_PLACED_S:g} s; see the cluster's logs"]) from None
    return actors, found


def _nodes() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return found


def _bundle(settings: Settings, leg: Leg) -> dict[str, float]:
    """What an engine needs, all of it on one node."""
    bundle: dict[str, float] = {"CPU": 1}
    if settings.engine == "vllm":
        bundle["GPU"] = leg.tp * leg.dp
    if settings.ray_resource:
        bundle[settings.ray_resource] = 1
    return bundle


def _actor(bundle: Mapping[str, float], strategy: PlacementGroupSchedulingStrategy) -> Any:
    """All of the bundle is its."""
    own = {name: amount for name, amount in bundle.items() if name not in ("CPU", "GPU")}
    return (
        ray.remote(Host)
        .options(
            num_cpus=bundle["CPU"],
            num_gpus=bundle.get("GPU", 0),
            resources=own,
            scheduling_strategy=strategy,
        )
        .remote()
    )


def _problems(settings: Settings, places: Sequence[Place], router: RouterSeat) -> list[str]:
    """What only the engines' nodes tell."""
    problems = [
        f"port {port} of {place.seat.name} is taken on {place.seat.host}"
        for place in places
        for port in place.taken
    ]
    nodes = sorted({place.seat.host for place in places})
    if len(nodes) > 1 and settings.engine == "cpu" and settings.transport == "shm":
        problems.append(
            f"--transport shm (PD_TRANSPORT): it ends at a machine, and the engines are on "
            f"{', '.join(nodes)}; give zmq"
        )
    far = [node for node in nodes if not ipaddress.ip_address(node).is_loopback]
    if settings.registers and far and ipaddress.ip_address(router.discovery_host).is_loopback:
        problems.append(
            f"--host {settings.host} (SRV_IP): engines on {', '.join(far)} cannot register there; "
            "give this machine's address in the cluster"
        )
    return problems
