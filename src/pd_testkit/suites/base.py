"""What every suite shares: the clause decorator, the target, and property checks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

import pytest

from pd_testkit.contract import (
    NotApplicable,
    Target,
    TargetError,
    Unit,
    check_target,
    make_driver,
)
from pd_testkit.contract.clauses import CLAUSES, unknown_clause

_F = TypeVar("_F", bound=Callable[..., Any])

CHECKED = pytest.StashKey[Target]()
"""On a clause's test item: the target that it checks, for the report."""

EXAMPLES = {"quick": 20, "thorough": 400}
"""Hypothesis examples per property, by the environment variable ``PD_EXAMPLES``."""

DEADLINE_S = 10.0
SHORT_DEADLINE_S = 1.0
"""See `Suite.deadline_s`."""


def clause(clause_id: str) -> Callable[[_F], _F]:
    """Mark a suite's method as the one check of a clause.

    Raises:
        KeyError: no such clause.
    """
    if clause_id not in CLAUSES:
        raise KeyError(unknown_clause(clause_id))
    return pytest.mark.pd_clause(clause_id)


@contextmanager
def applicable() -> Iterator[None]:
    """The clause is not applicable where the target says so in this."""
    try:
        yield
    except NotApplicable as reason:
        pytest.skip(f"not applicable: {reason}")


class Suite:
    """The base of all suites.

    Override in a subclass, where you need to: `target`. Everything else is the suite's own: a
    fixture of another name here or in a suite must not be overridden, or the clauses would no
    longer check what they say.
    """

    unit: ClassVar[Unit]

    # -- a fixture to override ---------------------------------------------------------------

    @pytest.fixture
    def target(self, pd_target: Target) -> Target:
        """The implementation under test; the one of ``--pd-target`` by default."""
        return pd_target

    # -- never override ----------------------------------------------------------------------

    @pytest.fixture(autouse=True)
    def _clause_applies(self, request: pytest.FixtureRequest, target: Target) -> None:
        """Skip what the target does not claim; expect what it is known to break."""
        mark = request.node.get_closest_marker("pd_clause")
        if mark is None:
            return
        try:
            check_target(target)
        except TargetError as error:
            raise pytest.UsageError(str(error)) from None
        request.node.stash[CHECKED] = target
        this = CLAUSES[mark.args[0]]
        if this.unit not in target.units:
            pytest.skip(f"not applicable: {target.name} has no unit {this.unit}")
        if missing := target.capabilities.missing(this.needs):
            names = ", ".join(map(str, missing))
            pytest.skip(f"not applicable: {target.name} does not claim {names}")
        for known in target.known_failures:
            if known.clause == this.id:
                reason = f"known failure: {known.reason}" + (f" ({known.link})" * bool(known.link))
                request.node.add_marker(pytest.mark.xfail(reason=reason, strict=True))

    @pytest.fixture
    def deadline_s(self, request: pytest.FixtureRequest, target: Target) -> float:
        """Real seconds within which what must happen happens on a slow machine too. Only a broken
        clause waits so long; one that is known to be broken waits `SHORT_DEADLINE_S`."""
        mark = request.node.get_closest_marker("pd_clause")
        known = {known.clause for known in target.known_failures}
        short = mark is not None and mark.args[0] in known
        return (SHORT_DEADLINE_S if short else DEADLINE_S) + target.least_patience_s

    @pytest.fixture
    def make(self, target: Target) -> Iterator[Callable[..., Any]]:
        """Builds drivers of this suite's unit; those with a ``close()`` are closed after."""
        made: list[Any] = []

        def build(*args: Any, **kwargs: Any) -> Any:
            try:
                with applicable():
                    driver = make_driver(target, self.unit, *args, **kwargs)
            except TargetError as error:
                raise pytest.UsageError(str(error)) from None
            made.append(driver)
            return driver

        yield build
        for driver in reversed(made):
            close = getattr(driver, "close", None)
            if close is not None:
                close()

    @pytest.fixture
    def for_all(self, pd_seed: int) -> Callable[..., None]:
        """``for_all(check, *strategies)``: a Hypothesis property, with the run's seed.

        The number of examples follows ``PD_EXAMPLES`` (``quick``, the default, or
        ``thorough``).
        """
        import hypothesis

        level = os.environ.get("PD_EXAMPLES", "quick")
        if level not in EXAMPLES:
            raise pytest.UsageError(f"PD_EXAMPLES={level}: choose of {', '.join(EXAMPLES)}")
        # To shrink a counterexample may take minutes on a slow target.
        shrinks = [hypothesis.Phase.shrink] if level == "thorough" else []
        profile = hypothesis.settings(
            max_examples=EXAMPLES[level],
            phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate, *shrinks],
            deadline=None,
            database=None,
            print_blob=False,
            suppress_health_check=list(hypothesis.HealthCheck),
        )

        def run(check: Callable[..., None], *strategies: Any) -> None:
            decorate: Callable[..., Any] = hypothesis.given(*strategies)
            hypothesis.seed(pd_seed)(profile(decorate(check)))()

        return run
