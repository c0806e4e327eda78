"""The command lines of routers."""

from __future__ import annotations

from collections.abc import Sequence

from pd_testkit.stack.machine import Machine
from pd_testkit.stack.plan import Probe, Process, Readiness
from pd_testkit.stack.seats import RouterSeat, Seat
from pd_testkit.stack.settings import Settings

CONNECTORS = {
    "pd-testkit": ("nixl", "p2p_nccl", "moriio", "lmcache", "offloading", "multi"),
    "vllm-router": (
        "nixl",
        "p2p_nccl",
        "moriio",
        "mooncake",
        "lmcache",
        "offloading",
        "multi",
    ),
    "sglang-router": (),
}
"""Of vllm engines, that each router can hand KV over for. vllm-router as of 0.1.17."""


def process(
    settings: Settings, seats: Sequence[Seat], router: RouterSeat, machine: Machine
) -> Process:
    """The router in front of these engines."""
    build = {"pd-testkit": _ours, "vllm-router": _vllm, "sglang-router": _sglang}[settings.router]
    argv, probes = build(settings, seats, router, machine)
    secrets = {}
    if settings.router == "vllm-router":  # it sends a key of its own to the engines
        secrets = {"OPENAI_API_KEY": settings.api_key.get_secret_value()}
    ports = [router.port]
    if settings.registers:
        ports.append(router.discovery_port)
    if settings.router != "pd-testkit":
        ports.append(router.metrics_port)
    return Process(
        name="router",
        role="router",
        argv=(*argv, *settings.router_args),
        url=router.url,
        ready=Readiness(tuple(probes), settings.router_wait),
        secrets=secrets,
        ports=tuple(ports),
        depends=tuple(seat.name for seat in seats),
    )


def problems(settings: Settings, machine: Machine) -> list[str]:
    """What the router cannot do, or not on this machine."""
    found = []
    name = settings.router
    known = CONNECTORS[name] if settings.engine == "vllm" else ("nixl", "p2p_nccl", "moriio")
    if name == "sglang-router" and settings.engine == "cpu":
        known = ("nixl",)
    if settings.connector not in known:
        can = f"can do {', '.join(known)}" if known else "needs --engine cpu"
        found.append(
            f"--router {name} with --connector {settings.connector}: of {settings.engine} engines "
            f"it {can}"
        )
    if (
        name == "vllm-router"
        and not settings.registers
        and settings.prefill_dp != settings.decode_dp
    ):
        found.append(
            f"--prefill-dp {settings.prefill_dp} with --decode-dp {settings.decode_dp}: "
            "vllm-router has one number for both"
        )
    if name != "pd-testkit" and not machine.has_program(name):
        found.append(f"there is no program {name} on the path: pip install {name}")
    return found


def _ours(
    settings: Settings, seats: Sequence[Seat], router: RouterSeat, machine: Machine
) -> tuple[list[str], list[Probe]]:
    argv = [machine.python, "-m", "pd_testkit", "proxy"]
    argv += ["--host", router.host, "--port", str(router.port)]
    if settings.registers:
        argv += ["--discovery", f"tcp://{router.discovery_host}:{router.discovery_port}"]
        argv += ["--protocol", settings.connector]
    else:
        for seat in seats:
            argv += [f"--{seat.role}", seat.url + _details(settings, seat)]
    return argv, [
        Probe(f"{router.url}/health"),
        Probe(f"{router.url}/instances", "instances[].url", _urls(seats)),
        Probe(f"{router.url}/v1/models", "data[].id", (settings.model_name,)),
    ]


def _details(settings: Settings, seat: Seat) -> str:
    details = ""
    if settings.connector in ("lmcache", "offloading"):
        # P, then D, and nothing is handed over: as for P2P-NCCL, but that nobody reads the address.
        details = f",protocol=p2p_nccl,zmq={seat.http_host}:{seat.port}"
    dp = settings.leg(seat.role).dp
    return f"{details},dp={dp}" if dp > 1 else details


def _vllm(
    settings: Settings, seats: Sequence[Seat], router: RouterSeat, machine: Machine
) -> tuple[list[str], list[Probe]]:
    argv = ["vllm-router", "--vllm-pd-disaggregation", *_common(router)]
    if settings.connector in ("mooncake", "moriio"):
        argv += ["--kv-connector", settings.connector]
    if settings.registers:
        address = f"{router.discovery_host}:{router.discovery_port}"
        argv += ["--vllm-discovery-address", address]
        # It lists engines that registered nowhere; it is well as soon as it has one of each role.
        return argv, [Probe(f"{router.url}/health")]
    dp = settings.prefill_dp
    if dp > 1:
        argv += ["--intra-node-data-parallel-size", str(dp)]
    for seat in seats:
        argv += [f"--{seat.role}", seat.url]
        if settings.connector == "mooncake" and seat.role == "prefill":
            argv += [str(seat.side_port)]
    argv += _START
    urls = _urls(seats)
    workers = urls if dp == 1 else tuple(f"{url}@{rank}" for url in urls for rank in range(dp))
    return argv, [
        Probe(f"{router.url}/readiness"),
        Probe(f"{router.url}/workers", "workers[].url", workers),
        Probe(f"{router.url}/v1/models", "data[].id", (settings.model_name,)),
    ]


def _sglang(
    settings: Settings, seats: Sequence[Seat], router: RouterSeat, machine: Machine
) -> tuple[list[str], list[Probe]]:
    argv = ["sglang-router", "launch", "--pd-disaggregation", *_common(router)]
    for seat in seats:
        argv += [f"--{seat.role}", seat.url]
        if seat.role == "prefill":
            argv += [str(seat.side_port)]
    argv += _START
    return argv, [
        Probe(f"{router.url}/readiness"),
        Probe(f"{router.url}/workers", "workers[].url", _urls(seats)),
    ]


_START = ["--worker-startup-check-interval", "1"]


def _common(router: RouterSeat) -> list[str]:
    """Both routers have these: one began as a fork of the other. Their default policy asks every
    engine twice before each request."""
    argv = ["--host", router.host, "--port", str(router.port)]
    argv += ["--prometheus-host", router.host, "--prometheus-port", str(router.metrics_port)]
    return [*argv, "--policy", "round_robin"]


def _urls(seats: Sequence[Seat]) -> tuple[str, ...]:
    return tuple(seat.url for seat in seats)
