"""``pd-testkit conform``: the clauses against a target, for those who do not use pytest."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click
import pytest

from pd_testkit.contract import TargetError
from pd_testkit.contract.clauses import CLAUSES, unknown_clause
from pd_testkit.plugin import RUN
from pd_testkit.report.table import details, table, title, verdict
from pd_testkit.run import LAYERS, VERDICT, Run, clause_of
from pd_testkit.targets import load

_NO_PLUGINS = "PYTEST_DISABLE_PLUGIN_AUTOLOAD"
_PYTESTS = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", _NO_PLUGINS)
"""Variables by which pytest does something else than it is told here."""


@click.command()
@click.option(
    "--target",
    metavar="TARGET",
    help="reference, atom, vllm[:CONNECTOR], sglang[:BACKEND] or package.module:attribute.",
)
@click.option(
    "--router",
    metavar="ROUTER",
    help="A preset (vllm-router, vllm-router-discovery, sglang-router), a command such as "
    "'my-router --port {port} --prefill {prefill} --decode {decode}', or URL,prefill=PORT,"
    "decode=PORT.",
)
@click.option("--url", metavar="URL", help="A router that runs already; with the next two.")
@click.option(
    "--prefill-port",
    "prefill_ports",
    type=click.IntRange(1, 65535),
    multiple=True,
    help="Where that router expects a prefill engine. May be repeated.",
)
@click.option(
    "--decode-port",
    "decode_ports",
    type=click.IntRange(1, 65535),
    multiple=True,
    help="Where it expects a decode engine. May be repeated.",
)
@click.option("--source", metavar="DIR", help="Source tree of the target, where it takes one.")
@click.option(
    "--layer",
    "layers",
    type=click.Choice(LAYERS),
    multiple=True,
    help="Check this layer's clauses only. May be repeated.",
)
@click.option(
    "--clause",
    "clauses",
    metavar="ID",
    multiple=True,
    help="Check this clause only, such as FLOW-023. May be repeated.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Of all that is random.  [default: any]")
@click.option(
    "--clause-timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="For a clause's setup, call and teardown, each: one that hangs is broken, and the next "
    "has its turn; 0: none.  [default: 300; 6000 with PD_EXAMPLES=thorough]",
)
@click.option("--report", metavar="FILE", help="Write FILE.json and FILE.html.")
def conform(
    target: str | None,
    router: str | None,
    url: str | None,
    prefill_ports: tuple[int, ...],
    decode_ports: tuple[int, ...],
    source: str | None,
    layers: tuple[str, ...],
    clauses: tuple[str, ...],
    seed: int | None,
    clause_timeout: float | None,
    report: str | None,
) -> None:
    """Check which clauses of the contract a target keeps.

    Asks the units that the target has; --clause asks any. Prints the table, what is broken and why,
    and the verdict. Exit code: 0 if the target conforms
    (but for what is known), 1 if it does not, 2 if it could not be checked.
    """
    if url is not None:
        ports = (("prefill", prefill_ports), ("decode", decode_ports))
        engines = [f"{role}={port}" for role, given in ports for port in given]
        if router is not None:
            _refuse("--url or --router: give one of them")
        if not (prefill_ports and decode_ports):
            _refuse("--url goes with --prefill-port and --decode-port: the router's engines")
        router = ",".join([url, *engines])
    elif prefill_ports or decode_ports:
        _refuse("--prefill-port and --decode-port go with --url")
    if target not in (None, "router") and router is not None:
        _refuse("--target or --router: give one of them")
    target = target or ("router" if router is not None else "reference")
    wanted = tuple(clause.upper() for clause in clauses)
    for clause in wanted:
        if clause not in CLAUSES:
            _refuse(unknown_clause(clause))
    try:
        units = load(target, Path(source) if source else None, router).units
    except TargetError as error:
        _refuse(str(error).replace("--pd-", "--"))
    options = {"target": target, "router": router, "source": source, "report": report}
    options |= {"layer": ",".join(layers) or None, "seed": None if seed is None else str(seed)}
    options["clause-timeout"] = None if clause_timeout is None else str(clause_timeout)
    told = _Told(wanted or tuple(c.id for c in CLAUSES.values() if c.unit in units))
    arguments = [
        *("-p", "pd_testkit", "--pyargs", "pd_testkit.suites"),
        # Whatever settings of pytest's there are where this is called.
        *("-c", os.devnull, "--rootdir", str(Path(__file__).parent), "--noconftest"),
        *("-p", "no:cacheprovider"),
        *(f"--pd-{name}={value}" for name, value in options.items() if value is not None),
    ]
    with _alone():
        try:
            code = pytest.ExitCode(pytest.main(arguments, plugins=[told]))
        except KeyboardInterrupt:  # a second one, while a driver did not come to its end
            code = pytest.ExitCode.INTERRUPTED
    sys.exit(told.end(code))


@contextmanager
def _alone() -> Iterator[None]:
    """Without what the environment has for pytest beside the kit: options that leave clauses out,
    and plugins, of which none is needed and some have a say."""
    before = {name: os.environ.pop(name, None) for name in _PYTESTS}
    os.environ[_NO_PLUGINS] = "1"
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


class _Mute:
    """What other plugins ask pytest's own reporter for."""

    def __init__(self, writer: Any) -> None:
        self._tw = writer


class _Told:
    """In place of pytest's own reporter: what became of these clauses, and nothing else."""

    def __init__(self, clauses: tuple[str, ...]) -> None:
        self._clauses = clauses
        self._problem = ""
        self._config: Any = None
        self._left = 0
        self._now = ""
        """The clause that is being checked."""

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        self._config = config
        reporter: Any = config.pluginmanager.unregister(name="terminalreporter")
        # Before pytest 9 a failed assertion asks it for colours, and has no message without it.
        config.pluginmanager.register(_Mute(reporter._tw), "terminalreporter")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if clause_of(item) in self._clauses]
        self._left = len(items)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._problem = str(report.longrepr).strip().splitlines()[-1]

    def pytest_runtest_logstart(self, location: tuple[str, int | None, str]) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r\x1b[K{self._left} to go: {location[2]}", err=True, nl=False)
        self._left -= 1

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self._now = f" in {clause_of(item)}"

    def pytest_runtest_logfinish(self) -> None:
        self._now = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if (found := vars(report).get(VERDICT)) is not None and found["unusable"]:
            self._problem = found["unusable"]

    def end(self, code: pytest.ExitCode) -> int:
        """Say what there is to say; gives the exit code."""
        if sys.stderr.isatty():
            click.echo("\r\x1b[K", err=True, nl=False)
        if self._config is not None:
            self._show(self._config.stash[RUN])
        if code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return int(code)
        if code is pytest.ExitCode.NO_TESTS_COLLECTED:
            self._problem = self._problem or "there is no such clause in these layers"
        elif code is pytest.ExitCode.INTERRUPTED:
            self._problem = self._problem or f"interrupted{self._now}: the rest was not checked"
        if self._problem:
            click.echo(self._problem.replace("--pd-", "--"), err=True)
        return 2

    def _show(self, run: Run) -> None:
        for target in run.results():
            click.secho(title(target), bold=True)
            for line in (*table(target), *details(target)):
                click.echo(line)
            colour = "green" if target.conforms else "red"
            click.secho(verdict(target, run.seed, option="--seed"), fg=colour)
        if run.written:
            click.echo(f"report: {', '.join(map(str, run.written))}")


def _refuse(message: str) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(2)
