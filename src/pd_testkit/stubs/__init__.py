"""Strict stand-ins for packages that need a GPU, an RDMA network or a cluster.

    with stubs.installed("aiter", "mori") as active:
        import my_connector          # imports aiter and mori.io, gets the stand-ins
        active.parallel(tp_rank=1, tp_size=2)
        ...
        active.fabric.counters       # what mori.io moved

A stand-in is never a ``MagicMock``: an attribute it does not have raises ``AttributeError`` (an
import of it ``ImportError``) that names the attribute and the call of `extend` that adds it.
Importing this package imports none of the packages that it stands for, and no numpy.
"""

from pd_testkit.stubs.install import (
    Installation,
    StubContext,
    available,
    child_environment,
    extend,
    install,
    installed,
)
from pd_testkit.stubs.strict import PlaceholderCalled, StrictModule, placeholder

__all__ = [
    "Installation",
    "PlaceholderCalled",
    "StrictModule",
    "StubContext",
    "available",
    "child_environment",
    "extend",
    "install",
    "installed",
    "placeholder",
]
