"""Packages that layers need, by what their installers wrote: none is imported."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

DISTRIBUTIONS = {
    "aiter": ("aiter", "amd-aiter"),
    "mori": ("mori", "amd-mori"),
    "nixl": ("nixl", "nixl-cu12", "nixl-cu13"),
    "mooncake": ("mooncake-transfer-engine", "mooncake-transfer-engine-non-cuda"),
}
"""Names that a package is installed by, where it is not its own."""

SHOWN = ("torch", "transformers", "vllm", "sglang", "mori", "nixl", "mooncake", "ray")


def version(name: str) -> str:
    """Of the installed package; empty: it is not there."""
    for distribution in DISTRIBUTIONS.get(name, (name,)):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return ""


def lacks(name: str, at_least: str = "") -> str:
    """What is wrong with the package, in words; empty: nothing.

    Raises:
        packaging.version.InvalidVersion: ``at_least`` is no version.
    """
    there = version(name)
    if not there:
        return f"{name} is not installed"
    if at_least:
        from packaging.version import Version

        if Version(there) < Version(at_least):
            return f"{name} {there} is older than {at_least}"
    return ""


def torch_build() -> str:
    """What torch was built for: such as ``cuda 12.8``, ``rocm 6.4``, ``cpu``; empty: no torch."""
    try:
        files = metadata.distribution("torch").files or ()
    except metadata.PackageNotFoundError:
        return ""
    for file in files:
        if file.as_posix() == "torch/version.py":
            return build_of(Path(str(file.locate())).read_text())
    return ""


def build_of(text: str) -> str:
    """Of a ``torch/version.py``."""
    for attribute, platform in (("hip", "rocm"), ("cuda", "cuda")):
        told = re.search(rf"^{attribute}\b[^=]*=\s*'([^']+)'", text, re.MULTILINE)
        if told is not None:
            return f"{platform} {told[1]}"
    return "cpu"
