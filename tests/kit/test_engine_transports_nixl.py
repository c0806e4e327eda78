"""What the transport makes of NIXL's answers, in the order in which a busy NIXL gives them.

NIXL is scripted here, so this needs none: what it does by itself is asked of it in
test_engine_transports.
"""

from __future__ import annotations

import base64
import sys
import threading
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pd_testkit.engine.transports import open_transport
from pd_testkit.fabric import RegionHandle, Status

WAIT_S = 30.0


class _Handle:
    """A transfer in NIXL's hands."""

    state = "PROC"

    def release(self) -> None:
        """Nothing is kept."""


class _Agent:
    """NIXL's agent, of one peer; its transfers end when they are told to."""

    def __init__(self, name: str, config: object) -> None:
        self.backends = {"UCX": object()}
        self.transfers: list[_Handle] = []

    def register_memory(self, described: object, kind: str) -> object:
        return described

    def deregister_memory(self, registered: object) -> None:
        """Nothing is kept."""

    def get_partial_agent_metadata(self, *args: object) -> bytes:
        return b"metadata"

    def add_remote_agent(self, metadata: bytes) -> bytes:
        return b"there"

    def remove_remote_agent(self, peer: str) -> None:
        """It was known."""

    def get_xfer_descs(self, rows: object, kind: str) -> object:
        return rows

    def initialize_xfer(self, *args: object) -> _Handle:
        self.transfers.append(_Handle())
        return self.transfers[-1]

    def transfer(self, handle: _Handle, note: bytes) -> str:
        return handle.state

    def check_xfer_state(self, handle: _Handle) -> str:
        return handle.state

    def get_new_notifs(self) -> dict[str, list[bytes]]:
        return {}


@pytest.fixture
def agents(monkeypatch: pytest.MonkeyPatch) -> list[_Agent]:
    """Those that the transport makes."""
    made: list[_Agent] = []

    def agent(name: str, config: object) -> _Agent:
        made.append(_Agent(name, config))
        return made[-1]

    nixl: Any = ModuleType("nixl")
    nixl.nixl_agent = agent
    nixl.nixl_agent_config = lambda **settings: settings
    monkeypatch.setitem(sys.modules, "nixl", nixl)
    for name in ("UCX_LOG_FILE", "UCX_NET_DEVICES", "UCX_MODULES"):
        monkeypatch.setenv(name, "")  # the transport's own go with the test
    return made


@pytest.fixture
def ended(agents: list[_Agent]) -> Iterator[tuple[Any, threading.Event]]:
    """A transport, and what it wakes."""
    woken = threading.Event()
    transport = open_transport("nixl", "here", patience_s=WAIT_S, wake=woken.set)
    try:
        yield transport, woken
    finally:
        transport.close()


@pytest.mark.parametrize("kind", ["read", "write"])
@pytest.mark.parametrize("first", [0, 1, 2])
def test_transfers_end_in_any_order(
    agents: list[_Agent], ended: tuple[Any, threading.Event], kind: str, first: int
) -> None:
    transport, woken = ended
    [agent] = agents
    region = transport.register(np.zeros(4096, np.uint8))
    there = RegionHandle("there", 1, 1, 0, 4096, base64.b64encode(b"metadata").decode())
    session = transport.session(region, there)
    counts = (612, 786, 612)  # batches of several shapes, two of them alike
    transfers = [
        getattr(session, kind)(np.arange(n), np.arange(n), np.ones(n, np.int64)) for n in counts
    ]
    assert [each.status for each in transfers] == [Status.IN_PROGRESS] * 3
    order = [first, *({0, 1, 2} - {first})]
    for done, at in enumerate(order, 1):
        agent.transfers[at].state = "DONE"
        _until(lambda at=at: transfers[at].status.done, woken)
        ends = [transfers[each].status for each in order]
        assert ends == [Status.SUCCESS] * done + [Status.IN_PROGRESS] * (3 - done)
    assert transport.tally.transfers == 3


def _until(done: Any, woken: threading.Event) -> None:
    deadline = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < deadline, "the transport does not go on"
        woken.wait(0.1)
        woken.clear()
