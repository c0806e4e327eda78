"""Stand-ins for a whole run, and for one test."""

from __future__ import annotations

import pytest

from tests.kit.plugin_runs import Repository


def test_stand_ins_are_there_before_the_first_conftest(repository: Repository) -> None:
    repository.pytester.makeconftest("from aiter import QuantType")
    repository.pytester.makepyfile(
        """
        import mori.io
        from aiter.dist.parallel_state import get_tp_group

        def test_mine():
            assert get_tp_group().world_size == 1
        """
    )
    result = repository.run_apart("--pd-stubs", "aiter,mori", target=None)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["pd-testkit stand-ins: aiter, mori"])


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "2")], ids=["serial", "xdist"])
def test_a_process_that_a_test_spawns_has_them_too(
    repository: Repository, workers: tuple[str, ...]
) -> None:
    repository.pytester.makepyfile(
        """
        import subprocess, sys

        def test_mine():
            code = "import mori.io; print(mori.io.BackendType.RDMA.value)"
            assert subprocess.check_output([sys.executable, "-c", code]) == b"2\\n"
        """
    )
    result = repository.run_apart("--pd-stubs", "mori", *workers, target=None)
    result.assert_outcomes(passed=1)


def test_without_them_the_imports_fail(repository: Repository) -> None:
    repository.pytester.makeconftest("import mori.io")
    assert repository.run_apart(target=None).ret == pytest.ExitCode.USAGE_ERROR


RECORDED = """
import aiter

def test_mine():
    aiter.QuantType
    assert not hasattr(aiter, "no_such_kernel")
"""


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "2")], ids=["serial", "xdist"])
def test_what_was_asked_of_them_is_shown(repository: Repository, workers: tuple[str, ...]) -> None:
    repository.pytester.makepyfile(RECORDED)
    result = repository.run_apart("--pd-stubs=aiter", "--pd-stubs-record", *workers, target=None)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*asked of the stand-ins*", "aiter.QuantType", "aiter.no_such_kernel  MISSING"]
    )


def test_the_fixture_gives_stand_ins_to_one_test(repository: Repository) -> None:
    repository.pytester.makepyfile(
        """
        import sys

        def test_with(pd_stubs):
            active = pd_stubs("mori")
            import mori.io
            assert "mori" in sys.modules
            assert active.names == ("mori",)

        def test_without():
            assert "mori" not in sys.modules
        """
    )
    repository.run_apart(target=None).assert_outcomes(passed=2)
