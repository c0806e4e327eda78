"""From pytest's reports of a clause's test to a verdict."""

from __future__ import annotations

import pytest

from pd_testkit.report.conformance import Outcome, Verdict
from pd_testkit.targets.load import place

NOT_APPLICABLE = "not applicable: "
"""How the reason of a skip begins that the contract foresees."""


def judge(
    report: pytest.TestReport,
    raised: BaseException | None,
    *,
    clause: str,
    target: str,
    version: str,
    again: str = "",
) -> Verdict:
    """What one phase's report says about the clause.

    `raised` is the exception that the phase ended with. A `pytest.UsageError` means that the
    target (or an option) cannot be used, so nothing more can be found out in this run.
    """
    outcome, cause, unusable = None, "", ""
    if isinstance(raised, pytest.UsageError):
        unusable = one_line(str(raised))
    elif hasattr(report, "wasxfail"):
        if report.skipped:
            outcome, cause = Outcome.KNOWN_BROKEN, _known(report.wasxfail)
        elif report.passed:
            outcome = Outcome.KEPT
    elif report.skipped:
        outcome, cause = _skipped(report)
    elif report.failed and raised is not None:
        where = "" if report.when == "call" else f"{report.when}: "
        outcome, cause = Outcome.BROKEN, where + first_line(raised)
    elif report.failed:
        reason = _known(str(report.longrepr).removeprefix("[XPASS(strict)] "))
        outcome = Outcome.FIXED
        cause = f"take it out of known_failures, where its reason is: {reason}"
    elif report.when == "call":
        outcome = Outcome.KEPT
    return Verdict(clause, target, version, outcome and outcome.value, cause, unusable, again)


def first_line(error: BaseException) -> str:
    """The exception's message in one line; its type and place too, unless it is an assertion.

    Where that says less than pytest does, pytest's line is added: what was compared, or the
    difference where it shortened both sides.
    """
    lines = [one_line(line) for line in str(error).splitlines() if line.strip()]
    message = lines[0] if lines else ""
    if isinstance(error, AssertionError):
        if message.startswith("assert ") and "..." in message:
            message = "; ".join([message, *(line for line in lines[1:] if " != " in line)][:2])
        elif len(lines) > 1:
            message += _values(lines[1], message)
        return message or "assertion failed"
    told = f"{type(error).__name__}{': ' * bool(message)}{message}"
    return told if isinstance(error, pytest.fail.Exception) else told + place(error)


def _values(compared: str, message: str) -> str:
    """The two values that pytest's line compares, where the message has neither."""
    got, equals, expected = compared.removeprefix("assert ").partition(" == ")
    known = got in message or expected in message
    asserts = compared.startswith("assert ") and bool(equals)
    return f": {got} != {expected}" if asserts and not known else ""


def one_line(text: str) -> str:
    return " ".join(text.split())


def _skipped(report: pytest.TestReport) -> tuple[Outcome, str]:
    longrepr = report.longrepr
    reason = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    reason = one_line(reason.removeprefix("Skipped: "))
    if reason.startswith(NOT_APPLICABLE):
        return Outcome.NOT_APPLICABLE, reason.removeprefix(NOT_APPLICABLE)
    return Outcome.SKIPPED, reason


def _known(reason: str) -> str:
    return one_line(reason.removeprefix("reason: ").removeprefix("known failure: "))
