"""A skip that nobody expected fails this project's own run."""

from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"


@pytest.mark.parametrize(
    ("reason", "exit_code"),
    [
        ("not applicable: torch is not installed", pytest.ExitCode.OK),
        ("could not import 'torch'", pytest.ExitCode.TESTS_FAILED),
    ],
    ids=["expected", "unexpected"],
)
@pytest.mark.parametrize("where", ["in a test", "in a module"])
def test_only_a_skip_for_what_is_not_there_passes(repository, where, reason, exit_code):
    skip = f"pytest.skip({reason!r}, allow_module_level=True)"
    body = f"import pytest\ndef test_one(): {skip}"
    if where == "in a module":
        body = f"import pytest\n{skip}"
    repository.pytester.makeconftest(CONFTEST.read_text().replace('["pytester"]', "[]"))
    repository.pytester.makepyfile(body, test_other="def test_two(): ...")
    result = repository.pytester.runpytest()
    result.assert_outcomes(passed=1, skipped=1)
    assert result.ret == exit_code
    assert ("unexpected skip: " in result.stdout.str()) is (exit_code != pytest.ExitCode.OK)
