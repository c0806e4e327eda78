"""The end of a run with L3 tests says what ran, and which clauses were checked on real memory."""

from __future__ import annotations

import pytest

from pd_testkit.report.l3 import L3


def report(
    name: str, outcome: str, *clauses: str, reason: str = "", **more: str
) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=name,
        location=("test.py", 0, name),
        keywords={},
        outcome=outcome,  # type: ignore[arg-type]
        longrepr=("test.py", 0, f"Skipped: {reason}") if reason else None,
        when="setup" if reason else "call",
        user_properties=[("clauses", told) for told in clauses],
        **more,
    )


def test_clauses_are_told_once_and_a_broken_one_is_not_kept() -> None:
    l3 = L3()
    l3.add(report("one", "passed", "PAIR-002 PAIR-001"))
    l3.add(report("two", "failed", "PAIR-002", "PAIR-067"))
    l3.add(report("three", "passed", "PAIR-001"))
    l3.add(report("four", "skipped", "PAIR-003", reason="not applicable: no RDMA"))
    assert l3.lines("2 GPUs") == [
        "L3 on 2 GPUs: 2 passed, 1 failed, 1 skipped",
        "  kept on it: PAIR-001",
        "  broken on it: PAIR-002 PAIR-067",
        "  1 skipped: no RDMA",
    ]


def test_what_is_expected_to_fail_and_does_is_broken() -> None:
    """Pytest reports it as skipped, and without a reason to skip."""
    l3 = L3()
    l3.add(report("one", "passed", "PAIR-067 PAIR-068"))
    l3.add(report("two", "skipped", "PAIR-068", wasxfail="known"))
    assert l3.lines("2 GPUs") == [
        "L3 on 2 GPUs: 1 passed, 0 failed, 1 expected to fail, 0 skipped",
        "  kept on it: PAIR-067",
        "  broken on it: PAIR-068",
    ]


def test_many_clauses_take_several_lines() -> None:
    l3 = L3()
    ids = [f"PAIR-{number:03}" for number in range(1, 25)]
    l3.add(report("one", "passed", " ".join(ids)))
    told = l3.lines("1 GPU")[1:]
    assert len(told) > 1
    assert max(map(len, told)) <= 100
    assert " ".join(told).split() == ["kept", "on", "it:", *ids]
