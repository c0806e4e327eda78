"""The settings as options of a command."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pd_testkit.command_line import Command
from pd_testkit.stack.settings import Settings
from pd_testkit.stack.sources import (
    CONFIG_VARIABLE,
    BadSettings,
    allowed,
    default_of,
    flag,
    named,
    read,
)


class SettingsCommand(Command):
    """Shows the options of the settings by sections, its own first."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        own = [p for p in self.get_params(context) if not isinstance(p, SettingOption)]
        settings = [p for p in self.get_params(context) if isinstance(p, SettingOption)]
        with formatter.section("Options"):
            formatter.write_dl([r for p in own if (r := p.get_help_record(context))])
        for section, options in itertools.groupby(settings, key=lambda p: p.section):
            with formatter.section(section):
                formatter.write_dl([r for p in options if (r := p.get_help_record(context))])


class SettingOption(click.Option):
    """The flag of one setting. What it is given is read by `sources.read`, as all sources are."""

    def __init__(self, name: str) -> None:
        field = Settings.model_fields[name]
        about = named(field)
        self.section = about.section
        switch = field.annotation is bool
        default = default_of(field)
        shown = f" [default: {default}]" if default and not switch else ""
        help_text = " ".join(str(field.description).split())
        super().__init__(
            [f"{flag(name)}/--no-{flag(name)[2:]}" if switch else flag(name), name],
            type=bool if switch else str,
            default=None,
            metavar=None if switch else _metavar(name),
            help=f"{help_text}{shown} [env: {', '.join(about.variables)}]",
        )


def _metavar(name: str) -> str:
    values = allowed(Settings.model_fields[name])
    if "|" in values:
        return f"[{values}]"
    last = name.rpartition("_")[2].upper()
    if values.startswith("a whole number") and last != "PORT":
        return "N"
    return "NUMBER" if values.startswith("a number") else last


def settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of `Settings`; it is called with ``settings``."""

    @functools.wraps(command)
    def called(*args: Any, config: Path | None, **values: Any) -> Any:
        flags = {n: values.pop(n) for n in Settings.model_fields}
        given = {name: value for name, value in flags.items() if value is not None}
        try:
            settings = read(given, os.environ, config)
        except BadSettings as wrong:
            raise click.UsageError(str(wrong)) from None
        return command(*args, settings=settings, **values)

    wrapped: Callable[..., Any] = called
    for name in reversed(Settings.model_fields):
        wrapped = _with_option(wrapped, SettingOption(name))
    return click.option(
        "--config",
        envvar=CONFIG_VARIABLE,
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="TOML file of settings, by their flags' names. A flag or a variable goes before it. "
        f"[env: {CONFIG_VARIABLE}]",
    )(wrapped)


def _with_option(command: Any, option: click.Option) -> Any:
    """As click's own decorators keep the options of a command that is not made yet."""
    command.__dict__.setdefault("__click_params__", []).append(option)
    return command
