"""A plan as text: what would run, as a shell takes it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from pd_testkit.stack.plan import Plan, Process

WIDTH = 96


def describe(plan: Plan) -> str:
    """The commands in their order, what is waited for, and how all of it is taken away.

    A secret is shown as the variable that it is in.
    """
    return "\n".join(_lines(plan)).strip()


def _lines(plan: Plan) -> Iterator[str]:
    for step in plan.steps:
        yield _command(step.argv)
    for process in plan.processes:
        yield ""
        yield f"# {process.name}, at {process.url}"
        if process.depends:
            yield f"# when these are ready: {', '.join(process.depends)}"
        yield _command(process.argv, _variables(process), f"> {process.log} 2>&1 &")
        yield f"# it is ready, within {process.ready.deadline_s:g} s, when"
        yield from (f"#   {probe}" for probe in process.ready.probes)
    yield ""
    yield f"# {plan.model} is served at {plan.url}"
    yield ""
    yield "# at the end, with SIGTERM, in this order: " + ", ".join(
        process.name for process in reversed(plan.processes)
    )
    for process in reversed(plan.processes):
        yield from map(_command, process.clean_up)
    yield from (_command(step.undo) for step in reversed(plan.steps) if step.undo)


def _variables(process: Process) -> list[str]:
    shown = [f"{name}={shlex.quote(value)}" for name, value in process.env.items()]
    return shown + [f'{name}="${name}"' for name in process.secrets]


def _command(argv: Sequence[str], variables: Sequence[str] = (), end: str = "") -> str:
    """Lines of `WIDTH` characters, as far as an option and its value are not parted."""
    pieces = [*variables, shlex.quote(argv[0])]
    for word in argv[1:]:
        if word.startswith("--"):
            pieces.append(shlex.quote(word))
        else:
            pieces[-1] += f" {shlex.quote(word)}"
    lines = [pieces[0]]
    for piece in (*pieces[1:], *filter(None, [end])):
        if len(lines[-1]) + len(piece) < WIDTH:
            lines[-1] += f" {piece}"
        else:
            lines.append(f"  {piece}")
    return " \\\n".join(lines)
