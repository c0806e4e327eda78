"""A proxy that serves, with real P and D engines behind it on loopback sockets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pd_testkit.contract import ProxyOptions, Target
from pd_testkit.suites.base import Suite
from pd_testkit.suites.flow_client import Client
from pd_testkit.suites.flow_engines import Engine, Engines


class Serving(Suite):
    """The fixtures of the suites that speak to a proxy as its clients do."""

    @pytest.fixture
    def engines(self, target: Target, deadline_s: float) -> Iterator[Engines]:
        """The engines that the test asks for, and who holds which blocks."""
        made = Engines(deadline_s, target.engine_ports)
        yield made
        made.close()

    @pytest.fixture
    def serve(self, engines: Engines, make: Callable[..., Any]) -> Iterator[Callable[..., Client]]:
        """``serve(*engines, **options)``: a proxy in front of them, and a client of it.

        One per test: an implementation may keep what it knows in a module.
        """
        clients: list[Client] = []

        def start(*behind: Engine, **options: Any) -> Client:
            instances = [each for engine in behind for each in engine.instances]
            client = Client(make(instances, ProxyOptions(**options)), engines.patience_s)
            clients.append(client)
            return client

        yield start
        for client in clients:
            client.close()
