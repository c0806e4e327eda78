"""What ``pd-testkit sweep bench`` goes through: cells, each a load on a deployment.

In TOML, as for the accuracy sweeps (`pd_testkit.bench.sweep.matrix`)::

    [settings]                        # of all cells
    requests = 100
    model = "tiny"

    [[matrix]]                        # all combinations of the values that are lists
    concurrency = [1, 4, 16]
    prompt_tokens = [64, 512]
    max_tokens = 32
    mode = ["pd", "ppd"]
    prefill = [1, 2]

    [[case]]                          # one cell
    concurrency = 64
    rate = 10

Those in `LOAD` are options of ``pd-testkit bench``, which gets ``bench_args`` as well; ``mode`` is
the router's, switched while it runs; ``policy`` is the router's, too. All others are settings of
``pd-testkit up``.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pd_testkit.bench.sweep import matrix as sweep_matrix
from pd_testkit.bench.sweep.matrix import Case, Settings

LOAD = frozenset(
    (
        *("arrivals", "burst", "chat", "concurrency", "duration", "exact", "max_tokens"),
        *("prefix_groups", "prefix_tokens", "prompt_tokens", "prompts", "ramp_from"),
        *("ramp_seconds", "rate", "replay", "requests", "stream", "testbed", "warm_up"),
    )
)
"""Names of options of ``pd-testkit bench`` that a cell may have."""

_SAME = {"output_tokens": "max_tokens"}


@dataclass(frozen=True)
class Cell:
    """One run of ``pd-testkit bench``.

    Attributes:
        name: unique in its sweep.
        stack: what is brought up for it: settings of ``pd-testkit up``.
        mode: of the router; empty: as it comes up.
        load: options of ``pd-testkit bench``.
        extra: more of its words.
        policy: of the router, for the tag; it is in `stack` as well.
    """

    name: str
    stack: Settings
    mode: str
    load: Settings
    extra: tuple[str, ...] = ()
    policy: str = ""

    @property
    def stack_key(self) -> str:
        """Cells of the same one can share a stack."""
        return _digest(dict(self.stack))

    @property
    def key(self) -> str:
        """Of all that makes the cell's numbers: with another load it is another cell."""
        return _digest([dict(self.stack), self.mode, dict(self.load), list(self.extra)])

    @property
    def file_name(self) -> str:
        """Of its result, without an ending."""
        return f"{re.sub(r'[^A-Za-z0-9.]+', '-', self.name).strip('-')[:80]}-{self.key}"

    @property
    def tags(self) -> dict[str, str]:
        """Of the result, so that plots can tell cells apart."""
        told = {
            "mode": self.mode,
            "prefill": str(self.stack.get("prefill", "")),
            "decode": str(self.stack.get("decode", "")),
            "policy": self.policy,
        }
        return {**{name: value for name, value in told.items() if value}, "cell": self.key}

    def on(self, endpoint: str) -> Cell:
        """The same, of a deployment that is there already.

        Raises:
            ValueError: it needs one of its own.
        """
        if self.stack:
            raise ValueError(
                f"{', '.join(self.stack)} of {self.name!r} need a stack that is brought up: leave "
                "out --endpoint"
            )
        return replace(self, stack={"endpoint": endpoint})

    def seed(self, seed: int) -> int:
        """Of the cell's prompts, other than those of the cells before: no cache must have them."""
        return int(_digest([seed, self.key])[:8], 16)

    def arguments(self, seed: int, output: Path) -> list[str]:
        """Of ``pd-testkit bench``."""
        words = [*Case(self.name, self.load).arguments, *self.extra]
        for name, value in self.tags.items():
            words += ["--tag", f"{name}={value}"]
        return [*words, "--seed", str(self.seed(seed)), "--output", str(output)]


def read(file: Path, settings: Settings) -> list[Cell]:
    """The cells of a TOML file, with these settings in addition.

    Raises:
        ValueError: it is none; says why.
    """
    return [cell(case) for case in sweep_matrix.read(file, settings)]


def cell(case: Case) -> Cell:
    """Of a case that has all settings."""
    given = {_SAME.get(name, name): value for name, value in case.settings.items()}
    mode, policy = str(given.pop("mode", "")), str(given.pop("policy", ""))
    extra = tuple(shlex.split(str(given.pop("bench_args", ""))))
    load = {name: given.pop(name) for name in sorted(LOAD & given.keys())}
    if policy:
        words = f"{given.get('router_args', '')} --policy {shlex.quote(policy)}"
        given["router_args"] = words.strip()
    return Cell(case.name, given, mode, load, extra, policy)


def by_stack(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Those of one stack together, in the order in which the first of each comes. Cells without a
    mode go first: no other cell has switched it then."""
    groups: dict[str, list[Cell]] = {}
    for each in cells:
        groups.setdefault(each.stack_key, []).append(each)
    return [sorted(group, key=lambda each: bool(each.mode)) for group in groups.values()]


def _digest(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]
