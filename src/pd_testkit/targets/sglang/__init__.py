"""SGLang as a target: its own managers, senders, receivers and bootstrap server, as installed.

What imports SGLang runs in a child, from which each driver's engines are forked.
"""

from __future__ import annotations

import importlib.metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING

from pd_testkit.contract import Capabilities, Target, TargetError, WorkerSpec, drivers
from pd_testkit.stubs import child_environment
from pd_testkit.targets.process import Children
from pd_testkit.targets.sglang.backends import BACKENDS, COMMON, Backend
from pd_testkit.targets.sglang.known import known_failures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pd_testkit.fabric import Fabric
    from pd_testkit.targets.choice import Choice

__all__ = ["SglangTarget", "target"]


class SglangTarget(Target):
    """One transfer backend of the SGLang that is installed."""

    least_patience_s = 1.0
    """Its timeouts are whole seconds."""
    reaction_s = 2.0
    """P's transfer worker looks up from mori's `wait_all` once a second."""

    def __init__(self, backend: Backend) -> None:
        self.name = f"sglang:{backend.name}"
        self.capabilities = Capabilities(
            write_mode=True,
            mla=True,
            failure_reporting=True,
            abort=True,
            suffix_loads=True,
            worker_restart=True,
            fabric=backend.fabric,
        )
        self.known_failures = known_failures(backend.name)
        self.units = backend.units
        self._backend = backend
        stubs = child_environment("mori") if backend.fabric else {}
        conn = f"sglang.srt.disaggregation.{backend.name}.conn"
        self._children = Children(
            {**COMMON, **backend.environment, **stubs},
            imports=[f"{__name__}.imported", conn, *backend.modules, f"{__name__}.room_side"],
        )

    def version(self) -> str:
        return importlib.metadata.version("sglang")

    def close(self) -> None:
        self._children.close()

    def rooms(
        self, prefill: WorkerSpec, decode: WorkerSpec, *, fabric: Fabric | None = None
    ) -> drivers.Rooms:
        from pd_testkit.fabric import Fabric
        from pd_testkit.targets.sglang.rooms import RoomsDriver

        if fabric is None and self._backend.fabric:
            fabric = Fabric()
        return RoomsDriver(self._backend.name, prefill, decode, self._children.new, fabric)

    def pair(
        self,
        prefill: Sequence[WorkerSpec],
        decode: WorkerSpec,
        *,
        mode: str = "write",
        fabric: Fabric | None = None,
    ) -> drivers.Pair:
        from pd_testkit.fabric import Fabric
        from pd_testkit.targets.sglang.pair import PairDriver

        if fabric is None and self._backend.fabric:
            fabric = Fabric()
        return PairDriver(self._backend.name, prefill, decode, mode, self._children.new, fabric)


def target(choice: Choice) -> Target:
    """The target of ``--pd-target sglang[:BACKEND]``.

    Raises:
        TargetError: SGLang, or a package that the backend needs, is missing.
    """
    choice.takes(variants=tuple(BACKENDS))
    backend = BACKENDS[choice.variant or next(iter(BACKENDS))]
    if find_spec("sglang") is None:
        raise TargetError(
            "SGLang is not installed here: pip install --no-deps sglang==0.5.23, and what "
            "docs/targets-sglang.md names beside it"
        )
    for module, packages in backend.packages.items():
        if find_spec(module) is None:
            raise TargetError(f"sglang:{backend.name} needs {module}: pip install {packages}")
    return SglangTarget(backend)
