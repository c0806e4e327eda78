"""How the pair clauses come to a running pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pytest

from pd_testkit.contract import Target, WorkerSpec
from pd_testkit.suites.base import Suite
from pd_testkit.suites.hosts import apart
from pd_testkit.suites.pair_fabric import FabricRun
from pd_testkit.suites.pair_network import OwnTransport
from pd_testkit.suites.pair_run import Run
from pd_testkit.suites.pair_target import PairTarget


class PairBase(PairTarget, Suite):
    """Workers, on a fabric where the target takes one."""

    @pytest.fixture
    def start(
        self, make: Callable[..., Any], target: Target, mode: str, deadline_s: float
    ) -> Callable[..., Run]:
        """``start(prefill, decode)``: P engines (one spec or several, each on a host of its own)
        and D, on a fresh fabric or over the target's own transport.

        ``mode`` and ``faults`` as for a pair and a fabric; the rest are `FabricOptions`, for
        clauses that need a fabric.
        """
        from pd_testkit.fabric import Fabric, FabricOptions

        its_mode, can = mode, target.capabilities

        def start(
            prefill: WorkerSpec | Sequence[WorkerSpec],
            decode: WorkerSpec,
            *,
            mode: str = its_mode,
            faults: Sequence[Any] = (),
            seed: int = 0,
            **options: Any,
        ) -> Run:
            producers = apart([prefill] if isinstance(prefill, WorkerSpec) else prefill)
            if not can.fabric:
                pair = make(producers, decode, mode=mode)
                return Run(pair, OwnTransport(), producers, decode, can, deadline_s)
            fabric = Fabric(FabricOptions(**options), faults, seed)
            pair = make(producers, decode, mode=mode, fabric=fabric)
            return FabricRun(pair, fabric, producers, decode, can, deadline_s, target.reaction_s)

        return start

    @pytest.fixture
    def net(self) -> ModuleType:
        """`pd_testkit.fabric`, for its faults; imported where it is needed."""
        import pd_testkit.fabric

        return pd_testkit.fabric
