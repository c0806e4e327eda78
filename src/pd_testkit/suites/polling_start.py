"""How the polling clauses come to running rooms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from pd_testkit.contract import Target
from pd_testkit.suites.base import Suite
from pd_testkit.suites.polling_run import Run

if TYPE_CHECKING:
    from pd_testkit.fabric import Fabric

PATIENCE_S = 30.0
"""Of both sides, where no clause waits it out: more than a slow machine needs."""
SHORT_S = 1.0
"""Where one does."""


class PollingBase(Suite):
    """Two engines, and rooms between them."""

    @pytest.fixture
    def start(
        self, make: Callable[..., Any], target: Target, deadline_s: float
    ) -> Callable[..., Run]:
        """``start()``: two engines of the target's own geometry; other fields of both by name.

        ``patience``: P's and D's, in seconds; ``fabric``: the fabric of a clause that needs one.
        """

        def start(
            *,
            patience: tuple[float, float] = (PATIENCE_S, PATIENCE_S),
            fabric: Fabric | None = None,
            latent: bool = False,
            **fields: Any,
        ) -> Run:
            base = target.latent_spec if latent else target.worker_spec
            spec = replace(base, **fields)
            prefill, decode = (
                replace(spec, patience_s=max(each, target.least_patience_s)) for each in patience
            )
            rest = {} if fabric is None else {"fabric": fabric}
            return Run(make(prefill, decode, **rest), prefill, decode, deadline_s)

        return start

    @pytest.fixture
    def short(self, target: Target) -> float:
        """A patience that a clause can wait out, in seconds."""
        return max(SHORT_S, target.least_patience_s)

    @pytest.fixture
    def net(self) -> ModuleType:
        """`pd_testkit.fabric`, for its faults; imported where it is needed."""
        import pd_testkit.fabric

        return pd_testkit.fabric

    @pytest.fixture
    def on(self, start: Callable[..., Run], net: ModuleType) -> Callable[..., tuple[Run, Fabric]]:
        """``on(*faults)``: a run over a fabric with these faults, and the fabric."""

        def on(*faults: Any, **options: Any) -> tuple[Run, Fabric]:
            fabric = net.Fabric(net.FabricOptions(poll_advances=False, **options), faults)
            return start(fabric=fabric), fabric

        return on
