"""What a run says about a target: the table, the causes, the exit code, the seed."""

from __future__ import annotations

import pytest

from pd_testkit.contract.clauses import CLAUSES
from tests.kit.plugin_runs import Repository


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands that are told name the level of the properties, where one is set."""
    monkeypatch.delenv("PD_EXAMPLES", raising=False)


KEPT = '@clause("AGG-001")\ndef test_kept(self, make): make(world_size=1)\n'
BROKEN = '@clause("AGG-002")\ndef test_broken(self): assert False, "counted twice"\n'


def table(result: pytest.RunResult) -> list[str]:
    """The lines of the conformance table, blanks squeezed."""
    lines = [" ".join(line.split()) for line in result.stdout.lines]
    start = next(i for i, line in enumerate(lines) if line.startswith("unit kept"))
    end = next(i for i, line in enumerate(lines) if i > start and line.startswith("all "))
    return lines[start : end + 1]


def again(test: str) -> str:
    """How that check of the repository's own is run alone, with whatever seed."""
    node = f"test_suite.py::TestAggregator::{test}"
    return f"pytest {node} --pd-target shop:Shop --pd-seed *"


def test_a_kept_clause_conforms(repository: Repository) -> None:
    repository.suite(KEPT)
    result = repository.run("--pd-seed", "7")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*P/D conformance: shop 1.2.3*"])
    assert table(result) == [
        "unit kept broken known broken not applicable total",
        "aggregator 1 0 0 0 1",
        "all 1 0 0 0 1",
    ]
    result.stdout.fnmatch_lines(["shop conforms: 1 kept; seed 7 (again: --pd-seed 7)"])


def test_each_outcome_has_its_column_and_its_cause(repository: Repository) -> None:
    repository.target(
        """
        known_failures = (KnownFailure("AGG-003", "drops late reports", "https://bugs.test/3"),)
        """
    )
    repository.suite(
        KEPT
        + BROKEN
        + """
@clause("AGG-003")
def test_known_broken(self): assert False

@clause("META-001")
def test_of_a_unit_that_it_lacks(self): assert False

@clause("META-002")
def test_of_that_unit_too(self): assert False
"""
    )
    result = repository.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert table(result) == [
        "unit kept broken known broken not applicable total",
        "aggregator 1 1 1 0 3",
        "metadata 0 0 0 2 2",
        "all 1 1 1 2 5",
    ]
    result.stdout.fnmatch_lines(
        [
            "broken:",
            f"  AGG-002  {CLAUSES['AGG-002'].statement}",
            "           counted twice",
            f"           {again('test_broken')}",
            "known broken:",
            f"  AGG-003  {CLAUSES['AGG-003'].statement}",
            "           drops late reports (https://bugs.test/3)",
            f"           {again('test_known_broken')}",
            "not applicable:",
            "  shop has no unit metadata: META-001..002",
            "shop DOES NOT CONFORM: 1 kept, 1 broken, 1 known broken, 2 not applicable; seed *",
        ],
        consecutive=True,
    )


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ("raise KeyError('r1')", "KeyError: 'r1' (*/test_suite.py:9)"),
        ("assert not False is False", "assert not False is False"),
        ("pytest.fail('two\\nlines')", "Failed: two"),
        ("raise RuntimeError", "RuntimeError (*/test_suite.py:9)"),
        ("assert sorted({8, 9}) == [8], 'the blocks of d-1'", "the blocks of d-1: *8, 9] != *8]"),
        ("assert sorted({8, 9}) == [8], 'got [8, 9], not [8]'", "got *8, 9], not *8]"),
        ("assert not [8], 'P still holds blocks'", "P still holds blocks"),
        (
            "assert [10**30, 10**31, 8000] == [10**30, 10**31, 8001]",
            "assert *...* == *...*; At index 2 diff: 8000 != 8001",
        ),
    ],
)
def test_a_broken_clause_has_a_cause_of_one_line(
    repository: Repository, body: str, cause: str
) -> None:
    repository.suite(f'@clause("AGG-001")\ndef test_one(self): {body}')
    repository.run().stdout.fnmatch_lines(
        ["broken:", "  AGG-001  *", f"           {cause}", f"           {again('test_one')}"],
        consecutive=True,
    )


def test_what_fails_after_the_test_breaks_the_clause(repository: Repository) -> None:
    repository.target(
        """
        def aggregator(self, *, world_size, expected=None):
            driver = Driver()
            driver.close = lambda: 1 / 0
            return driver
        """
    )
    repository.suite(KEPT)
    result = repository.run()
    assert table(result)[-1] == "all 0 1 0 0 1"
    result.stdout.fnmatch_lines(
        ["           teardown: ZeroDivisionError: division by zero (*/shop.py:*)"]
    )


def test_an_unexpected_skip_fails_the_run(repository: Repository) -> None:
    repository.suite(KEPT + '@clause("AGG-002")\ndef test_two(self): pytest.skip("no numpy here")')
    result = repository.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, skipped=1)
    assert table(result)[0] == "unit kept broken known broken not applicable skipped total"
    result.stdout.fnmatch_lines(
        [
            "skipped, though applicable:",
            "  AGG-002  *",
            "           no numpy here",
            f"           {again('test_two')}",
            "shop DOES NOT CONFORM: 1 kept, 1 skipped; seed *",
        ],
        consecutive=True,
    )


def test_a_skip_mark_on_a_clause_fails_the_run(repository: Repository) -> None:
    repository.suite(f"@pytest.mark.skip(reason='slow')\n{KEPT}")
    result = repository.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert table(result)[-1] == "all 0 0 0 0 1 1"


def test_what_is_not_applicable_does_not_fail_the_run(repository: Repository) -> None:
    repository.suite('@clause("META-001")\ndef test_one(self): assert False')
    result = repository.run()
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["shop was asked nothing: 1 not applicable; seed *"])


def test_a_known_failure_that_is_gone_fails_the_run(repository: Repository) -> None:
    repository.target('known_failures = (KnownFailure("AGG-001", "counts twice"),)')
    repository.suite(KEPT)
    result = repository.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "fixed: listed as known failures, but kept:",
            "  AGG-001  *",
            "           take it out of known_failures, where its reason is: counts twice",
        ],
        consecutive=True,
    )


def test_a_suite_that_names_its_own_target_is_reported_under_its_name(
    repository: Repository,
) -> None:
    repository.suite(KEPT)
    repository.suite(
        """
@pytest.fixture
def target(self):
    from shop import Shop
    class Other(Shop):
        name = "other"
    return Other()
"""
        + BROKEN,
        name="test_other.py",
    )
    result = repository.run()
    result.stdout.fnmatch_lines(
        [
            "*P/D conformance: other 1.2.3*",
            "other DOES NOT CONFORM: 1 broken; *",
            "*P/D conformance: shop 1.2.3*",
            "shop conforms: 1 kept; *",
        ]
    )


def test_a_clause_checked_twice_counts_once_and_at_its_worst(repository: Repository) -> None:
    repository.suite(KEPT)
    repository.suite('@clause("AGG-001")\ndef test_again(self): assert 0', name="test_again.py")
    assert table(repository.run())[-1] == "all 0 1 0 0 1"


def test_quiet_shows_the_table_and_the_seed_only(repository: Repository) -> None:
    repository.suite(BROKEN)
    result = repository.run("-q", "--tb=no", "--pd-seed", "3")
    assert table(result)[-1] == "all 0 1 0 0 1"
    shown = result.stdout.str()
    assert "hardware" not in shown
    assert "broken:" not in shown
    assert "--pd-seed 3" in shown


def test_the_header_says_what_is_checked(repository: Repository) -> None:
    repository.suite(KEPT)
    header = "pd-testkit *: target {}, seed 7, layers l1 l2, *RDMA*, *GPU*"
    options = ("--pd-seed", "7", "--pd-layer", "l2,l1")
    given = repository.run(*options)
    given.stdout.fnmatch_lines([header.format("shop 1.2.3"), "collected *"])
    default = repository.run(*options, target=None)
    default.stdout.fnmatch_lines(["collected *", header.format("reference (default)")])
    repository.suite(
        KEPT + "@pytest.fixture\ndef target(self):\n    import shop\n    return shop.Shop()"
    )
    own = repository.run(*options, "--pd-report", "r", target=None)
    own.stdout.fnmatch_lines(["collected *", header.format("of the tests' own")])
    for result in (given, default, own):
        assert result.stdout.str().count("layers l1 l2") == 1


def test_other_projects_runs_hear_nothing_of_the_kit(repository: Repository) -> None:
    repository.pytester.makepyfile("def test_mine(): pass")
    # Apart: in this process the kit is imported already, and some releases of pytest say so.
    result = repository.run_apart(target=None)
    assert result.ret == pytest.ExitCode.OK
    shown = [line for line in result.stdout.lines if not line.startswith(("plugins: ", "rootdir"))]
    assert not any("pd" in line or "P/D" in line for line in shown), result.stdout.str()


def test_a_run_without_clauses_and_with_a_bad_test_stays_a_failure(repository: Repository) -> None:
    repository.pytester.makepyfile("def test_mine(): assert 0")
    assert repository.run(target=None).ret == pytest.ExitCode.TESTS_FAILED


SEEDS = """
@clause("AGG-001")
def test_one(self, pd_seed): open(f"one-{pd_seed}", "w").close()

@clause("AGG-002")
def test_two(self, pd_seed): open(f"two-{pd_seed}", "w").close()
"""


def test_the_seed_is_drawn_once_and_shown(repository: Repository) -> None:
    repository.suite(SEEDS)
    result = repository.run()
    (one,) = repository.path.glob("one-*")
    seed = one.name.removeprefix("one-")
    assert (repository.path / f"two-{seed}").exists()
    result.stdout.fnmatch_lines([f"*(again: --pd-seed {seed})"])
    repository.run()
    assert len(list(repository.path.glob("one-*"))) == 2


def test_under_xdist_the_table_is_the_same_and_the_seed_is_one(repository: Repository) -> None:
    repository.target('known_failures = (KnownFailure("AGG-004", "counts twice"),)')
    repository.suite(
        SEEDS
        + """
@clause("AGG-003")
def test_three(self): assert False, "counted twice"

@clause("AGG-004")
def test_four(self): assert False

@clause("META-001")
def test_five(self): assert False
"""
    )
    result = repository.run_apart("-p", "xdist", "-n", "2", "--pd-report", "out.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert table(result) == [
        "unit kept broken known broken not applicable total",
        "aggregator 2 1 1 0 4",
        "metadata 0 0 0 1 1",
        "all 2 1 1 1 5",
    ]
    result.stdout.fnmatch_lines(["  AGG-003  *", "           counted twice"], consecutive=True)
    seeds = {path.name.partition("-")[2] for path in repository.path.glob("[ot]*-*")}
    assert len(seeds) == 1
    result.stdout.fnmatch_lines([f"*(again: --pd-seed {seeds.pop()})"])
    assert result.stdout.str().count("layers l1 l2 l3") == 1
    assert (repository.path / "out.json").exists()


def test_the_target_is_opened_once_and_closed(repository: Repository) -> None:
    repository.target(
        """
        def open(self): print("opened", file=open("log", "a"))
        def close(self): print("closed", file=open("log", "a"))
        """
    )
    repository.suite(KEPT + BROKEN)
    repository.run()
    assert (repository.path / "log").read_text().split() == ["opened", "closed"]


def test_drivers_are_closed(repository: Repository) -> None:
    repository.suite(
        """
        @clause("AGG-001")
        def test_one(self, make):
            make(world_size=1), make(world_size=1)

        def test_after(self):
            from shop import Driver
            assert Driver.closed == 2
        """
    )
    repository.run().assert_outcomes(passed=2)
