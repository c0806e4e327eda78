"""Each clause's check is run under the planted bugs that it claims to catch, and must fail."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pd_testkit
from pd_testkit import reference
from pd_testkit.contract import Target
from pd_testkit.contract.clauses import CLAUSES
from pd_testkit.suites import registrations
from pd_testkit.suites.aggregator import AggregatorSuite
from pd_testkit.suites.base import DEADLINE_S, SHORT_DEADLINE_S
from pd_testkit.suites.discovery import DiscoverySuite
from pd_testkit.suites.engine import EngineSuite
from pd_testkit.suites.flow import FlowSuite
from pd_testkit.suites.handshake import HandshakeSuite
from pd_testkit.suites.metadata import MetadataSuite
from pd_testkit.suites.pair import PairSuite
from pd_testkit.suites.polling import PollingSuite
from pd_testkit.suites.proxy import ProxySuite
from pd_testkit.suites.router import RouterSuite
from pd_testkit.suites.scheduler import SchedulerSuite
from pd_testkit.suites.server import ServerSuite
from pd_testkit.suites.transfer import TransferSuite
from pd_testkit.suites.workers import WorkersSuite
from tests.kit.mutants import MUTANTS
from tests.kit.mutants.mutant import Mutant
from tests.kit.mutants.plant import edited, planted
from tests.kit.mutants.table import table

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).parents[2]

BY_CLAUSE = {
    clause_id: {name: mutant for name, mutant in MUTANTS.items() if clause_id in mutant.clauses}
    for clause_id in CLAUSES
}


def noticing(check: Callable[..., None]) -> Callable[..., None]:
    """The check, turned round: with a mutant planted it must fail, without one it must pass."""

    @functools.wraps(check)
    def run(self: Any, *args: Any, **kwargs: Any) -> None:
        if self.mutant is None:
            check(self, *args, **kwargs)
            return
        try:
            check(self, *args, **kwargs)
        except pytest.UsageError:
            raise
        except pytest.fail.Exception as failure:
            if str(failure).startswith("Timeout"):
                raise
        except Exception:  # the clause's assertion, or what the mutated code raised
            return
        else:
            pytest.fail(f"the check does not notice: {self.mutant.bug}")

    run.pytestmark = []  # no clause is checked here, so none may be counted
    run.clause = next(mark.args[0] for mark in check.pytestmark if mark.name == "pd_clause")
    return run


class Planted:
    """Mixed into a suite: every check runs once as it is and once per mutant that claims it."""

    mutant: Mutant | None = None

    def __init_subclass__(cls) -> None:
        for name, check in inspect.getmembers(cls, inspect.isfunction):
            if any(mark.name == "pd_clause" for mark in getattr(check, "pytestmark", ())):
                setattr(cls, name, noticing(check))

    @pytest.fixture
    def pd_seed(self) -> int:
        return 0

    @pytest.fixture
    def deadline_s(self, mutant: Mutant | None) -> float:
        """What a planted bug keeps from happening is not waited for long."""
        return DEADLINE_S if mutant is None else SHORT_DEADLINE_S

    @pytest.fixture
    def target(self, mutant: Mutant | None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
        monkeypatch.setenv("PD_EXAMPLES", "quick")
        self.mutant = mutant
        with planted(mutant):
            target = importlib.import_module("pd_testkit.targets.reference").ReferenceTarget()
            target.open()
            yield target
            target.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    clause_id = getattr(metafunc.function, "clause", None)
    if clause_id is not None:
        mutants = {"control": None, **BY_CLAUSE[clause_id]}
        metafunc.parametrize("mutant", mutants.values(), ids=mutants.keys())


class TestAggregatorMutants(Planted, AggregatorSuite):
    """The checks of the aggregator."""


class TestMetadataMutants(Planted, MetadataSuite):
    """The checks of the metadata."""


class TestSchedulerMutants(Planted, SchedulerSuite):
    """The checks of the connector's scheduler half."""


class TestEngineMutants(Planted, EngineSuite):
    """The checks of the engine's scheduler."""


class TestProxyMutants(Planted, ProxySuite):
    """The checks of the proxy."""


class TestTransferMutants(Planted, TransferSuite):
    """The checks of the functions below a transfer."""


class TestHandshakeMutants(Planted, HandshakeSuite):
    """The side channel between P and D: how workers meet."""


class TestPairMutants(Planted, PairSuite):
    """A P and a D worker that move real bytes."""


class TestWorkersMutants(Planted, WorkersSuite):
    """Workers that report to one aggregator."""


class TestDiscoveryMutants(Planted, DiscoverySuite):
    """How instances register with the proxy."""

    @pytest.fixture(autouse=True)
    def _deadline(self, deadline_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registrations, "DEADLINE_S", deadline_s)


class TestServerMutants(Planted, ServerSuite):
    """The engine's OpenAI server and its ``kv_transfer_params``."""


class TestFlowMutants(Planted, FlowSuite):
    """The proxy as a server, with real engines behind it."""


class TestPollingMutants(Planted, PollingSuite):
    """Senders on P and receivers on D, whose transfers are polled."""


class TestRouterMutants(Planted, RouterSuite):
    """What a router promises beyond one flow."""


@pytest.mark.parametrize("clause_id", CLAUSES)
def test_each_clause_is_claimed_by_a_mutant(clause_id: str) -> None:
    assert BY_CLAUSE[clause_id], f"no planted bug breaks: {CLAUSES[clause_id].statement}"


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS.keys())
def test_each_mutant_is_one_edit_that_names_clauses(mutant: Mutant) -> None:
    path = Path(pd_testkit.__file__).parent.joinpath(*mutant.module_name.split(".")[1:])
    edited(path.with_suffix(".py").read_text(), mutant)
    assert mutant.bug
    assert mutant.clauses
    assert set(mutant.clauses) <= CLAUSES.keys()


def test_the_table_in_the_docs_is_current() -> None:
    assert (ROOT / "docs" / "mutants.md").read_text() == table(), "run: make docs"


class TestTheHarness:
    """The harness notices what it must."""

    MUTANT = Mutant(
        (), "ports", "= base + dp_rank * tp_size + tp_rank", "= base", "all on one port"
    )

    def test_an_edit_must_fit_exactly_once(self) -> None:
        with pytest.raises(ValueError, match="0 times"):
            edited("pass", self.MUTANT)
        with pytest.raises(ValueError, match="2 times"):
            edited(f"{self.MUTANT.old}, {self.MUTANT.old}", self.MUTANT)

    def test_a_planted_mutant_runs_and_is_gone_afterwards(self) -> None:
        name = "pd_testkit.reference.ports"
        genuine = importlib.import_module(name)
        before = dict(sys.modules)
        with planted(self.MUTANT):
            bent = importlib.import_module(name)
            assert bent.side_channel_port(9, dp_rank=1, tp_rank=1, tp_size=2) == 9
        assert sys.modules == before
        assert importlib.import_module(name) is genuine
        assert reference.ports is genuine
        assert genuine.side_channel_port(9, dp_rank=1, tp_rank=1, tp_size=2) == 12

    def test_a_check_that_passes_under_a_mutant_fails(self) -> None:
        @pytest.mark.pd_clause("AGG-001")
        def test_nothing(self: Any) -> None:
            """Checks nothing."""

        case = type("Case", (), {"mutant": self.MUTANT})()
        with pytest.raises(pytest.fail.Exception, match="does not notice: all on one port"):
            noticing(test_nothing)(case)

    def test_a_check_that_is_skipped_under_a_mutant_does_not_count(self) -> None:
        @pytest.mark.pd_clause("AGG-001")
        def test_skipped(self: Any) -> None:
            pytest.skip("not here")

        case = type("Case", (), {"mutant": self.MUTANT})()
        with pytest.raises(pytest.skip.Exception):
            noticing(test_skipped)(case)
