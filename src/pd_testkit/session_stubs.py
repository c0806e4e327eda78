"""``--pd-stubs``: strict stand-ins for a whole pytest run, and what was asked of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from pd_testkit import stubs


class SessionStubs:
    """A plugin that holds the installation, from before the first conftest to the end."""

    def __init__(self, names: Sequence[str], *, record: bool) -> None:
        for name in names:
            if name not in stubs.available():
                raise pytest.UsageError(
                    f"--pd-stubs: there is no stand-in for {name!r}; "
                    f"choose of {', '.join(stubs.available())}"
                )
        self._record = record
        self._active = stubs.install(*names, record=record)
        # What the tests spawn has them too.
        self._environment = pytest.MonkeyPatch()
        for name, value in self._active.child_env().items():
            self._environment.setenv(name, value)
        self._touched: set[tuple[str, str]] = set()
        self._missing: set[tuple[str, str]] = set()

    def uninstall(self) -> None:
        self._environment.undo()
        self._active.uninstall()

    def pytest_report_header(self) -> str:
        names = [name for name in self._active.names if name not in self._active.real]
        real = f" (real, not replaced: {', '.join(self._active.real)})" if self._active.real else ""
        return f"pd-testkit stand-ins: {', '.join(names) or 'none'}{real}"

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self._touched |= _pairs(self._active.touched)
        self._missing |= _pairs(self._active.missing)
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["pd_touched"] = sorted(self._touched)
            output["pd_missing"] = sorted(self._missing)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Under xdist: what a worker's stand-ins were asked for."""
        output = getattr(node, "workeroutput", {})
        self._touched |= {(module, name) for module, name in output.get("pd_touched", ())}
        self._missing |= {(module, name) for module, name in output.get("pd_missing", ())}

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._record:
            return
        terminalreporter.section("asked of the stand-ins")
        for module, name in sorted(self._touched):
            lacks = "  MISSING" * ((module, name) in self._missing)
            terminalreporter.write_line(f"{module}.{name}{lacks}")


def _pairs(asked: dict[str, set[str]]) -> set[tuple[str, str]]:
    return {(module, name) for module, names in asked.items() for name in names}
