"""Options that take several numbers, as in ``--prompt-lengths 100 500 1000``.

Click's take one value each time that they are named, which works here as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from pd_testkit.command_line import Command


class Several(click.Option):
    """A tuple of whole numbers, at least 1 each."""

    def __init__(self, declarations: Sequence[str], **attributes: Any) -> None:
        attributes |= {"multiple": True, "type": click.IntRange(min=1), "metavar": "N [N]..."}
        super().__init__(declarations, **attributes)


class SeveralCommand(Command):
    """Whose options may be `Several`: numbers that follow one of them are its own."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        flags = {flag for each in self.params if isinstance(each, Several) for flag in each.opts}
        told: list[str] = []
        flag = ""
        for word in args:
            if flag and word.isdecimal() and told[-1] != flag:
                told.append(flag)
            elif word in flags:
                flag = word
            elif not word.isdecimal():
                flag = ""
            told.append(word)
        return super().parse_args(context, told)
