"""``--fail-if``: what is said of runs, what it comes to, and what is refused."""

from __future__ import annotations

import ast

import pytest

from pd_testkit.plots.gate import Gate, WrongGate

NOW = {"p95_ttft": 0.22, "mean_itl": 0.01, "throughput": 900.0, "errors": 0.0, "goodput": None}
THEN = {"p95_ttft": 0.2, "mean_itl": 0.01, "throughput": 1000.0, "errors": 2.0, "goodput": None}


@pytest.mark.parametrize(
    ("text", "fails"),
    [
        ("p95_ttft > 0.2", True),
        ("p95_ttft > 1.05 * baseline", True),
        ("p95_ttft > 1.2 * baseline", False),
        ("baseline * 1.05 < p95_ttft", True),
        ("p95_ttft - baseline > 0.01", True),
        ("p95_ttft - baseline > 0.03", False),
        ("p95_ttft / baseline >= 1.2", False),
        ("throughput < 0.95 * baseline", True),
        ("throughput + 100 == baseline", True),
        ("mean_itl != baseline", False),
        ("errors > 0", False),
        ("errors >= 0 and throughput < 1000", True),
        ("errors > 0 or throughput < 1000", True),
        ("errors > 0 and goodput < 1", False),
        ("throughput < 1000 or goodput < 1", True),
        ("errors > 0 or goodput < 1", None),
        ("throughput < 1000 and goodput < 1", None),
        ("goodput < 0.9 * baseline", None),
        ("throughput / errors > 1", None),
        ("800 < throughput < 1000", True),
        ("800 < throughput < 850", False),
        ("-throughput < -850", True),
        ("(p95_ttft > 1.05 * baseline) and (throughput < 0.95 * baseline)", True),
    ],
)
def test_expressions(text, fails):
    assert Gate.parse(text).judge(NOW.get, THEN.get).fails is fails


def test_nothing_is_known_of_a_baseline_that_is_not_there():
    verdict = Gate.parse("p95_ttft > 1.1 * baseline").judge(NOW.get, lambda _: None)
    assert verdict.fails is None
    assert verdict.values == {"p95_ttft": 0.22}
    assert verdict.missing == ["p95_ttft of the baseline"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is no expression such as"),
        ("p95_ttft >", "is no expression such as"),
        ("p95_ttft = 3", "is no expression such as"),
        ("p95_ttft; errors > 0", "is no expression such as"),
        ("(" * 300, "is no expression such as"),
        ("p95_ttft", "'p95_ttft' is no comparison"),
        ("1 + 1", "'1 + 1' is no comparison"),
        ("not errors > 0", "is no comparison"),
        ("p96_ttft > 1", "no measure 'p96_ttft'; there are throughput, "),
        ("ttft > 1", "mean|std|min|p50|p90|p95|p99|max_ttft|ttst|tpot|itl|e2e|tps|late, baseline"),
        ("__import__('os').system('true') > 0", "is neither a number nor a measure"),
        ("errors.real > 0", "'errors.real' is neither a number nor a measure"),
        ("errors[0] > 0", "is neither a number nor a measure"),
        ("'a' > errors", "is neither a number nor a measure"),
        ("True > errors", "is neither a number nor a measure"),
        ("errors > 2 ** 9", "is neither a number nor a measure"),
        ("errors in (1, 2)", "there is no In in gates"),
        ("errors is 0", "there is no Is in gates"),
        ("lambda: 0", "is no comparison"),
        ("baseline > 1", "baseline is of the one measure that it is compared with, and here are 0"),
        ("p95_ttft + mean_itl > baseline", "and here are 2"),
        ("errors > " + "9" * 400, "a number in it is too large"),
        ("errors > 1e999", "a number in it is too large"),
        ("errors > 0 or " * 200 + "errors > 0", "an expression has at most 1000 characters"),
    ],
)
def test_what_is_no_gate_is_refused_in_one_line(text, why):
    with pytest.raises(WrongGate) as refused:
        Gate.parse(text)
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)


def test_nothing_is_run(monkeypatch):
    def run(*_):
        raise AssertionError("an expression was run")

    gate = Gate.parse("p95_ttft > 1.1 * baseline or errors > 0")
    monkeypatch.setattr("builtins.eval", run)
    monkeypatch.setattr("builtins.exec", run)
    assert gate.judge(NOW.get, THEN.get).fails is False
    assert isinstance(ast.parse(gate.text, mode="eval"), ast.Expression)
