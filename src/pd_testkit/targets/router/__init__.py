"""A router of any make as a target: a real process, or a URL, in front of the suites' engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pd_testkit.contract import (
    Capabilities,
    Instance,
    NotApplicable,
    ProxyOptions,
    Role,
    Target,
    TargetError,
    Unit,
)
from pd_testkit.targets.choice import Choice
from pd_testkit.targets.router.command import Command
from pd_testkit.targets.router.driver import RunningRouter
from pd_testkit.targets.router.presets import PRESETS, Preset
from pd_testkit.targets.router.process import program

if TYPE_CHECKING:
    from pd_testkit.contract import drivers

__all__ = ["RunningTarget", "StartedTarget", "target"]

_UNITS = (Unit.FLOW, Unit.ROUTER)

_FORM = "URL,prefill=PORT,decode=PORT"


class StartedTarget(Target):
    """A router that is started anew for each driver."""

    units = _UNITS

    def __init__(self, preset: Preset) -> None:
        self._preset = preset
        self.name = preset.name
        self.capabilities = preset.capabilities
        self.known_failures = preset.known_failures

    def version(self) -> str:
        return self._preset.version()

    def proxy_server(
        self, instances: Sequence[Instance], options: ProxyOptions
    ) -> drivers.ProxyServer:
        preset = self._preset
        roles = {instance.role for instance in instances}
        if not self.capabilities.joining and len(roles) < len(Role):
            raise NotApplicable(f"{self.name} is told of its engines when it starts")
        try:
            return preset.driver(
                preset.command,
                instances,
                options,
                readiness_path=preset.readiness_path,
                ready=preset.ready,
            )
        except TargetError as error:
            # Started in this way only it fails: that is for the clause to judge.
            urls = {instance.url for instance in instances}
            if options != ProxyOptions() or len(urls) < len(instances):
                raise RuntimeError(str(error)) from None
            raise


class RunningTarget(Target):
    """A router that others have started, with engines at the ports that it was told."""

    units = _UNITS
    capabilities = Capabilities(read_mode=True)

    def __init__(self, url: str, ports: Mapping[Role, Sequence[int]]) -> None:
        self.name = f"router at {urlsplit(url).netloc}"
        self.engine_ports = ports
        self._url = url

    def version(self) -> str:
        return "as it runs"

    def proxy_server(
        self, instances: Sequence[Instance], options: ProxyOptions
    ) -> drivers.ProxyServer:
        # It lacks what belongs to capabilities that are not claimed.
        return RunningRouter(  # type: ignore[return-value]
            self._url, self.engine_ports, instances, options
        )


def target(choice: Choice) -> Target:
    """The target of ``--pd-target router``: that of ``--pd-router``.

    Raises:
        TargetError: none is given, or there is no such preset or program, or the command or the
            URL makes no sense.
    """
    choice.takes(router=True)
    given = (choice.router or "").strip()
    if not given:
        raise TargetError(
            f"which router? --pd-router {'|'.join(PRESETS)}, "
            f"'COMMAND --port {{port}} --prefill {{prefill}} --decode {{decode}}' or {_FORM}"
        )
    if given.startswith(("http://", "https://")):
        return _running(given)
    if given in PRESETS:
        program(PRESETS[given].command.program, "pip install 'pd-testkit[routers]'")
        return StartedTarget(PRESETS[given])
    preset = _command(given)
    program(preset.command.program)
    return StartedTarget(preset)


def _command(line: str) -> Preset:
    """A router of which nothing but its command is known.

    It is ready when ``/health`` is answered by anything but a 5xx, which many give at first.
    """
    if "{" not in line and not any(c.isspace() for c in line):
        raise TargetError(
            f"there is no preset {line!r}: choose of {', '.join(PRESETS)}, or give a command"
        )
    command = Command.parse(line)
    rooms = "bootstrap_port" in command.names
    return Preset(
        "router",
        command,
        Capabilities(
            read_mode=not rooms,
            bootstrap_rooms=rooms,
            process_id=True,
            retries=command.takes("retries"),
            circuit_breaker=command.takes("breaker_threshold")
            and command.takes("breaker_cool_down_s"),
            health_checks=command.takes("health_interval_s"),
        ),
        readiness_path="/health",
        ready=lambda status: status < 500,
    )


def _running(given: str) -> Target:
    """Of ``URL,prefill=PORT,decode=PORT``; each of the two once for each engine."""
    url, *details = given.split(",")
    ports: dict[Role, list[int]] = {Role.PRODUCER: [], Role.CONSUMER: []}
    roles = {"prefill": Role.PRODUCER, "decode": Role.CONSUMER}
    for detail in details:
        name, _, port = detail.partition("=")
        if name not in roles or not (port.isdecimal() and 0 < int(port) < 65536):
            raise TargetError(f"{detail!r} is no prefill=PORT or decode=PORT; give {_FORM}")
        ports[roles[name]].append(int(port))
    try:
        parts = urlsplit(url)
        known = parts.scheme == "http" and parts.hostname and parts.port
    except ValueError:
        known = False
    if not known or parts.path.strip("/"):
        raise TargetError(f"{url!r} is no http://HOST:PORT")
    for name, role in roles.items():
        if not ports[role]:
            raise TargetError(f"on which port does the router expect {name}? Give {_FORM}")
    return RunningTarget(url.rstrip("/"), ports)
