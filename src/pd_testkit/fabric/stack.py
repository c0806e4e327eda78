"""Where the caller was: cheap to take, resolved to source lines only when shown."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import FrameType

_DEPTH = 24
_OWN = str(Path(__file__).parent)

Frame = tuple[str, int, str]


class Stack(tuple[Frame, ...]):
    """(file, line, function) of each frame, the innermost first; the fabric's own are left out."""

    __slots__ = ()

    def __str__(self) -> str:
        frames = [(file, line, function, None) for file, line, function in reversed(self)]
        return "".join(traceback.StackSummary.from_list(frames).format()).rstrip()


_caller: ContextVar[Stack | None] = ContextVar("pd-testkit caller", default=None)


@contextmanager
def called_from(stack: Stack) -> Iterator[None]:
    """Within it the fabric is called on behalf of another process, whose stack this is."""
    token = _caller.set(stack)
    try:
        yield
    finally:
        _caller.reset(token)


def here() -> Stack:
    """The stack of whoever called into the fabric."""
    if (stack := _caller.get()) is not None:
        return stack
    frames: list[Frame] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and len(frames) < _DEPTH:
        code = frame.f_code
        if not code.co_filename.startswith(_OWN):
            frames.append((code.co_filename, frame.f_lineno, code.co_name))
        frame = frame.f_back
    return Stack(frames)


class Stacks:
    """Equal stacks are kept once, under a number; -1 stands for none."""

    def __init__(self) -> None:
        self._numbers: dict[Stack, int] = {}
        self._stacks: list[Stack] = []

    def here(self) -> int:
        """The number of the stack of whoever called into the fabric."""
        stack = here()
        number = self._numbers.setdefault(stack, len(self._stacks))
        if number == len(self._stacks):
            self._stacks.append(stack)
        return number

    def __getitem__(self, number: int) -> Stack:
        return self._stacks[number] if number >= 0 else Stack()
