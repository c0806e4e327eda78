"""``pd-testkit``: the contract, its checks, and a whole deployment from the command line."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import NoReturn

import click
from click.shell_completion import CompletionItem

import pd_testkit

_APART = {
    "accuracy": ("pd_testkit.bench.accuracy.command", "Check what an endpoint answers."),
    "bandwidth": ("pd_testkit.bench.kv.bandwidth_command", "How fast the KV moves."),
    "bench": ("pd_testkit.bench.load.command", "Latency and throughput of an endpoint."),
    "collect": ("pd_testkit.bench.sweep.collect_command", "Old logs and results as CSV."),
    "compare": ("pd_testkit.bench.turns.compare_command", "P/D against other modes of routing."),
    "conform": ("pd_testkit.conform", "Check an implementation, or a router that runs."),
    "doctor": ("pd_testkit.doctor", "What this machine has, and what tests lack."),
    "down": ("pd_testkit.stack.command", "Take a deployment down."),
    "engine": ("pd_testkit.engine.command", "Serve a small model with a real paged KV cache."),
    "kv-size": ("pd_testkit.bench.kv.size_command", "Bytes of a model's KV."),
    "multiturn": ("pd_testkit.bench.turns.multiturn_command", "Latency and KV, turn by turn."),
    "plot": ("pd_testkit.plots.command", "Draw results."),
    "proxy": ("pd_testkit.proxy.command", "Route requests over P and D engines."),
    "report": ("pd_testkit.plots.report_command", "Gather results in one page; gate on them."),
    "status": ("pd_testkit.stack.command", "Show what runs."),
    "sweep": ("pd_testkit.bench.sweep.command", "Check many configurations of a deployment."),
    "up": ("pd_testkit.stack.command", "Bring up P engines, D engines and a router."),
}
"""Commands in a module of their own, which has the command by the same name, and what they do."""

_EXTRAS = {
    "annotated_types": "stack",
    "matplotlib": "plots",
    "opentelemetry": "trace",
    "pydantic": "stack",
    "ray": "ray",
    "rich": "stack",
    "torch": "torch",
    "transformers": "hf",
}
"""What a command imports and the kit alone does not bring, and the extra that does."""


class Commands(click.Group):
    """Imports pytest, and the proxy with its event loop, only where they are asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted([*super().list_commands(context), *_APART])

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _APART:
            return super().get_command(context, name)
        try:
            module = importlib.import_module(_APART[name][0])
        except ModuleNotFoundError as missing:
            extra = _EXTRAS.get(missing.name or "")
            if extra is None:
                raise
            if context.resilient_parsing:  # a shell completes what is being typed
                return None
            _refuse(f"pd-testkit {name} needs {missing.name}: pip install 'pd-testkit[{extra}]'")
        command: click.Command = getattr(module, name.replace("-", "_"))
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """None of the modules is imported for the list."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, self._short_help(name)) for name in self.list_commands(context)]
            )

    def shell_complete(self, context: click.Context, incomplete: str) -> list[CompletionItem]:
        """Here, too."""
        names = [name for name in self.list_commands(context) if name.startswith(incomplete)]
        return [
            *(CompletionItem(name, help=self._short_help(name)) for name in names),
            *click.Command.shell_complete(self, context, incomplete),
        ]

    def _short_help(self, name: str) -> str:
        return _APART[name][1] if name in _APART else self.commands[name].get_short_help_str(80)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(pd_testkit.__version__, prog_name="pd-testkit")
def main() -> None:
    """Proves a prefill/decode disaggregated serving stack right, on a plain CPU.

    The same checks in pytest: pytest --pyargs pd_testkit.suites --pd-target TARGET
    """


@main.group(invoke_without_command=True)
@click.pass_context
def clauses(context: click.Context) -> None:
    """List the clauses of the contract."""
    if context.invoked_subcommand is not None:
        return
    from pd_testkit.contract.clauses import CLAUSES

    width = max(map(len, CLAUSES), default=0)
    for clause in CLAUSES.values():
        click.echo(f"{clause.id:{width}}  {clause.statement}")


@clauses.command()
@click.argument("clause_id", metavar="ID")
def show(clause_id: str) -> None:
    """Explain one clause, such as AGG-003."""
    from pd_testkit.contract.clauses import CLAUSES, unknown_clause
    from pd_testkit.report.contract_doc import explain

    found = CLAUSES.get(clause_id.upper())
    if found is None:
        _refuse(unknown_clause(clause_id))
    click.echo(explain(found))


@main.group()
def stubs() -> None:
    """The strict stand-ins for real packages."""


@stubs.command()
@click.option(
    "--against",
    metavar="PATH",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A checkout of the real package, or the folder that it is installed in.",
)
@click.option("--package", metavar="NAME", help="Compare this stand-in only, such as mori.")
def diff(against: Path, package: str | None) -> None:
    """Compare the stand-ins with the real packages; exit code 1 when one has drifted."""
    from pd_testkit.stubs import available
    from pd_testkit.stubs.surface import diff_package

    names = available() if package is None else (package,)
    if unknown := set(names) - set(available()):
        _refuse(f"there is no stand-in for {unknown.pop()!r}; choose of {', '.join(available())}")
    compared, drifted = 0, False
    for name in names:
        try:
            drift = diff_package(name, against)
        except FileNotFoundError:
            continue
        compared += 1
        drifted |= bool(drift)
        click.echo(f"{name}: {len(drift)} differences" if drift else f"{name}: as recorded")
        for line in drift:
            click.echo(f"  {line}")
    if not compared:
        _refuse(f"there is no package {' or '.join(names)} below {against}")
    sys.exit(drifted)


def _refuse(message: str) -> NoReturn:
    """Say in one line what is wrong with the command line, and exit with 2."""
    click.echo(message, err=True)
    sys.exit(2)
