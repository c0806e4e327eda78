"""Plans of scripted servers, and what is left of them."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pd_testkit.stack.plan import Plan, Probe, Process, Readiness, Role

SCRIPT = str(Path(__file__).with_name("scripted_server.py"))
SECONDS = 30.0
"""For what happens soon, however busy the machine is."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def server(
    name: str,
    role: Role,
    *words: str,
    depends: tuple[str, ...] = (),
    deadline_s: float = SECONDS,
    clean_up: tuple[tuple[str, ...], ...] = (),
) -> Process:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    return Process(
        name=name,
        role=role,
        argv=(sys.executable, "-I", "-S", SCRIPT, str(port), *words),
        url=url,
        ready=Readiness((Probe(f"{url}/health"),), deadline_s),
        env={"SCRIPTED_AS": name},
        ports=(port,),
        depends=depends,
        clean_up=clean_up,
    )


def plan(*processes: Process) -> Plan:
    return Plan(processes=processes, model="tiny", url=processes[-1].url)


def alive(pid: int) -> bool:
    """Not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def within(what: Callable[[], bool], seconds: float = SECONDS) -> bool:
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def printed_child(log: Path) -> int:
    """The pid that a server with ``parent`` has printed."""
    (line,) = (line for line in log.read_text().splitlines() if line.startswith("child "))
    return int(line.split()[1])
