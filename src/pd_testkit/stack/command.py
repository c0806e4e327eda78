"""``pd-testkit up``, ``down`` and ``status``."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from pd_testkit.command_line import Command
from pd_testkit.stack import leftovers
from pd_testkit.stack.background import detach
from pd_testkit.stack.dry_run import describe
from pd_testkit.stack.foreground import Up, run
from pd_testkit.stack.machine import AnyMachine, ThisMachine
from pd_testkit.stack.options import SettingsCommand, settings_options
from pd_testkit.stack.plan import Plan
from pd_testkit.stack.planner import CannotPlan, make_plan
from pd_testkit.stack.processes import environment, locally
from pd_testkit.stack.readiness import Prober
from pd_testkit.stack.settings import Settings
from pd_testkit.stack.state import DEFAULT_NAME, Entry, Folder, NameTaken, Record, folders
from pd_testkit.stack.supervisor import Launch


def _folder(_: click.Context, __: click.Parameter, name: str) -> Folder:
    try:
        return Folder(name)
    except ValueError as wrong:
        raise click.BadParameter(str(wrong)) from None


def _program(_: click.Context, __: click.Parameter, given: str | None) -> tuple[str, ...]:
    if given is None:
        return ()
    try:
        words = tuple(shlex.split(given))
    except ValueError as wrong:
        raise click.BadParameter(f"{given!r}: {wrong}") from None
    if not words:
        raise click.BadParameter("no command")
    if shutil.which(words[0], path=environment({})["PATH"]) is None:
        raise click.BadParameter(f"there is no program {words[0]!r}")
    return words


_name = click.option(
    "--name",
    "folder",
    default=DEFAULT_NAME,
    show_default=True,
    callback=_folder,
    help="Of the stack: each name has one.",
)
_json = click.option("--json", "as_json", is_flag=True, help="One line of JSON in place of tables.")


@click.command(cls=SettingsCommand, name="up")
@_name
@click.option(
    "--then",
    metavar="COMMAND",
    callback=_program,
    help="Run it against the stack, take the stack down, and exit with its status. It has "
    "PD_ENDPOINT, PD_PREFILL_ENDPOINTS, PD_DECODE_ENDPOINTS (with commas), PD_MODEL, "
    "OPENAI_BASE_URL and OPENAI_API_KEY in its environment. There is no shell: say sh -c '...'.",
)
@click.option("--detach", "detached", is_flag=True, help="Return when the stack serves.")
@click.option(
    "--fail-fast", is_flag=True, help="End the stack also when a process ends that served."
)
@click.option(
    "--log-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="One log per process.  [default: in the user's state folder]",
)
@click.option("--dry-run", is_flag=True, help="Print what would run, and end.")
@_json
@settings_options
def up(
    settings: Settings,
    folder: Folder,
    then: tuple[str, ...],
    detached: bool,
    fail_fast: bool,
    log_dir: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Bring up P engines, D engines and a router.

    Waits until they serve and prints where; runs until Ctrl-C, or until a command has ended. Then
    all of it is taken down, what was started last first. Progress goes to standard error.
    """
    if detached and then:
        raise click.UsageError("--detach and --then: give one of them")
    logs = (log_dir or folder.logs).absolute()
    with _in_one_line(folder):
        if dry_run:
            click.echo(describe(make_plan(settings, AnyMachine())))
            return
        _make(logs)
        let_go = detach(logs / "supervisor.log") if detached else _stay

        def serves(stack: Up) -> None:
            _announce(stack, as_json)
            let_go()

        with folder.held():
            if left := folder.read():
                leftovers.remove(folder, left)
            with _placed(settings, logs) as (plan, launch):
                stack = run(plan, launch, folder, logs, then=then, fail_fast=fail_fast, up=serves)
                status = asyncio.run(stack)
    sys.exit(status)


@contextmanager
def _in_one_line(folder: Folder) -> Iterator[None]:
    try:
        yield
    except CannotPlan as wrong:
        raise click.UsageError(str(wrong)) from None
    except NameTaken:
        raise click.ClickException(
            f"a stack named {folder.name} runs; give another --name, or pd-testkit down"
        ) from None


def _make(logs: Path) -> None:
    try:
        logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as problem:
        raise click.ClickException(f"{logs}: {problem.strerror}") from None


@contextmanager
def _placed(settings: Settings, logs: Path) -> Iterator[tuple[Plan, Launch]]:
    """What to run, and what runs it."""
    if settings.runner != "ray":
        yield make_plan(settings, ThisMachine()), locally(logs)
        return
    try:
        from pd_testkit.stack.ray import placed  # seconds of imports
    except ModuleNotFoundError as missing:
        raise CannotPlan([f"--runner ray: {missing}; pip install 'pd-testkit[ray]'"]) from None
    with placed(settings, logs) as found:
        yield found


def _stay() -> None:
    return


def _announce(stack: Up, as_json: bool) -> None:
    record = stack.record
    if as_json:
        ready = {"event": "ready", "seconds": round(stack.seconds, 3), **_stack(record)}
        _print_json({**ready, "processes": [_process(entry) for entry in record.entries]})
        return
    table = _table("process", "role", "url", "pid")
    for entry in record.entries:
        table.add_row(entry.name, entry.role, entry.url, _pid(entry))
    _print(table)
    click.echo(f"logs: {record.logs}")
    click.echo(f"{record.name} serves {record.model} at {record.url} after {stack.seconds:.1f} s")


@click.command(cls=Command, name="status")
@click.option("--name", help="Only the stack of that name.")
@_json
def status(name: str | None, as_json: bool) -> None:
    """Show what runs, by asking it.

    Exits with 0 when there is a stack and all of it is ready, else with 1.
    """
    found = [read for one in folders() if name in (None, one.name) and (read := one.read())]
    states = asyncio.run(_states(found))
    if as_json:
        _print_json([_seen(record, states) for record in found])
    elif found:
        table = _table("stack", "process", "role", "url", "pid", "state")
        for record in found:
            for entry in record.entries:
                state = states[record.name, entry.name]
                cells = (entry.name, entry.role, entry.url, _pid(entry), state)
                table.add_row(record.name, *cells)
        _print(table)
    else:
        click.echo("no stack runs" if name is None else f"no stack named {name} runs", err=True)
    sys.exit(not found or any(state != "ready" for state in states.values()))


async def _states(records: list[Record]) -> dict[tuple[str, str], str]:
    async with Prober() as prober:

        async def state(entry: Entry) -> str:
            if not entry.started:
                return "waiting"
            if not all(pid.alive for pid in entry.pids):
                return "ended"
            return await prober.missing(entry.ready) or "ready"

        entries = [(record, entry) for record in records for entry in record.entries]
        seen = await asyncio.gather(*(state(entry) for _, entry in entries))
    return {
        (record.name, entry.name): state
        for (record, entry), state in zip(entries, seen, strict=True)
    }


def _seen(record: Record, states: dict[tuple[str, str], str]) -> dict[str, Any]:
    processes = [
        {**_process(entry), "state": states[record.name, entry.name]} for entry in record.entries
    ]
    supervisor = {"pid": record.supervisor.number, "alive": record.supervisor.alive}
    return {**_stack(record), "supervisor": supervisor, "processes": processes}


@click.command(cls=Command, name="down")
@_name
def down(folder: Folder) -> None:
    """Take a stack down.

    Ends the processes that up has started, and no others; also where up itself was killed.
    """
    record = folder.read()
    if record is None:
        click.echo(f"no stack named {folder.name} runs", err=True)
        return
    leftovers.take_down(folder, record)
    click.echo(f"{folder.name} is down", err=True)


def _stack(record: Record) -> dict[str, Any]:
    urls = {
        role: [entry.url for entry in record.entries if entry.role == role]
        for role in ("prefill", "decode")
    }
    named = {"name": record.name, "model": record.model, "url": record.url, "logs": record.logs}
    return {**named, **urls}


def _process(entry: Entry) -> dict[str, Any]:
    pid = entry.pids[0].number if entry.pids else None
    return {
        "name": entry.name,
        "role": entry.role,
        "url": entry.url,
        "pid": pid,
        "log": entry.log,
    }


def _pid(entry: Entry) -> str:
    return str(entry.pids[0].number) if entry.pids else ""


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print(table: Table) -> None:
    """Not wrapped where another program reads it."""
    width = None if sys.stdout.isatty() else 400
    Console(width=width).print(table)


def _print_json(value: Any) -> None:
    click.echo(msgspec.json.encode(value).decode())
