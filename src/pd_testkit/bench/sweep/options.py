"""The options that both kinds of sweep have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pd_testkit.bench.options import Decorator


def _settings(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not (name and equals):
            raise click.BadParameter(f"{each!r}; give NAME=VALUE")
        truth = {"true": True, "false": False}
        settings[name.replace("-", "_")] = truth.get(value.lower(), value)
    return settings


def settings(of: str) -> Decorator:
    """The option ``--set``, a dict by the name ``settings``."""
    return click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="NAME=VALUE",
        callback=_settings,
        help=f"{of} May be repeated.",
    )


def folder(default: str, what: str) -> Decorator:
    """The option ``--folder``, a `Path`."""
    return click.option(
        "--folder",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path(default),
        show_default=True,
        help=f"For {what}.",
    )


def limit(of: str) -> Decorator:
    """The option ``--limit``, by the name ``limit_s``."""
    return click.option(
        "--limit",
        "limit_s",
        type=click.FloatRange(min=0, min_open=True),
        default=600.0,
        show_default=True,
        help=f"Seconds for a {of}.",
    )


def fresh(done: str) -> Decorator:
    """The option ``--fresh``."""
    return click.option("--fresh", is_flag=True, help=f"Also run what {done} before.")


def json_file(of: str) -> Decorator:
    """The option ``--json``, a `Path` or None by the name ``file``."""
    return click.option(
        "--json",
        "file",
        type=click.Path(dir_okay=False, writable=True, path_type=Path),
        help=f"Write what became of the {of} to this file.",
    )


def dry_run() -> Decorator:
    """The option ``--dry-run``."""
    return click.option("--dry-run", is_flag=True, help="Print the commands, and run none.")
