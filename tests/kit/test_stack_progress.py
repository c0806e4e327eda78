"""What is seen of a stack that starts."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pd_testkit.stack.progress import Lines, LiveTable, progress

NAMES = ("prefill-0", "router")


def test_without_a_terminal_each_change_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    shown = progress(NAMES)
    assert type(shown) is Lines
    with shown:
        shown.change("prefill-0", "starting", "")
        shown.change("prefill-0", "ready", "")
        shown.change("router", "starting", "")
        shown.change("router", "ended", "exit status 3")
    shown.say("[router] is gone")
    told = capsys.readouterr()
    assert told.out == ""
    starting, ready, *rest = told.err.splitlines()
    assert starting == "prefill-0: starting"
    assert ready.startswith("prefill-0: ready, after ")
    assert rest == ["router: starting", "router: ended, exit status 3", "[router] is gone"]


def test_on_a_terminal_a_table_has_all_of_them_until_the_stack_serves() -> None:
    screen = io.StringIO()
    shown = LiveTable(NAMES, Console(file=screen, force_terminal=True, width=80))
    with shown:
        shown.change("prefill-0", "starting", "")
        shown.change("prefill-0", "ready", "")
    table = screen.getvalue()
    for word in (*NAMES, "process", "state", "seconds", "waiting", "starting", "ready"):
        assert word in table
    shown.change("router", "ended", "signal SIGKILL")
    shown.say("[router] is gone")
    assert screen.getvalue()[len(table) :] == "router: ended, signal SIGKILL\n[router] is gone\n"
