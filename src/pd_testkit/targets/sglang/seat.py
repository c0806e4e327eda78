"""One engine's process and its shared memory, as the test's process knows them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pd_testkit.contract import WorkerSpec
from pd_testkit.fabric.shared_memory import SharedMemory
from pd_testkit.targets.process import Child
from pd_testkit.targets.sglang.memory import aux_views, cache_views, size

if TYPE_CHECKING:
    import numpy.typing as npt

_T = TypeVar("_T")
Forks = Callable[[str], Child]
"""Gives a new process of that name."""


class Seat(Generic[_T]):
    """An engine's place: who sits there may die and come back, with new memory.

    Args:
        speaks: the Protocol of its side.
        side: the side's class, of `pd_testkit.targets.sglang.room_side`.
        environment: of its process.

    Attributes:
        side: a stand-in for it.
    """

    side: _T

    def __init__(
        self,
        speaks: type[_T],
        side: str,
        backend: str,
        spec: WorkerSpec,
        fork: Forks,
        environment: Mapping[str, str],
    ) -> None:
        self.spec = spec
        self._speaks = speaks
        self._factory = f"{__package__}.room_side:{side}"
        self._name = f"{side} over {backend}"
        self._backend = backend
        self._fork = fork
        self._environment = dict(environment)
        self._memory: SharedMemory | None = None
        self._process: Child | None = None

    @property
    def cache(self) -> Mapping[str, npt.NDArray[Any]]:
        """As `pd_testkit.contract.Pair.cache`."""
        return cache_views(self._present(self._memory).array, self.spec)

    @property
    def aux(self) -> tuple[npt.NDArray[Any], ...]:
        """(slot, byte) each."""
        return aux_views(self._present(self._memory).array)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.alive

    def start(self, port: int) -> _T:
        """With new memory; ``port`` as `pd_testkit.targets.sglang.engine.Engine`."""
        self.end()
        self._memory = SharedMemory(size(self.spec))
        self._process = self._fork(self._name)
        self.side = self._process.make(
            self._speaks,
            self._factory,
            backend=self._backend,
            spec=self.spec,
            memory=self._memory.path,
            port=port,
            environment=self._environment,
        )
        return self.side

    def kill(self) -> None:
        """Its process dies. Its memory stays as it was, for who looks at it from outside."""
        if self._process is not None:
            self._process.kill()

    def end(self) -> None:
        """Nothing of it stays. Harmless twice."""
        if self._process is not None:
            self._process.kill()
            self._process.close()
        if self._memory is not None:
            self._memory.close()

    def cpu_seconds(self) -> float:
        """CPU time that the process has used."""
        stat = Path(f"/proc/{self._present(self._process).pid}/stat").read_text()
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    @staticmethod
    def _present(thing: Any) -> Any:
        if thing is None:
            raise RuntimeError("the engine has not been started")
        return thing
