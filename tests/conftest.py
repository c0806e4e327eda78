"""What all tests of the kit share: pytest's own test helper, and no silent skip."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

EXPECTED = "not applicable: "
"""How the reason of a skip begins that says what this machine lacks. Any other fails the run."""


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal is None:
        return  # a worker of pytest-xdist
    for report in terminal.stats.get("skipped", []):
        _, _, reason = report.longrepr
        if not reason.removeprefix("Skipped: ").startswith(EXPECTED):
            terminal.write_line(f"unexpected skip: {report.nodeid}: {reason}", red=True)
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
