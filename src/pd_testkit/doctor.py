"""``pd-testkit doctor``: what this machine has, and what each layer of tests lacks."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import click

from pd_testkit.command_line import Command
from pd_testkit.hardware.layers import LAYERS
from pd_testkit.hardware.machine import VARIABLES, Machine, survey
from pd_testkit.hardware.needs import parse


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="JSON in place of tables.")
@click.option(
    "--require",
    metavar="HARDWARE",
    help="Exit with 1 where it is missing; such as rdma,gpus=2,gpu_memory=40,package=nixl>=1.0.",
)
def doctor(as_json: bool, require: str | None) -> None:
    """Show what this machine has, and what each layer of tests lacks."""
    try:
        needs = parse(require) if require is not None else None
    except ValueError as wrong:
        raise click.UsageError(f"--require {require}: {wrong}") from None
    machine = survey()
    lacking = needs.lacking(machine.hardware, lambda: machine.gpus) if needs is not None else ""
    if as_json:
        click.echo(json.dumps(document(machine, lacking), indent=2))
    else:
        click.echo("\n".join(table(machine, shutil.get_terminal_size((100, 0)).columns)))
        if lacking:
            click.echo(f"\n--require {require}: {lacking}", err=True)
    sys.exit(bool(lacking))


def document(machine: Machine, lacking: str = "") -> dict[str, Any]:
    """As ``--json`` prints it; sizes in bytes. ``lacking`` is what ``--require`` misses."""
    return {
        "gpus": [asdict(gpu) for gpu in machine.gpus],
        "gpu_count": machine.hardware.gpus,
        "peers": [list(pair) for pair in machine.peers],
        "rdma": [{**asdict(device), "usable": device.usable} for device in machine.rdma],
        "packages": dict(machine.packages),
        "torch_build": machine.torch,
        "commands": list(machine.commands),
        "docker": machine.docker,
        "memlock": machine.memlock,
        "net_admin": machine.net_admin,
        "variables": dict(machine.variables),
        "layers": [
            {
                "name": layer.name,
                "what": layer.what,
                "missing": [{"lacks": lacks, "get": get} for lacks, get in layer.missing(machine)],
            }
            for layer in LAYERS
        ],
        "lacking": lacking,
    }


def table(machine: Machine, width: int = 100) -> list[str]:
    """Its lines, of so many columns at most where a word allows."""
    lines = [line for name, told in _facts(machine) for line in _row(f"{name:12}", told, width)]
    lines.append("")
    column = max(len(layer.name) for layer in LAYERS) + 2
    ways: dict[str, dict[str, None]] = {}
    for layer in LAYERS:
        missing = layer.missing(machine)
        for lacks, get in missing:
            ways.setdefault(get, {})[lacks] = None
        ready = "lacks" if missing else "ready"
        lines += _row(f"{layer.name:{column}}{ready}  ", layer.what, width)
        lines += _row(f"{'':{column + 7}}- ", "; ".join(lacks for lacks, _ in missing), width)
    if ways:
        lines += ["", "How to get it:"]
    for get, all_lacks in ways.items():
        lines += _row("  ", "; ".join(all_lacks), width)
        lines += _row("      ", get, width)
    return lines


def _row(head: str, told: str, width: int) -> list[str]:
    """What is told behind its head, in several lines where it is long."""
    return textwrap.wrap(
        told,
        max(width, len(head) + 20),
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _facts(machine: Machine) -> Iterator[tuple[str, str]]:
    yield from _several("GPUs", list(map(str, machine.gpus)), _untold(machine))
    yield "peers", ", ".join(f"{one} reads {other}" for one, other in machine.peers) or "none"
    ports = [
        f"{device.name}/{port.number} {port.state} {port.link_layer} {port.rate}".rstrip()
        for device in machine.rdma
        for port in device.ports
    ]
    ports += [device.name for device in machine.rdma if not device.ports]
    yield from _several("RDMA", ports, "none in /sys/class/infiniband")
    there = [f"{name} {told}" for name, told in machine.packages if told]
    yield "packages", ", ".join(there) or "none"
    yield "missing", ", ".join(name for name, told in machine.packages if not told) or "none"
    yield "torch for", machine.torch or "no torch"
    yield "commands", ", ".join(machine.commands) or "none"
    yield "docker", machine.docker or "no daemon answers"
    limit = "unlimited" if machine.memlock < 0 else f"{machine.memlock >> 10} KiB"
    yield "memlock", limit
    yield "net admin", "yes" if machine.net_admin else "no"
    named = [f"{name}={value}" for name, value in machine.variables if value]
    yield "variables", ", ".join(named) or "none of " + ", ".join(VARIABLES)


def _several(name: str, lines: list[str], otherwise: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines or [otherwise]):
        yield ("" if number else name), line


def _untold(machine: Machine) -> str:
    """Where no driver tells of any."""
    count = machine.hardware.gpus
    return f"{count} in /dev, of which no driver's command tells" if count else "none"
