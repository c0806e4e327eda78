"""Where the two sides' memory is, and by what it moves: the tests' parameters."""

from __future__ import annotations

from typing import NamedTuple

import pytest

LENIENT = "import warnings; warnings.simplefilter('default')"
"""For a child process: drivers' packages may warn on a GPU, and that is no failure of a test."""

_CPU = (pytest.mark.pd_l2, pytest.mark.requires_package("torch"))
_NIXL = pytest.mark.requires_package("nixl")


def l3(gpus: int) -> tuple[pytest.MarkDecorator, ...]:
    """Marks of what runs on so many GPUs."""
    return (pytest.mark.pd_l3, pytest.mark.gpus(gpus), pytest.mark.requires_package("torch"))


class Path(NamedTuple):
    """A transport, this process's device and the other one's, as torch names them."""

    transport: str
    here: str
    there: str


PATHS = [
    pytest.param(Path("shm", "cpu", "cpu"), marks=_CPU, id="shm-cpu"),
    pytest.param(Path("nixl", "cpu", "cpu"), marks=(*_CPU, _NIXL), id="nixl-cpu"),
    pytest.param(Path("nixl", "cpu", "cuda:0"), marks=(*l3(1), _NIXL), id="nixl-gpu-to-host"),
    pytest.param(Path("nixl", "cuda:0", "cuda:0"), marks=(*l3(1), _NIXL), id="nixl-one-gpu"),
    pytest.param(Path("nixl", "cuda:0", "cuda:1"), marks=(*l3(2), _NIXL), id="nixl-two-gpus"),
]

DEVICES = [
    pytest.param("cpu", marks=_CPU, id="cpu"),
    pytest.param("cuda", marks=l3(1), id="cuda"),
]
