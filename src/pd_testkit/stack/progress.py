"""Shows how far a stack is: a live table on a terminal, lines elsewhere. On standard error."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from pd_testkit.stack.supervisor import State

_COLOURS: dict[State, str] = {
    "waiting": "dim",
    "starting": "yellow",
    "ready": "green",
    "ending": "yellow",
    "ended": "red",
}


@dataclass
class _Row:
    """Seconds of the start are counted until the process is ready."""

    state: State = "waiting"
    detail: str = ""
    since: float | None = None
    took: float | None = None

    def change(self, state: State, detail: str, now: float) -> None:
        self.state, self.detail = state, detail
        if state == "starting":
            self.since = now
        elif self.since is not None and self.took is None:
            self.took = now - self.since

    def seconds(self, now: float) -> str:
        if self.since is None:
            return ""
        return f"{now - self.since if self.took is None else self.took:.1f}"


class Lines:
    """One for each change."""

    def __init__(self, names: Sequence[str]) -> None:
        self._rows = {name: _Row() for name in names}

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def change(self, name: str, state: State, detail: str) -> None:
        row, now = self._rows[name], time.monotonic()
        row.change(state, detail, now)
        if state == "ready":
            detail = f"after {row.seconds(now)} s"
        self.say(f"{name}: {state}{f', {detail}' if detail else ''}")

    def say(self, line: str) -> None:
        click.echo(line, err=True)


class LiveTable(Lines):
    """Name, state and seconds of each process as they are now; lines when the context has ended."""

    def __init__(self, names: Sequence[str], console: Console) -> None:
        super().__init__(names)
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=8)

    def __enter__(self) -> LiveTable:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def change(self, name: str, state: State, detail: str) -> None:
        if not self._live.is_started:
            super().change(name, state, detail)
            return
        self._rows[name].change(state, detail, time.monotonic())
        self._live.refresh()

    def say(self, line: str) -> None:
        self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _table(self) -> Table:
        now = time.monotonic()
        table = Table("process", "state", box=None, pad_edge=False)
        table.add_column("seconds", justify="right")
        table.add_column("")
        for name, row in self._rows.items():
            state = f"[{_COLOURS[row.state]}]{row.state}[/]"
            table.add_row(name, state, row.seconds(now), row.detail)
        return table


def progress(names: Sequence[str]) -> Lines:
    """A table on a terminal, lines elsewhere. Use it as a context while the stack starts."""
    console = Console(stderr=True)
    return LiveTable(names, console) if console.is_terminal else Lines(names)
