"""From settings to a plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pd_testkit.stack import cpu_engines, docker, gpus, routers, vllm_engines
from pd_testkit.stack.machine import Machine
from pd_testkit.stack.plan import Plan, Process
from pd_testkit.stack.seats import RouterSeat, Seat, router_seat, seats
from pd_testkit.stack.settings import Settings


class CannotPlan(ValueError):
    """A deployment that cannot be, or not on this machine: one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def make_plan(settings: Settings, machine: Machine) -> Plan:
    """What to run. Nothing is run or changed here.

    Raises:
        CannotPlan: all that is wrong, at once.
    """
    problems = check(settings, machine)
    assigned: list[tuple[str, ...]] = []
    prefill, decode = settings.leg("prefill"), settings.leg("decode")
    if settings.engine == "vllm":
        names = machine.gpus()
        indices, wrong = gpus.assign(prefill, decode, len(names))
        assigned = [tuple(names[index] for index in group) for group in indices]
        problems += wrong
    if not machine.has_address(settings.host):
        problems.append(f"--host {settings.host} (SRV_IP): this machine has no such address")
        raise CannotPlan(problems)
    router = router_seat(settings, machine)
    engines = (
        *seats(settings, prefill, machine, assigned[: prefill.count]),
        *seats(settings, decode, machine, assigned[prefill.count :]),
    )
    plan = assemble(settings, engines, router, machine)
    problems += _port_problems(settings, plan, machine)
    if problems:
        raise CannotPlan(problems)
    return plan


def check(settings: Settings, machine: Machine) -> list[str]:
    """What is wrong wherever the engines run; one line each."""
    problems = routers.problems(settings, machine)
    if settings.engine == "cpu":
        problems += cpu_engines.problems(settings, machine)
    else:
        problems += vllm_engines.problems(settings, machine)
    if settings.runner == "docker":
        problems += docker.problems(settings, machine)
    return problems


def assemble(
    settings: Settings, engines: Sequence[Seat], router: RouterSeat, machine: Machine
) -> Plan:
    """The plan of engines that have their seats, on one machine or on several."""
    processes = [_engine(settings, seat, router, machine) for seat in engines]
    processes.append(routers.process(settings, engines, router, machine))
    return Plan(
        processes=tuple(processes),
        model=settings.model_name,
        url=router.url,
        steps=docker.steps(settings) if settings.runner == "docker" else (),
        client_secrets={"OPENAI_API_KEY": settings.api_key.get_secret_value()},
    )


def _engine(settings: Settings, seat: Seat, router: RouterSeat, machine: Machine) -> Process:
    leg = settings.leg(seat.role)
    if settings.engine == "cpu":
        return cpu_engines.process(settings, leg, seat, router, machine)
    process = vllm_engines.process(settings, leg, seat, router)
    return docker.contained(settings, seat, process) if settings.runner == "docker" else process


def _port_problems(settings: Settings, plan: Plan, machine: Machine) -> Iterator[str]:
    """Ports that two of the processes want, that are none, or that something else has."""
    owners: dict[int, str] = {}
    for process in plan.processes:
        for port in process.ports:
            if port > 65535:
                yield f"port {port} of {process.name}: ports end at 65535"
            elif port in owners:
                yield (
                    f"port {port}: {owners[port]} and {process.name} would both have it; move "
                    f"{_setting(process, port)}"
                )
            elif machine.busy(settings.host, port):
                yield (
                    f"port {port} of {process.name} is taken by another process; move "
                    f"{_setting(process, port)}"
                )
            owners.setdefault(port, process.name)


def _setting(process: Process, port: int) -> str:
    """That places the port, and its variable."""
    place = process.ports.index(port)
    names = {
        "prefill": ("--prefill-port (PREFILL_BASE_PORT)", "--prefill-side-port (PROD_ZMQ_PORT)"),
        "decode": ("--decode-port (DECODE_BASE_PORT)", "--decode-side-port (CONS_ZMQ_PORT)"),
        "router": ("--router-port (ROUTER_PORT)", "--discovery-port (PROXY_ZMQ_PORT)"),
    }[process.role]
    return names[min(place, 1)]
