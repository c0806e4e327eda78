"""The columns of the conformance table: what is run, where, and for how long at most."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from tests.targets.environments import ENVIRONMENTS, Environment, newest


@dataclass(frozen=True)
class Column:
    """One target as it is run.

    Attributes:
        name: how to ask for it, and its files' name.
        arguments: pytest's, to choose it.
        environment: where it is installed; None for the environment that runs the stage.
        takes_s: real seconds that it takes beside others, roughly: the longest begin first.
        limit_s: real seconds after which it is ended and has failed.
        polls: its engines have threads that poll without a pause: one such column at a time.
    """

    name: str
    arguments: tuple[str, ...]
    environment: Environment | None
    takes_s: float = 60.0
    limit_s: float = 900.0
    polls: bool = False


def _vllm(variant: str, takes_s: float, *, polls: bool = False) -> Column:
    arguments = ("--pd-target", f"vllm:{variant}")
    return Column(f"vllm-{variant}", arguments, ENVIRONMENTS["vllm"], takes_s, polls=polls)


def _sglang(variant: str, takes_s: float, *, polls: bool = False) -> Column:
    arguments = ("--pd-target", f"sglang:{variant}")
    return Column(f"sglang-{variant}", arguments, ENVIRONMENTS["sglang"], takes_s, polls=polls)


def _router(name: str, takes_s: float) -> Column:
    arguments = ("--pd-target", "router", "--pd-router", name)
    return Column(name, arguments, ENVIRONMENTS["routers"], takes_s)


PACKAGES = (
    Column("reference", ("--pd-target", "reference"), None),
    _vllm("nixl", 430, polls=True),
    _vllm("mooncake", 240),
    _vllm("moriio", 210),
    _vllm("moriio-write", 230),
    _vllm("multi", 130),
    _vllm("offloading", 50),
    _vllm("example", 40),
    _sglang("mori", 300),
    _sglang("nixl", 270, polls=True),
    _sglang("mooncake", 170),
    _router("vllm-router", 220),
    _router("sglang-router", 180),
)
"""What comes from a package index, and is run where nothing is named."""

BY_NAME = (_router("vllm-router-discovery", 220),)
"""What is run where it is named only. In the table as well.

It is the program of ``vllm-router``, told of its engines in another way: of the 82 clauses that
both are asked, 80 ended alike. Not worth four minutes of each run.
"""


def checkouts() -> tuple[Column, ...]:
    """ATOM, where ``PD_ATOM_SOURCE`` names checkouts of it: it is on no package index."""
    sources = [
        Path(path) for path in os.environ.get("PD_ATOM_SOURCE", "").split(os.pathsep) if path
    ]
    return tuple(
        Column(
            f"atom-{source.name}",
            ("--pd-target", "atom", "--pd-source", str(source)),
            None,
            limit_s=900.0,
        )
        for source in sources
    )


def of_the_day(column: Column) -> Column:
    """The same with the newest releases of what is under test in place of the pinned ones.

    Raises:
        InstallError: the index does not tell which they are.
    """
    if column.environment is None:
        return column
    releases = tuple((name, newest(name)) for name in column.environment.subjects)
    return replace(column, environment=replace(column.environment, releases=releases))
