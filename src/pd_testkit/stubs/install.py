"""Puts stubs into ``sys.modules`` and takes them out again, with all that was imported meanwhile."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pd_testkit.stubs.strict import RecordingModule, StrictModule, StubFinder, touched

if TYPE_CHECKING:
    from pd_testkit.fabric import Fabric

_BUILDERS = {
    "aiter": "pd_testkit.stubs.aiter",
    "mori": "pd_testkit.stubs.mori",
    "torch.distributed": "pd_testkit.stubs.torch_distributed",
    "triton": "pd_testkit.stubs.triton",
    "zmq": "pd_testkit.stubs.zmq",
}


class StubContext:
    """What the stubs of one installation share; given to each builder's ``build(context)``.

    ``closing`` is closed when the installation ends: a stub that takes a resource (a thread,
    shared memory) pushes its release there.
    """

    def __init__(self, fabric: Fabric | None = None) -> None:
        self._fabric = fabric
        self.closing = ExitStack()

    @property
    def fabric(self) -> Fabric:
        """The fabric that mori moves bytes on; made at first use."""
        if self._fabric is None:
            from pd_testkit.fabric import Fabric

            self._fabric = Fabric()
        return self._fabric


class Installation:
    """Stubs that are in place."""

    def __init__(self, context: StubContext, modules: dict[str, ModuleType], real: tuple[str, ...]):
        self.context = context
        self.modules = modules
        self.real = real

    @property
    def fabric(self) -> Fabric:
        return self.context.fabric

    @property
    def touched(self) -> dict[str, set[str]]:
        return {name: seen for name, module in self.modules.items() if (seen := touched(module))}

    def uninstall(self) -> None:
        raise RuntimeError("skeleton")


def available() -> tuple[str, ...]:
    """The names that `install` knows."""
    return tuple(sorted(_BUILDERS))


def install(
    *names: str, replace: bool = False, record: bool = False, fabric: Fabric | None = None
) -> Installation:
    raise RuntimeError("skeleton")


@contextmanager
def installed(
    *names: str, replace: bool = False, record: bool = False, fabric: Fabric | None = None
) -> Iterator[Installation]:
    """`install` for a ``with`` block."""
    active = install(*names, replace=replace, record=record, fabric=fabric)
    try:
        yield active
    finally:
        active.uninstall()


def extend(module: str, /, **attributes: Any) -> None:
    raise RuntimeError("skeleton")
