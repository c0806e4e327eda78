"""``python -m tests.targets``: install, run, compare with the record; see ``--help``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import click

from pd_testkit.report.matrix import aligned, by_unit, columns, summary
from tests.targets import accuracy, clients, record
from tests.targets.columns import BY_NAME, PACKAGES, checkouts, of_the_day
from tests.targets.environments import ENVIRONMENTS, InstallError, cache, install
from tests.targets.stage import AT_ONCE, ROOT, Ran, Stage

FOLDER = Path("build") / "targets"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """The contract against real implementations, each in an environment of its own."""


@main.command(name="install")
@click.argument("names", nargs=-1, type=click.Choice(list(ENVIRONMENTS)), metavar="[NAME]...")
def install_command(names: tuple[str, ...]) -> None:
    """Make the environments (all, or those named) and print the Python of each."""
    for name in names or tuple(ENVIRONMENTS):
        try:
            click.echo(f"{name}: {install(ENVIRONMENTS[name], _say)}")
        except InstallError as error:
            _fail(str(error))


@main.command()
def libraries() -> None:
    """Print the Debian packages that this machine lacks for the environments."""
    lacking = {name for environment in ENVIRONMENTS.values() for name in environment.lacks()}
    click.echo(" ".join(sorted(lacking)))


@main.command()
@click.argument("names", nargs=-1, metavar="[TARGET]...")
@click.option("--record", "recording", is_flag=True, help="Take the result into docs and README.")
@click.option(
    "--newest", is_flag=True, help="The releases of the day in place of those that are pinned."
)
def run(names: tuple[str, ...], recording: bool, newest: bool) -> None:
    """Run the targets, or those named, and compare with docs/conformance.json.

    ATOM is on no package index: PD_ATOM_SOURCE names checkouts of it. vllm-router-discovery is run
    where it is named only. What is not as recorded is in build/targets/differences.txt as well.
    """
    if recording and newest:
        _fail("--record and --newest: what is recorded is what is pinned")
    usual = (*PACKAGES, *checkouts())
    every = {column.name: column for column in (*usual, *BY_NAME)}
    if unknown := [name for name in names if name not in every]:
        _fail(f"there is no target {unknown[0]!r} here; choose of {', '.join(every)}")
    chosen = [every[name] for name in names] if names else list(usual)
    stage = Stage(FOLDER.absolute(), _say)
    try:
        if newest:
            chosen = [of_the_day(column) for column in chosen]
        asked = names or newest
        needed = {column.environment for column in chosen} if asked else ENVIRONMENTS.values()
        stage.install(environment for environment in needed if environment is not None)
    except InstallError as error:
        _fail(str(error))
    ran = stage.run(chosen)
    found = columns(each.document for each in ran if each.document is not None)
    _show(ran, found)
    known = record.read() if record.RECORD.is_file() else ()
    lines = record.differences(known, found)
    if recording:
        everything = record.merged(known, found)
        record.write(everything)
        docs()
    elif lines:
        click.echo("not as docs/conformance.json has it (make targets-docs records it anew):")
        for line in lines:
            click.echo(f"  {line}")
    for each in ran:
        if each.unsteady:
            click.echo(f"\nUNSTEADY, failed beside others and not alone: {each.unsteady}", err=True)
    problems = [each.problem for each in ran if each.problem]
    FOLDER.mkdir(parents=True, exist_ok=True)
    differences = [*lines, *(problem.splitlines()[0] for problem in problems)]
    (FOLDER / "differences.txt").write_text("".join(f"{line}\n" for line in differences), "utf-8")
    for problem in problems:
        click.echo(f"\n{problem}", err=True)
    passed, failed = len(ran) - len(problems), len(problems)
    click.echo(f"\ntargets: {passed} passed, {failed} failed")
    sys.exit(bool(problems or (not recording and lines)))


@main.command(name="clients")
def clients_command() -> None:
    """Run real clients (openai, aiperf, guidellm) through the proxy, and compare their counts."""
    try:
        problems = clients.check(FOLDER.absolute() / "clients", _say)
    except InstallError as error:
        _fail(str(error))
    for problem in problems:
        click.echo(problem, err=True)
    failed = len({problem.partition(":")[0] for problem in problems})
    click.echo(f"clients: {len(clients.CLIENTS) - failed} passed, {failed} failed")
    sys.exit(bool(problems))


@main.command(name="accuracy")
def accuracy_command() -> None:
    """Bring up deployments over NIXL and Mooncake, and behind real routers; check their tokens."""
    try:
        problems = accuracy.check(FOLDER.absolute() / "accuracy", _say)
    except InstallError as error:
        _fail(str(error))
    for problem in problems:
        click.echo(problem, err=True)
    if not problems:
        known = (f"{name}'s {', '.join(sorted(checks))}" for name, checks in accuracy.KNOWN.items())
        click.echo(f"accuracy: as it should; known to fail, and did: {'; '.join(known)}")
    sys.exit(bool(problems))


@main.command()
def upstream() -> None:
    """Run vLLM's own tests of MoRIIO under the kit's mori."""
    try:
        python = install(ENVIRONMENTS["vllm"], _say)
    except InstallError as error:
        _fail(str(error))
    command = [str(python), "-m", "tests.targets.moriio_upstream", "--sdist", "download"]
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path}
    ended = subprocess.run(
        [*command, "--cache", str(cache())], env=environment, stdin=subprocess.DEVNULL, timeout=600
    )
    sys.exit(ended.returncode)


@main.command(name="docs")
def docs_command() -> None:
    """Make docs/conformance.md and the README's table of docs/conformance.json."""
    docs()


def docs() -> None:
    known = record.read()
    record.PAGE.write_text(record.page(known), "utf-8")
    readme = record.README.read_text("utf-8")
    record.README.write_text(record.into_readme(readme, known), "utf-8")


def _show(ran: list[Ran], found: tuple[record.Column, ...]) -> None:
    click.echo()
    for line in aligned(summary(found), left=2):
        click.echo(line)
    click.echo()
    for line in aligned(by_unit(found)):
        click.echo(line)
    click.echo(f"\n{sum(each.seconds for each in ran):.0f} s of runs, {AT_ONCE} at a time")


def _say(line: str) -> None:
    click.echo(line)
    sys.stdout.flush()


def _fail(message: str) -> None:
    click.echo(message, err=True)
    sys.exit(2)


if __name__ == "__main__":
    # As after Ctrl-C, what runs is ended first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    main()
