"""The pytest plugin: options, markers, fixtures, the header and the conformance summary."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pd_testkit.contract import Target

MARKERS = (
    "pd_clause(id): the one check of a clause of the P/D contract",
    "pd_l1: units on a CPU, no I/O",
    "pd_l2: one machine for real: sockets, HTTP, threads, processes",
    "pd_l3: real GPUs and RDMA",
    "rdma: needs an RDMA device",
    "gpus(n): needs n GPUs",
)

pytest.register_assert_rewrite("pd_testkit.suites")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pd-testkit", "prefill/decode disaggregation")
    group.addoption(
        "--pd-target",
        metavar="NAME",
        help="implementation under test: reference (the default), atom or package.module:attribute",
    )
    group.addoption("--pd-source", metavar="DIR", help="source tree of the target, where it takes one")
    group.addoption("--pd-layer", metavar="LAYERS", help="run these layers only, such as l1,l2")
    group.addoption("--pd-require", metavar="THINGS", help="fail where these are missing: rdma, gpus=N")
    group.addoption("--pd-seed", metavar="N", help="seed of all that is random")


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)


@pytest.fixture(scope="session")
def pd_seed(pytestconfig: pytest.Config) -> int:
    """The run's seed: ``--pd-seed``, or drawn at the start and shown at the end."""
    given = pytestconfig.getoption("--pd-seed")
    return int(given) if given is not None else int.from_bytes(os.urandom(4), "big")


@pytest.fixture(scope="session")
def pd_target(pytestconfig: pytest.Config) -> Iterator[Target]:
    """The implementation under test: the one of ``--pd-target``, open."""
    from pd_testkit.contract import TargetError
    from pd_testkit.targets import load

    source = pytestconfig.getoption("--pd-source")
    try:
        target = load(
            pytestconfig.getoption("--pd-target") or "reference",
            Path(source) if source else None,
        )
    except TargetError as error:
        raise pytest.UsageError(str(error)) from None
    target.open()
    yield target
    target.close()
