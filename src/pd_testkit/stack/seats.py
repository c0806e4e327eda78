"""Where engines and the router run: addresses, ports and GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pd_testkit.stack.machine import Machine
from pd_testkit.stack.settings import Leg, Role, Settings


@dataclass(frozen=True)
class Seat:
    """Where one engine runs.

    Attributes:
        host: where it listens, and its peers find it.
        http_host: where the router and clients find it.
        side_port: the first of its connector's ports, of which there are `side_ports`.
        gpus: of its machine, as the variable names them that an engine sees them by.
    """

    role: Role
    index: int
    host: str
    http_host: str
    port: int
    side_port: int
    side_ports: int
    gpus: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.role}-{self.index}"

    @property
    def url(self) -> str:
        return url(self.http_host, self.port)

    @property
    def ports(self) -> tuple[int, ...]:
        """All that it binds."""
        return (self.port, *range(self.side_port, self.side_port + self.side_ports))


@dataclass(frozen=True)
class RouterSeat:
    """Where the router runs.

    Attributes:
        discovery_host: where engines register.
        metrics_port: of a router that has one for itself.
    """

    host: str
    port: int
    discovery_host: str
    discovery_port: int
    metrics_port: int

    @property
    def url(self) -> str:
        return url(self.host, self.port)


def url(host: str, port: int) -> str:
    """Of an HTTP server."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def side_ports(settings: Settings, leg: Leg) -> int:
    """How many an engine's connector binds, one after the other.

    As in vLLM 0.33: NIXL one per DP rank (``nixl/base_scheduler.py``); MoRIIO one per rank to shake
    hands and one to notify (``moriio_common.py:get_port_offset``); Mooncake P's bootstrap server's
    (``mooncake_connector.py:should_launch_bootstrap_server``). P2P NCCL, while vLLM had it, one per
    rank. Ours: `pd_testkit.reference.ports`.
    """
    ranks = leg.tp * leg.dp
    if settings.engine == "cpu":
        return ranks
    widths = {
        "nixl": leg.dp,
        "multi": leg.dp,
        "p2p_nccl": ranks,
        "moriio": 2 * ranks,
        "mooncake": int(leg.role == "prefill"),
    }
    return widths.get(settings.connector, 0)


def seats(
    settings: Settings, leg: Leg, machine: Machine, gpus: Sequence[tuple[str, ...]]
) -> tuple[Seat, ...]:
    """Of the engines of one leg, on one machine."""
    width = side_ports(settings, leg)
    found = []
    for index in range(leg.count):
        host = http_host = settings.host
        if settings.runner == "docker":
            host = container_host(settings, leg.role, index)
            # One that registers says where it is in the containers' network; and Mooncake's D is
            # sent to P's bootstrap server by the P's URL.
            inside = settings.registers or settings.connector == "mooncake"
            http_host = host if inside else settings.host
        port = leg.port + index if leg.port else machine.free_ports(http_host, 1)
        side = leg.side_port + index * width
        if not leg.side_port and width:
            side = machine.free_ports(settings.host, width)
        found.append(
            Seat(leg.role, index, host, http_host, port, side, width, gpus[index] if gpus else ())
        )
    return tuple(found)


def container_host(settings: Settings, role: Role, index: int) -> str:
    """Prefill engines from .10, decode engines from .110 on."""
    return f"{settings.docker_subnet}.{(10 if role == 'prefill' else 110) + index}"


def router_seat(settings: Settings, machine: Machine) -> RouterSeat:
    """On this machine, whatever runs the engines. Containers find it at their gateway."""
    docker = settings.runner == "docker"
    discovery_host = f"{settings.docker_subnet}.1" if docker else settings.host
    return RouterSeat(
        settings.host,
        settings.router_port or machine.free_ports(settings.host, 1),
        discovery_host,
        settings.discovery_port or machine.free_ports(settings.host, 1),
        settings.metrics_port or machine.free_ports(settings.host, 1),
    )
