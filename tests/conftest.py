"""What all tests of the kit share: pytest's own test helper, and no silent skip."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from pd_testkit.clause_limit import numbered

pytest_plugins = ["pytester"]

EXPECTED = "not applicable: "
"""How the reason of a skip begins that says what this machine lacks. Any other fails the run."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A deployment that a module's tests share is brought up once, in one worker."""
    for item in items:
        if item.path.parent.name == "e2e":
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


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


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A time limit's signal may come at an instruction that belongs to no line, and pytest ends the
    whole run over a traceback without a line's number."""
    if call.excinfo is not None:
        error = call.excinfo.value
        call.excinfo = pytest.ExceptionInfo.from_exception(
            error.with_traceback(numbered(call.excinfo.tb))
        )
    return (yield)
