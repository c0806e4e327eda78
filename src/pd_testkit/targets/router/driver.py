"""A router behind a URL: one that the kit starts, and one that runs already."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from urllib.parse import urlsplit

from pd_testkit.contract import (
    Instance,
    NotApplicable,
    ProxyOptions,
    ProxyServer,
    Role,
    TargetError,
)
from pd_testkit.targets.neighbours import bases
from pd_testkit.targets.router.command import PORTS, Command
from pd_testkit.targets.router.process import RouterProcess, answers

_ATTEMPTS = 3
"""Another process may take a port between the look for it and the router's start."""


class StartedRouter(ProxyServer):
    """A process of its own, with these engines behind it; serves until `close`.

    Args:
        ready: accepts the status that the router gives to a ``GET`` of its readiness path.

    Raises:
        TargetError: it cannot be started, ends or does not become ready.
        NotApplicable: the command cannot say what the options do.
    """

    liveness_path = "/liveness"

    def __init__(
        self,
        command: Command,
        instances: Sequence[Instance],
        options: ProxyOptions,
        *,
        readiness_path: str,
        ready: Callable[[int], bool],
    ) -> None:
        self.readiness_path = readiness_path
        for attempt in range(1, _ATTEMPTS + 1):
            self.ports = _free_ports()
            self.url = f"http://127.0.0.1:{self.ports['port']}"
            self.process = RouterProcess(command.words(self.ports, instances, options))
            self.pid = self.process.pid
            try:
                self.process.wait(
                    f"answer GET {readiness_path}",
                    lambda: answers(self.ports["port"], readiness_path, accept=ready),
                )
                self.begin(instances)
                break
            except BaseException as error:
                with suppress(TargetError):
                    self.close()
                taken = not all(map(_is_free, self.ports.values()))
                if not (isinstance(error, TargetError) and taken and attempt < _ATTEMPTS):
                    raise

    def begin(self, instances: Sequence[Instance]) -> None:
        """It is up, and was told of these engines by its command."""

    def close(self) -> None:
        self.process.close()


class RunningRouter:
    """One that others have started, with engines at the ports that they gave it.

    Raises:
        NotApplicable: the engines are others, or an option is to be set.
        TargetError: nobody listens at the URL.
    """

    def __init__(
        self,
        url: str,
        ports: Mapping[Role, Sequence[int]],
        instances: Sequence[Instance],
        options: ProxyOptions,
    ) -> None:
        default = ProxyOptions()
        for field in fields(options):
            if getattr(options, field.name) != getattr(default, field.name):
                raise NotApplicable(f"{field.name} of a router that runs already cannot be set")
        for role, known in ports.items():
            count = sum(instance.role is role for instance in instances)
            if count != len(known):
                raise NotApplicable(f"the router has {len(known)} {role} engines, not {count}")
        self.url = url
        parts = urlsplit(url)
        address = str(parts.hostname), int(parts.port or 80)
        try:
            socket.create_connection(address, timeout=5).close()
        except OSError as error:
            raise TargetError(f"nobody listens at {url}: {error}") from None


def _free_ports() -> dict[str, int]:
    for base in bases(len(PORTS)):
        ports = {name: base + offset for offset, name in enumerate(PORTS)}
        if all(map(_is_free, ports.values())):
            return ports
    raise TargetError(f"there are no {len(PORTS)} free ports in a row")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
