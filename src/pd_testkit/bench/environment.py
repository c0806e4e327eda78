"""Where a measurement was made: what has to be the same for two numbers to be compared."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import pd_testkit
from pd_testkit.bench.endpoint import Endpoint, Unexpected

_PACKAGES = ("aiohttp", "msgspec", "numpy", "torch", "uvloop")


def environment() -> dict[str, Any]:
    """Of this machine and this process: kit, commit of the folder, Python, cores, CPU, load."""
    return {
        "pd_testkit": pd_testkit.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
    }


async def served(endpoint: Endpoint) -> dict[str, Any]:
    """Of what answers: its URL, and its ``/version`` where it has one."""
    told: dict[str, Any] = {"url": endpoint.url, "model": endpoint.model}
    try:
        status, body = await endpoint.get("/version")
    except Unexpected:
        return told
    if status == 200:
        told["version"] = body[:200].decode("utf-8", "replace")
    return told


def _commit() -> str:
    """Of the folder that the command is run in; empty where it is in no repository."""
    git = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        ended = subprocess.run(git, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ended.stdout.strip()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
