"""pyzmq in memory, on a virtual clock: for L1 tests, when asked for.

Contexts, the classic socket types, pollers and ``zmq.asyncio`` behave as pyzmq's do (``tests/kit``
compares them), without a port, a thread or a wait. Other than in a real network a connection and
a message take no time, ports are given out in order, a ROUTER numbers its peers from 1, and
`send_pyobj` is refused. Timeouts run on the installation's clock: see `waiting`.

    with stubs.installed("zmq", replace=True) as active:
        network = pd_testkit.stubs.zmq.network()
        network.faults.drop(when=lambda parts, endpoint: parts[-1] == b"done")
        network.disconnect("tcp://127.0.0.1:6301")
        network.clock.advance(1.5)      # seconds
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from pd_testkit.stubs.strict import StrictModule
from pd_testkit.stubs.zmq import aio, constants, error
from pd_testkit.stubs.zmq.context import Context, Poller
from pd_testkit.stubs.zmq.message import Frame, MessageTracker
from pd_testkit.stubs.zmq.network import Network
from pd_testkit.stubs.zmq.socket import Socket

__all__ = ["Network", "build", "network"]

_networks: WeakKeyDictionary[ModuleType, Network] = WeakKeyDictionary()


def network(module: ModuleType | None = None) -> Network:
    """The network of ``module``, by default of the ``zmq`` stub that is installed."""
    found = sys.modules.get("zmq") if module is None else module
    if found is None or found not in _networks:
        raise RuntimeError(
            'the stub of zmq is not installed; use pd_testkit.stubs.installed("zmq", replace=True)'
        )
    return _networks[found]


def build(context: Any) -> dict[str, ModuleType]:
    """The modules of one installation, with a network of their own on its fabric's clock."""
    net = Network(context.clock)
    numbers = constants.names()
    exceptions = {kind.__name__: kind for kind in error.EXCEPTIONS}
    enums = {enum.__name__: enum for enum in constants.ENUMS}

    def zmq_version() -> str:
        return "4.3.5"

    def zmq_version_info() -> tuple[int, int, int]:
        return (4, 3, 5)

    sync_context = Context._on(net, "zmq")
    async_context = aio.Context._on(net, "zmq.asyncio")
    error_module = StrictModule("zmq.error", None, **exceptions)
    constants_module = StrictModule("zmq.constants", None, **enums, **numbers)
    asyncio_module = StrictModule(
        "zmq.asyncio", None, Context=async_context, Poller=aio.Poller, Socket=aio.Socket
    )
    root = StrictModule(
        "zmq",
        None,
        **enums,
        **numbers,
        **exceptions,
        COPY_THRESHOLD=constants.COPY_THRESHOLD,
        Context=sync_context,
        Frame=Frame,
        Message=Frame,
        MessageTracker=MessageTracker,
        Poller=Poller,
        Socket=Socket,
        strerror=error.strerror,
        zmq_version=zmq_version,
        zmq_version_info=zmq_version_info,
        asyncio=asyncio_module,
        constants=constants_module,
        error=error_module,
    )
    _networks[root] = net
    context.closing.callback(net.shut_down)
    return {
        "zmq": root,
        "zmq.asyncio": asyncio_module,
        "zmq.constants": constants_module,
        "zmq.error": error_module,
    }
