"""What is run to bring a deployment up, and how each part is seen to be ready."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["prefill", "decode", "router"]


@dataclass(frozen=True)
class Probe:
    """A ``GET``, and what its answer must be: status 200, and all of `values` in `field`.

    Attributes:
        field: where in the JSON body the values are, such as ``data[].id``: a name per level, with
            ``[]`` after one that is a list. Empty: the body does not matter.
        values: what must be there, each of them; the order, and what else is there, do not matter.
    """

    url: str
    field: str = ""
    values: tuple[str, ...] = ()

    def missing(self, status: int, body: bytes) -> str | None:
        """What the answer lacks, in a few words; None if nothing."""
        if status != 200:
            return f"{self.url} answers {status}"
        if not self.field:
            return None
        try:
            found = list(_walk(json.loads(body), self.field.split(".")))
        except (ValueError, TypeError, KeyError):
            return f"{self.url} has no {self.field}"
        lacking = [value for value in self.values if value not in found]
        return f"{self.url} does not list {', '.join(lacking)}" if lacking else None

    def __str__(self) -> str:
        wanted = f" with {self.field} {', '.join(self.values)}" if self.field else ""
        return f"GET {self.url} is 200{wanted}"


def _walk(value: Any, steps: list[str]) -> Iterator[Any]:
    if not steps:
        yield value
        return
    name = steps[0].removesuffix("[]")
    inner = value[name] if name else value
    for item in inner if steps[0].endswith("[]") else [inner]:
        yield from _walk(item, steps[1:])


@dataclass(frozen=True)
class Readiness:
    """A process is ready when all probes have what they look for, at the same time or not.

    Attributes:
        deadline_s: seconds after the process's start.
        headers: that the probes are sent with. They may have a secret: never shown.
    """

    probes: tuple[Probe, ...]
    deadline_s: float
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Process:
    """A command that runs until it is told to end.

    Attributes:
        name: of it and its log, such as ``prefill-0``.
        role: what it is in the deployment.
        url: where it serves.
        env: variables that are set on top of the environment that the stack is started in.
        secrets: further ones, whose values are never shown.
        gpus: of its machine, by index or UUID; they are in `env` or `argv` already.
        ports: all that it binds on its machine.
        depends: names of the processes that must be ready before it starts.
        clean_up: commands that remove what may outlive the process. What they remove may be gone
            already: that is no failure.
    """

    name: str
    role: Role
    argv: tuple[str, ...]
    url: str
    ready: Readiness
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    gpus: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    depends: tuple[str, ...] = ()
    clean_up: tuple[tuple[str, ...], ...] = ()

    @property
    def log(self) -> str:
        """The log's file name."""
        return f"{self.name}.log"


@dataclass(frozen=True)
class Step:
    """A command that ends by itself, ahead of the processes, and the one that takes it back.

    Attributes:
        undo: is run last of all, and only if `argv` succeeded; empty: nothing to take back.
    """

    argv: tuple[str, ...]
    undo: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A whole deployment.

    Attributes:
        steps: run first, in order; undone in reverse order, after all processes have ended.
        processes: in the order of their start: those that do not depend on each other may start at
            once. They are ended in reverse order.
        model: what clients call it.
        url: where the deployment serves: the router's.
        client_secrets: for the environment of commands that are run against the deployment.
    """

    processes: tuple[Process, ...]
    model: str
    url: str
    steps: tuple[Step, ...] = ()
    client_secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
