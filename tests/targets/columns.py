"""The columns of the conformance table: what is run, where, and for how long at most."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tests.targets.environments import ENVIRONMENTS, Environment


@dataclass(frozen=True)
class Column:
    """One target as it is run.

    Attributes:
        name: how to ask for it, and its files' name.
        arguments: pytest's, to choose it.
        environment: where it is installed; None for the environment that runs the stage.
        limit_s: real seconds after which it is ended and has failed.
    """

    name: str
    arguments: tuple[str, ...]
    environment: Environment | None
    limit_s: float = 900.0


def _vllm(variant: str) -> Column:
    return Column(f"vllm-{variant}", ("--pd-target", f"vllm:{variant}"), ENVIRONMENTS["vllm"])


def _sglang(variant: str) -> Column:
    return Column(f"sglang-{variant}", ("--pd-target", f"sglang:{variant}"), ENVIRONMENTS["sglang"])


def _router(name: str) -> Column:
    arguments = ("--pd-target", "router", "--pd-router", name)
    return Column(name, arguments, ENVIRONMENTS["routers"])


PACKAGES = (
    Column("reference", ("--pd-target", "reference"), None),
    *map(_vllm, ("nixl", "mooncake", "moriio", "moriio-write", "multi", "offloading", "example")),
    *map(_sglang, ("mori", "nixl", "mooncake")),
    *map(_router, ("vllm-router", "vllm-router-discovery", "sglang-router")),
)
"""What comes from a package index."""


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
