"""Hosts of one's own for the engines of a test, on the loopback."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from pd_testkit.contract import WorkerSpec

_DEFAULT = WorkerSpec().host


def apart(specs: Sequence[WorkerSpec]) -> tuple[WorkerSpec, ...]:
    """The engines on hosts of their own: 127.0.0.1, 127.0.0.2, ...

    One that has a host already keeps it, and so do all where the system's loopback is one address
    (as on macOS): there a clause on several engines is one on engines of one host too.
    """
    return tuple(
        replace(spec, host=_host(number)) if spec.host == _DEFAULT else spec
        for number, spec in enumerate(specs)
    )


@lru_cache
def _host(number: int) -> str:
    host = f"127.0.0.{number + 1}"
    with socket.socket(socket.AF_INET) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return _DEFAULT
    return host
