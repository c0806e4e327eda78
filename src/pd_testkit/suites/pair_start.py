"""How the pair clauses come to a running pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pytest

from pd_testkit.contract import Target, WorkerSpec
from pd_testkit.suites.base import Suite
from pd_testkit.suites.hosts import apart
from pd_testkit.suites.pair_run import Run


def spec(**fields: Any) -> WorkerSpec:
    """Workers with more patience than a slow machine needs."""
    return WorkerSpec(**{"patience_s": 30.0} | fields)


class PairBase(Suite):
    """A fabric, and workers on it."""

    @pytest.fixture
    def start(
        self, make: Callable[..., Any], target: Target, deadline_s: float
    ) -> Callable[..., Run]:
        """``start(prefill, decode)``: P engines (one spec or several, each on a host of its own)
        and D on a fresh fabric.

        ``mode`` and ``faults`` as for a pair and a fabric; the rest are `FabricOptions`.
        """
        from pd_testkit.fabric import Fabric, FabricOptions

        def start(
            prefill: WorkerSpec | Sequence[WorkerSpec],
            decode: WorkerSpec,
            *,
            mode: str = "read",
            faults: Sequence[Any] = (),
            seed: int = 0,
            **options: Any,
        ) -> Run:
            producers = apart([prefill] if isinstance(prefill, WorkerSpec) else prefill)
            fabric = Fabric(FabricOptions(**options), faults, seed)
            pair = make(producers, decode, mode=mode, fabric=fabric)
            reports = target.capabilities.failure_reporting
            return Run(pair, fabric, producers, decode, reports, deadline_s)

        return start

    @pytest.fixture
    def net(self) -> ModuleType:
        """`pd_testkit.fabric`, for its faults; imported where it is needed."""
        import pd_testkit.fabric

        return pd_testkit.fabric
