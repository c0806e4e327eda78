"""What the clauses on a pair take from their target: its geometry, its patience, its mode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pd_testkit.contract import Target, WorkerSpec

PATIENCE_S = 30.0
"""Of D's workers, where no clause waits it out: more than a slow machine needs."""

Specs = Callable[..., WorkerSpec]


class PairTarget:
    """Gives a suite the specs that its target can be built for."""

    @pytest.fixture
    def spec(self, target: Target) -> Specs:
        """``spec(**fields)``: the target's workers, but for these fields."""
        return _specs(target, target.worker_spec)

    @pytest.fixture
    def latent(self, target: Target) -> Specs:
        """As `spec`, of workers with latent caches (MLA)."""
        return _specs(target, target.latent_spec)

    @pytest.fixture
    def mode(self, target: Target) -> str:
        """How the KV moves in clauses that hold for either mode."""
        return "read" if target.capabilities.read_mode else "write"

    @pytest.fixture
    def ranks(self, target: Target) -> int:
        """The TP size for clauses on what each worker says: several workers where there can be."""
        return 2 if target.capabilities.tp else 1


def _specs(target: Target, base: WorkerSpec) -> Specs:
    def spec(*, patience_s: float = PATIENCE_S, **fields: Any) -> WorkerSpec:
        return replace(base, patience_s=max(patience_s, target.least_patience_s), **fields)

    return spec
