"""The engine's heartbeats to routers.

A router that is away, or that comes back, is no error: it hears of the engine as soon as it is
reached. The messages are those of `pd_testkit.proxy.registration`; an engine with a ZMQ address
(P2P-NCCL, MoRIIO) says them in vLLM's form, else in ATOM's.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from pd_testkit.engine.faults import Faults
from pd_testkit.proxy.discovery import Registrar
from pd_testkit.proxy.instances import Engine, Leg

FAULT = "stop-heartbeats"


def records(
    role: str,
    *,
    host: str,
    port: int,
    side_channel_port: int,
    protocol: str,
    writes: bool,
    tp_size: int,
    dp_size: int,
) -> tuple[Engine, ...]:
    """How routers shall know the engine: once per leg that it takes.

    Args:
        role: of `pd_testkit.engine.settings.ROLES`.
        host, port: of its HTTP server.
        side_channel_port: of DP rank 0's TP rank 0.
        protocol: of `pd_testkit.engine.wire.PROTOCOLS`.
    """
    bracketed = f"[{host}]" if ":" in host else host
    zmq_address = {
        "p2p_nccl": f"{bracketed}:{side_channel_port}",
        # MoRIIO's workers are told of transfers' ends at another port; here it is the same one.
        "moriio": f"host:{host},handshake:{side_channel_port},notify:{side_channel_port}",
    }.get(protocol, "")
    legs: dict[str, tuple[Leg, ...]] = {
        "prefill": ("prefill",),
        "decode": ("decode",),
        "both": ("prefill", "decode"),
    }
    return tuple(
        Engine(
            leg,
            f"http://{bracketed}:{port}",
            protocol=protocol,
            transfer_mode="write" if writes else "read",
            dp_size=dp_size,
            tp_size=tp_size,
            handshake_port=side_channel_port,
            zmq_address=zmq_address,
        )
        for leg in legs[role]
    )


class Registration:
    """Heartbeats to all routers, until it is closed; and none while the fault is planned.

    Args:
        endpoints: the routers', ``tcp://host:port``.
        engines: of `records`.
        interval_s: between two heartbeats.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        engines: Sequence[Engine],
        *,
        interval_s: float = 1.0,
        faults: Faults,
    ) -> None:
        self._endpoints = endpoints
        self._engines = engines
        self._interval_s = interval_s
        self._faults = faults
        self._lock = threading.Lock()
        self._closed = False
        self._silent = False
        self._registrars: list[Registrar] = []
        self._forget = faults.observe(self._follow)
        self._follow()

    def close(self) -> None:
        """Say goodbye, and end. May be repeated."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._forget()
                self._stop(goodbye=True)

    def _follow(self) -> None:
        """The fault may have come or gone. An engine that is stopped by it says no goodbye."""
        with self._lock:
            if self._closed:
                return
            if not self._faults.planned(FAULT):
                self._silent = False
            elif not self._silent:
                self._silent = self._faults.strikes(FAULT) is not None
            if self._silent:
                self._stop(goodbye=False)
            elif not self._registrars:
                self._registrars = [
                    Registrar(endpoint, engine, interval_s=self._interval_s)
                    for endpoint in self._endpoints
                    for engine in self._engines
                ]

    def _stop(self, *, goodbye: bool) -> None:
        for registrar in self._registrars:
            registrar.close(goodbye=goodbye)
        self._registrars = []
