"""A child process that does what a test tells it, a statement or an expression at a time."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]
_START = "from tests.kit.peer_process import main; main()"


class PeerError(Exception):
    """The child raised; the text begins with the exception's name."""


class Peer:
    """The parent's end. What the child prints goes to the parent's stderr."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV_"))}
        given = {**inherited, **(environment or {})}
        python_path = os.pathsep.join([str(ROOT), given.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-W",
                "error",
                "-c",
                "from tests.kit.peer_process import main; main()",
            ],
            env={**given, "PYTHONPATH": python_path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def run(self, source: str, **names: Any) -> Any:
        """Execute statements, with these names set before; gives the value of a last expression."""
        self.start(source, **names)
        return self.result()

    def start(self, source: str, **names: Any) -> None:
        """As `run`, without waiting for the `result`."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([source, names]).encode() + b"\n")
        self.process.stdin.flush()

    def result(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise PeerError(f"ended with {self.process.wait()}")
        value, error = json.loads(line)
        if error is not None:
            raise PeerError(error)
        return value

    def kill(self) -> None:
        """SIGKILL, while it does whatever it does."""
        self.process.kill()
        self.close()

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has died, with something unread
            self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def main() -> None:
    """The child's end."""
    names: dict[str, Any] = {}
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what it prints is not an answer
        for line in sys.stdin:
            source, given = json.loads(line)
            names.update(given)
            value = error = None
            try:
                value = _run(source, names)
            except Exception as raised:
                error = f"{type(raised).__name__}: {raised}"
            print(json.dumps([value, error], default=repr), file=answers, flush=True)


def _run(source: str, names: dict[str, Any]) -> Any:
    body = ast.parse(source, "<peer>").body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "<peer>", "exec"), names)
    return eval(compile(ast.Expression(last.value), "<peer>", "eval"), names) if last else None
