"""Puts stubs into ``sys.modules`` and takes them out again, with what was imported meanwhile."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from pd_testkit.stubs.snapshot import SITE_PACKAGES, ModuleSnapshot, hide
from pd_testkit.stubs.strict import (
    StrictModule,
    StubFinder,
    missing,
    record_touches,
    touched,
)

if TYPE_CHECKING:
    from pd_testkit.fabric import Fabric, VirtualClock
    from pd_testkit.fabric.remote import RemoteFabric
    from pd_testkit.fabric.served import FabricServer
    from pd_testkit.stubs.aiter_parallel import ParallelState

_T = TypeVar("_T")

_BUILDERS = {
    "aiter": "pd_testkit.stubs.aiter",
    "mori": "pd_testkit.stubs.mori",
    "torch.distributed": "pd_testkit.stubs.torch_distributed",
    "triton": "pd_testkit.stubs.triton",
    "zmq": "pd_testkit.stubs.zmq",
}
"""The module that builds each stub with its ``build(context) -> {module name: module}``."""

_ABSENT = object()
_BOOTSTRAP = Path(__file__).with_name("bootstrap")
CHILD_STUBS = "PD_TESTKIT_STUBS"
"""Environment variable: the stubs that a child process installs when it starts, by commas."""
CHILD_FABRIC = "PD_TESTKIT_FABRIC"
"""Environment variable: the address of the fabric that a child process uses."""

_stack: list[Installation] = []
_extensions: list[tuple[str, dict[str, Any]]] = []


class StubContext:
    """What the stubs of one installation share; given to each builder's ``build(context)``.

    ``closing`` is closed when the installation ends: a stub that takes a resource (a socket,
    shared memory) pushes its release there.
    """

    def __init__(self, fabric: Fabric | None = None) -> None:
        self._fabric: Fabric | RemoteFabric | None = fabric
        self._made: dict[str, Any] = {}
        self.closing = ExitStack()

    @property
    def fabric(self) -> Fabric | RemoteFabric:
        """The fabric that mori moves bytes on: that of the parent process, where it serves one;
        else one of this process, made at first use."""
        if self._fabric is None:
            if address := os.environ.get(CHILD_FABRIC):
                from pd_testkit.fabric.remote import RemoteFabric

                self._fabric = RemoteFabric(address)
                self.closing.callback(self._fabric.close)
            else:
                from pd_testkit.fabric import Fabric

                self._fabric = Fabric()
        return self._fabric

    @property
    def clock(self) -> VirtualClock:
        """The fabric's, where that is of this process; else one of its own."""
        from pd_testkit.fabric import Fabric, VirtualClock

        fabric = self.fabric
        return fabric.clock if isinstance(fabric, Fabric) else self.once("clock", VirtualClock)

    @contextmanager
    def on(self, fabric: Fabric) -> Iterator[None]:
        """Within it `fabric` is this one. What is made meanwhile stays on it."""
        before, self._fabric = self._fabric, fabric
        try:
            yield
        finally:
            self._fabric = before

    @property
    def parallel(self) -> ParallelState:
        """The ranks and sizes that aiter's parallel groups answer with."""
        from pd_testkit.stubs.aiter_parallel import ParallelState

        return self.once("aiter.parallel", ParallelState)

    def once(self, name: str, make: Callable[[], _T]) -> _T:
        """What ``make`` gives, called for the first caller of ``name`` only."""
        if name not in self._made:
            self._made[name] = make()
        found: _T = self._made[name]
        return found


class Installation:
    """Stubs that are in place; ends with `uninstall`, the latest installation first."""

    def __init__(
        self, names: tuple[str, ...], *, replace: bool, record: bool, fabric: Fabric | None
    ) -> None:
        self._snapshot = ModuleSnapshot()
        self.names = names
        self.context = StubContext(fabric)
        self.real = () if replace else tuple(name for name in names if _is_real(name))
        """The names of which the real package is there and was not replaced."""
        self.kept: tuple[str, ...] = ()
        """After `uninstall`: the modules imported meanwhile that stay, see `snapshot`."""
        self.modules: dict[str, ModuleType] = {}
        """The stub modules by their full names."""
        self._record = record
        outer = _stack[-1]._extensions if _stack else _extensions
        self._extensions: list[tuple[str, dict[str, Any]]] = list(outer)
        self._attributes: list[tuple[ModuleType, str, Any]] = []
        self._finder: StubFinder | None = None
        self._server: FabricServer | None = None
        self._active = False

    @property
    def fabric(self) -> Fabric:
        """The fabric that mori moves bytes on.

        Raises:
            RuntimeError: it is the parent process's, who rules it.
        """
        from pd_testkit.fabric import Fabric

        fabric = self.context.fabric
        if isinstance(fabric, Fabric):
            return fabric
        raise RuntimeError(f"the fabric at {fabric.address} is another process's")

    def serve(self) -> FabricServer:
        """Serves `fabric` to the processes started with `child_env`, until `uninstall`: mori's
        engines there move bytes on it too, between processes.

        A second time gives the same server.
        """
        from pd_testkit.fabric.served import FabricServer

        if self._server is None:
            self._server = self.context.closing.enter_context(FabricServer(self.fabric))
        return self._server

    def on(self, fabric: Fabric) -> AbstractContextManager[None]:
        """mori's engines that are made within it move bytes on ``fabric``, and stay there.

        For one test's engines, where the installation spans many tests.
        """
        return self.context.on(fabric)

    def parallel(self, **ranks: int) -> None:
        """Sets this process's place in aiter's parallel groups, as `ParallelState.set` does.

        ``parallel(tp_rank=1, tp_size=2)``; what isn't named keeps its value.
        """
        self.context.parallel.set(**ranks)

    @property
    def touched(self) -> dict[str, set[str]]:
        """With ``record=True``: the attributes asked of each stub module, had or missing."""
        return {name: seen for name, module in self.modules.items() if (seen := touched(module))}

    @property
    def missing(self) -> dict[str, set[str]]:
        """The part of `touched` that the stubs lack: what to give to `extend`."""
        return {name: lack for name, module in self.modules.items() if (lack := missing(module))}

    def child_env(self) -> dict[str, str]:
        """Environment variables with which a spawned Python process starts with the same stubs.

        Merge them into the child's environment (``subprocess``), or set them in ``os.environ``
        while ``multiprocessing`` spawns. The child has its own parallel groups, and its own fabric
        unless this one's is served; what `extend` added here isn't there.
        """
        stubbed = [name for name in self.names if name not in self.real]
        return child_environment(
            *stubbed, fabric=None if self._server is None else self._server.address
        )

    def extend(self, module: str, /, **attributes: Any) -> None:
        """Adds attributes to the stub ``module``, and the module itself where it is missing."""
        self._add(module).__dict__.update(attributes)
        self._extensions.append((module, attributes))

    def uninstall(self) -> None:
        """Puts back what was there; does nothing the second time.

        Raises:
            RuntimeError: a later installation is still in place.
        """
        if not self._active:
            return
        if _stack[-1] is not self:
            raise RuntimeError("uninstall the stubs that were installed later first")
        _stack.pop()
        self._active = False
        try:
            self.context.closing.close()
        finally:
            self._take_out()

    def _put_in(self) -> None:
        wanted = [name for name in self.names if name not in self.real]
        for name in wanted:
            builder = importlib.import_module(_BUILDERS[name])
            self.modules.update(builder.build(self.context))
        for name, attributes in self._extensions:
            if _is_below(name, wanted):
                self._add(name).__dict__.update(attributes)
        hide(self._stale(wanted))
        for name in list(self.modules):
            self._connect(name)
        if self._record:
            record_touches(self.modules.values())
        self._finder = StubFinder(self.modules)
        sys.meta_path.insert(0, self._finder)
        _stack.append(self)
        self._active = True

    def _take_out(self) -> None:
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        for parent, child, before in reversed(self._attributes):
            if before is _ABSENT:
                vars(parent).pop(child, None)
            else:
                setattr(parent, child, before)
        self._attributes.clear()
        self.kept = self._snapshot.restore(self.modules)

    def _stale(self, roots: list[str]) -> list[str]:
        """Modules to hide: real parts below a stub, and code that holds an outer stub of a root."""
        stale = [name for name in sys.modules if _is_below(name, roots)]
        for outer in _stack:
            if not set(outer.modules).isdisjoint(roots):
                stale += outer._snapshot.holders(outer.modules)
        return stale

    def _add(self, name: str) -> ModuleType:
        if name not in self.modules:
            parent = name.rpartition(".")[0]
            self._add(parent)
            self.modules[name] = StrictModule(name)
            if self._active:
                if self._record:
                    record_touches([self.modules[name]])
                self._connect(name)
        return self.modules[name]

    def _connect(self, name: str) -> None:
        """Makes a stub importable: into ``sys.modules`` and onto its parent."""
        module = sys.modules[name] = self.modules[name]
        parent_name, _, child = name.rpartition(".")
        parent = self.modules.get(parent_name) or sys.modules.get(parent_name)
        if parent is not None:
            self._attributes.append((parent, child, vars(parent).get(child, _ABSENT)))
            setattr(parent, child, module)


def available() -> tuple[str, ...]:
    """The names that `install` knows."""
    return tuple(sorted(_BUILDERS))


def child_environment(*names: str, fabric: str | None = None) -> dict[str, str]:
    """Environment variables with which a spawned Python process starts with these stubs.

    Args:
        names: of `available`.
        fabric: address of the served fabric that mori moves bytes on; by default the child has
            one of its own.
    """
    paths = [str(_BOOTSTRAP), os.environ.get("PYTHONPATH", "")]
    if (home := _BOOTSTRAP.parents[2]) not in SITE_PACKAGES:
        paths.append(str(home))
    return {
        CHILD_STUBS: ",".join(names),
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        **({} if fabric is None else {CHILD_FABRIC: fabric}),
    }


def install(
    *names: str, replace: bool = False, record: bool = False, fabric: Fabric | None = None
) -> Installation:
    """Puts the named stubs in place until `Installation.uninstall`.

    Install before the code under test is imported: a module that was imported earlier keeps what
    it got then. ``sys.modules`` belongs to the process, so install and uninstall in one thread.

    Args:
        names: of `available`.
        replace: also where the real package is there. Without it the real one is used and
            ``Installation.real`` names it.
        record: keep ``Installation.touched``.
        fabric: the fabric that mori moves bytes on; a new one without faults by default.

    Raises:
        ValueError: an unknown name.
    """
    unknown = [name for name in names if name not in _BUILDERS]
    if unknown:
        raise ValueError(f"no stub named {', '.join(unknown)}; there are {', '.join(available())}")
    installation = Installation(names, replace=replace, record=record, fabric=fabric)
    try:
        installation._put_in()
    except BaseException:
        installation.context.closing.close()
        installation._take_out()
        raise
    return installation


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
    """Adds ``attributes`` to the stub ``module``, and the module itself where it is missing.

    While stubs are installed it adds to the latest installation, and goes with it (installations
    nested in it have it too). Before that, as at the top of a ``conftest.py``, it adds to all
    later installations of this process.

    Raises:
        ValueError: ``module`` is not below a stub (that is installed, where one is).
    """
    for active in reversed(_stack):
        if _is_below(module, active.modules):
            active.extend(module, **attributes)
            return
    roots = [name for active in _stack for name in active.names] or available()
    if _stack or not _is_below(module, roots):
        raise ValueError(f"{module!r} is not below a stub; there are {', '.join(roots)}")
    _extensions.append((module, attributes))


def _is_below(module: str, roots: Iterable[str]) -> bool:
    return any(module == root or module.startswith(f"{root}.") for root in roots)


def _is_real(name: str) -> bool:
    """Whether the real package ``name`` can be imported (an outer stub of it isn't real)."""
    if any(name in outer.modules for outer in _stack):
        return False
    package = name.partition(".")[0]  # to look for torch.distributed would import torch
    if sys.modules.get(package) is not None:
        return True
    return importlib.util.find_spec(package) is not None  # of one blocked by None: None
