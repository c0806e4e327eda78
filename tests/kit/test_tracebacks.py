"""A failure whose traceback has no line number fails one test, and not the run."""

from pathlib import Path

CONFTEST = Path(__file__).parents[1] / "conftest.py"

NO_LINES = """
import sys

def nowhere():
    raise ValueError("lost")

# Each entry of the table says of up to 8 units of code that they belong to no line.
units = len(nowhere.__code__.co_code) // 2
entries = [min(8, units - first) for first in range(0, units, 8)]
table = bytes(0xF8 | size - 1 for size in entries) if sys.version_info >= (3, 11) else b""
nowhere.__code__ = nowhere.__code__.replace(co_linetable=table)

def test_lost():
    nowhere()

def test_other():
    assert True
"""


def test_an_error_without_a_line_is_reported_as_a_failure(repository):
    repository.pytester.makeconftest(CONFTEST.read_text().replace('["pytester"]', "[]"))
    repository.pytester.makepyfile(NO_LINES)
    result = repository.pytester.runpytest()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*ValueError: lost*"])
