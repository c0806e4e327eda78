"""One pytest run: what its options say, which clauses it checks and what became of them."""

from __future__ import annotations

import math
import os
import platform
import shlex
import signal
from collections.abc import Generator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pd_testkit

if TYPE_CHECKING:
    from pd_testkit.contract import Target
    from pd_testkit.hardware import Hardware
    from pd_testkit.hardware.gpu import Gpu
    from pd_testkit.report.conformance import Conformance, Journal, TargetResults
    from pd_testkit.report.l3 import L3

VERDICT = "pd_verdict"
"""The attribute of a report that holds its verdict, as plain data."""
LAYERS = ("l1", "l2", "l3")
CLAUSE_S = 300.0
"""For setup, call and teardown of a clause's check, each. The longest that a real target has taken
are 74 s, to open it on a busy machine."""
THOROUGH = 20
"""Times as many examples, and seconds, with ``PD_EXAMPLES=thorough``."""


class Run:
    """A plugin with the hooks that need memory; each pytest run has one of its own."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.stopped = False
        """A target or an option turned out to be unusable."""
        self.written: tuple[Path, ...] = ()
        self._l3: L3 | None = None
        """There is one as soon as an L3 test was reported."""
        self._journal: Journal | None = None
        """There is one as soon as a clause was checked."""
        self._hardware: Hardware | None = None
        self._target: Target | None = None
        self._versions: dict[str, str] = {}

    # -- options -----------------------------------------------------------------------------

    @cached_property
    def seed(self) -> int:
        if self._worker is not None:
            return int(self._worker["pd_seed"])
        given = self.config.getoption("--pd-seed")
        if given is None:
            return int.from_bytes(os.urandom(4), "big")
        if not (given.isascii() and given.isdigit()):
            raise pytest.UsageError(f"--pd-seed {given}: not a whole number from 0 on")
        return int(given)

    @cached_property
    def layers(self) -> tuple[str, ...]:
        given = self.config.getoption("--pd-layer")
        if given is None:
            return LAYERS
        chosen = split(given)
        for name in chosen:
            if name not in LAYERS:
                raise pytest.UsageError(
                    f"--pd-layer {given}: there is no layer {name!r}; choose of {','.join(LAYERS)}"
                )
        return tuple(layer for layer in LAYERS if layer in chosen)

    def clause_timeout_s(self) -> float:
        """0: none."""
        given = self.config.getoption("--pd-clause-timeout")
        if given is None:
            return CLAUSE_S * (THOROUGH if os.environ.get("PD_EXAMPLES") == "thorough" else 1)
        try:
            seconds = float(given)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds < math.inf:
            raise pytest.UsageError(f"--pd-clause-timeout {given}: not a number of seconds")
        return seconds

    def hardware(self) -> Hardware:
        """Looked for once, when asked. Not a property: pytest 8.2 reads all of a plugin's."""
        if self._hardware is None:
            from pd_testkit.hardware import detect

            self._hardware = detect()
        return self._hardware

    def target(self) -> Target:
        """That of ``--pd-target``; it is not open yet.

        Raises:
            pytest.UsageError: it cannot be used as it stands.
        """
        if self._target is None:
            from pd_testkit.contract import TargetError
            from pd_testkit.targets import load

            name = self.config.getoption("--pd-target") or "reference"
            source = self.config.getoption("--pd-source")
            try:
                self._target = load(
                    name,
                    Path(source) if source else None,
                    self.config.getoption("--pd-router"),
                )
            except TargetError as error:
                raise pytest.UsageError(f"--pd-target {name}: {error}") from None
        return self._target

    def version(self, target: Target) -> str:
        if target.name not in self._versions:
            self._versions[target.name] = target.version()
        return self._versions[target.name]

    def require(self) -> None:
        """Raise `pytest.UsageError` where hardware of ``--pd-require`` is missing."""
        given = self.config.getoption("--pd-require")
        if given is None:
            return
        from pd_testkit.hardware.needs import parse

        try:
            needs = parse(given)
        except ValueError as wrong:
            raise pytest.UsageError(f"--pd-require {given}: {wrong}") from None
        if lacking := needs.lacking(self.hardware(), self._gpus):
            raise pytest.UsageError(f"--pd-require {given}: {lacking}")

    def _gpus(self) -> tuple[Gpu, ...]:
        """Those of this machine, with their memory; runs a driver's command."""
        from pd_testkit.hardware.machine import gpus

        return gpus()

    @property
    def _worker(self) -> Any:
        """What xdist gives to a worker process; None in any other."""
        return getattr(self.config, "workerinput", None)

    # -- start and collection ----------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """All that can be wrong with the command line is said before anything is collected."""
        if self.config.getoption("--pd-target"):
            self.target()
        elif self.config.getoption("--pd-source"):
            raise pytest.UsageError("--pd-source without --pd-target: name the target too")
        elif self.config.getoption("--pd-router"):
            raise pytest.UsageError("--pd-router without --pd-target: say --pd-target router")
        self.require()
        _ = self.layers, self.seed, self.clause_timeout_s()

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Under xdist every worker has the controller's seed."""
        node.workerinput["pd_seed"] = self.seed

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Mark each clause's test with the layer of its clause; leave out other layers."""
        for item in items:
            if (clause_id := clause_of(item)) is not None:
                from pd_testkit.contract.clauses import CLAUSES

                if clause_id in CLAUSES:
                    item.add_marker(f"pd_{CLAUSES[clause_id].layer}")
        seconds = self.clause_timeout_s()
        if seconds and hasattr(signal, "setitimer") and any(map(clause_of, items)):
            from pd_testkit.clause_limit import ClauseLimit

            self.config.pluginmanager.register(ClauseLimit(seconds), "pd_testkit_clause_limit")
        others = {f"pd_{layer}" for layer in LAYERS if layer not in self.layers}
        left_out = {item for item in items if others & {mark.name for mark in item.iter_markers()}}
        if left_out:
            self.config.hook.pytest_deselected(items=[i for i in items if i in left_out])
            items[:] = [item for item in items if item not in left_out]

    @property
    def _named(self) -> bool:
        return bool(self.config.getoption("--pd-target"))

    def pytest_report_header(self) -> list[str]:
        lines = []
        if self._named:
            target = self.target()
            lines = [self._header(f"{target.name} {self.version(target)}")]
        return lines + (self._machine() if self.config.getoption("--pd-require") else [])

    def pytest_report_collectionfinish(self, items: list[pytest.Item]) -> list[str]:
        """The header comes here where only the collected tests tell that the kit is at work."""
        if self.config.get_verbosity() < 0:
            return []
        lines = []
        clauses = [item for item in items if clause_of(item) is not None]
        if not self._named and (clauses or self.config.getoption("--pd-report")):
            own = bool(clauses) and all(map(_has_own_target, clauses))
            lines.append(self._header("of the tests' own" if own else "reference (default)"))
        l3 = not self.config.getoption("--pd-require") and any("pd_l3" in i.keywords for i in items)
        return lines + (self._machine() if l3 else [])

    def _machine(self) -> list[str]:
        """The machine in a few lines; drivers are asked where there is a GPU."""
        from pd_testkit.hardware.machine import brief

        return brief(self.hardware(), self._gpus() if self.hardware().gpus else ())

    def _header(self, target: str) -> str:
        return (
            f"pd-testkit {pd_testkit.__version__}: target {target}, seed {self.seed}, "
            f"layers {' '.join(self.layers)}, {self.hardware()}"
        )

    # -- tests -------------------------------------------------------------------------------

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """A test that needs hardware is skipped where there is none; see ``--pd-require``.

        One that names no clause stops the run: here and not when it is collected, as xdist's
        workers cannot refuse what they collect.
        """
        if (clause_id := clause_of(item)) is not None:
            from pd_testkit.contract.clauses import CLAUSES, unknown_clause

            if clause_id not in CLAUSES:
                raise pytest.UsageError(f"{item.nodeid}: {unknown_clause(clause_id)}")
        if not {"gpus", "rdma", "gpu_memory", "requires_package"}.isdisjoint(item.keywords):
            from pd_testkit.hardware.marked import needs_of

            if lacking := needs_of(item).lacking(self.hardware(), self._gpus):
                pytest.skip(f"not applicable: {lacking}")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Put the verdict on the report, which brings it from an xdist worker to the controller."""
        report = yield
        clause_id = clause_of(item)
        if clause_id is None:
            return report
        from pd_testkit.report.verdict import judge
        from pd_testkit.suites.base import CHECKED

        target = item.stash.get(CHECKED, None) or self.target()
        verdict = judge(
            report,
            call.excinfo.value if call.excinfo is not None else None,
            clause=clause_id,
            target=target.name,
            version=self.version(target),
            again=self._again(item, clause_id, target),
        )
        if verdict.unusable:
            report.longrepr = verdict.unusable
            item.session.shouldfail = verdict.unusable
        vars(report)[VERDICT] = asdict(verdict)
        return report

    def _again(self, item: pytest.Item, clause_id: str, target: Target) -> str:
        """The command that checks the clause alone, with the same examples.

        It takes pytest where the check, or the target, is the repository's own.
        """
        kits = item.function.__module__.startswith("pd_testkit.")  # type: ignore[attr-defined]
        if kits and target is self._target:
            words, prefix = ["pd-testkit", "conform", "--clause", clause_id], "--"
        else:
            words, prefix = ["pytest", item.nodeid], "--pd-"
        for name in ("target", "source", "router"):
            if given := self.config.getoption(f"--pd-{name}"):
                words += [f"{prefix}{name}", given]
        words += [f"{prefix}seed", str(self.seed)]
        level = os.environ.get("PD_EXAMPLES")
        return (f"PD_EXAMPLES={shlex.quote(level)} " if level else "") + shlex.join(words)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self._worker is None and "pd_l3" in report.keywords:
            from pd_testkit.report.l3 import L3

            self._l3 = self._l3 or L3()
            self._l3.add(report)
        if self._worker is None and (found := vars(report).get(VERDICT)) is not None:
            from pd_testkit.report.conformance import Journal, Verdict

            verdict = Verdict(**found)
            self.stopped |= bool(verdict.unusable)
            self._journal = self._journal or Journal()
            self._journal.add(report.nodeid, verdict, report.duration)

    # -- end ---------------------------------------------------------------------------------

    def results(self) -> tuple[TargetResults, ...]:
        """What became of the clauses so far, by target."""
        return self._journal.targets() if self._journal is not None else ()

    def _conforms(self) -> bool:
        return all(target.conforms for target in self.results())

    def _conformance(self) -> Conformance:
        from pd_testkit.report.conformance import Conformance

        return Conformance(
            seed=self.seed,
            layers=self.layers,
            hardware=str(self.hardware()),
            kit=pd_testkit.__version__,
            python=platform.python_version(),
            platform=platform.platform(),
            targets=self.results(),
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._worker is not None:
            return
        if self.stopped:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR
        elif session.exitstatus == pytest.ExitCode.OK and not self._conforms():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if (file := self.config.getoption("--pd-report")) is not None:
            from pd_testkit.report import files

            self.written = files.write(self._conformance(), Path(file))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for target in self.results():
            from pd_testkit.report.table import details, table, title, verdict

            colour = {"green" if target.conforms else "red": True}
            terminalreporter.write_sep("=", title(target), **colour)
            for line in table(target):
                terminalreporter.write_line(line)
            if self.config.get_verbosity() >= 0:
                for line in details(target):
                    terminalreporter.write_line(line)
            terminalreporter.write_line(verdict(target, self.seed), **colour)
        if self._l3 is not None:
            for line in self._l3.lines(str(self.hardware())):
                terminalreporter.write_line(line)
        if self.written:
            terminalreporter.write_line(f"report: {', '.join(map(str, self.written))}")


def split(given: str) -> list[str]:
    """An option's comma-separated names."""
    return [name.strip() for name in given.split(",")]


def _has_own_target(item: pytest.Item) -> bool:
    """Whether a clause's class has a fixture `target` in place of the suites'."""
    from pd_testkit.suites.base import Suite

    classes = getattr(item.getparent(pytest.Class), "obj", Suite).__mro__
    return next((one for one in classes if "target" in vars(one)), Suite) is not Suite


def clause_of(item: pytest.Item) -> str | None:
    """The clause that a test checks; None for any other test."""
    mark = item.get_closest_marker("pd_clause")
    if mark is None:
        return None
    return str(mark.args[0]) if mark.args else ""
