"""``p95_ttft > 1.1 * baseline``: when a report fails.

A small language: measures by name, numbers, ``baseline`` for the same measure of the baseline,
``+ - * /``, comparisons, ``and`` and ``or``. Python's parser reads it; nothing is ever run.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pd_testkit.plots.loads import DISTRIBUTIONS, MEASURES, STATISTICS

BASELINE = "baseline"
_LONGEST = 1000
_LARGEST = 1e300

_ARITHMETIC: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_COMPARISONS: Mapping[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}

Measures = Callable[[str], float | None]
"""Gives a measure by its name; None where it is not known."""


class WrongGate(ValueError):
    """An expression that is none, in one line."""


@dataclass(frozen=True)
class Verdict:
    """Attributes:
    fails: the expression is true; None: it cannot be judged.
    values: of the measures that it names.
    baseline: of the same measures, as far as it asks for them.
    """

    fails: bool | None
    values: Mapping[str, float | None]
    baseline: Mapping[str, float | None]

    @property
    def missing(self) -> list[str]:
        """What is not known, in words."""
        return [
            *(name for name, value in self.values.items() if value is None),
            *(f"{name} of the baseline" for name, value in self.baseline.items() if value is None),
        ]


@dataclass(frozen=True)
class Gate:
    """An expression that was understood."""

    text: str
    _condition: ast.expr

    @classmethod
    def parse(cls, text: str) -> Gate:
        """
        Raises:
            WrongGate: it is no condition in this language.
        """
        if len(text) > _LONGEST:
            raise WrongGate(f"an expression has at most {_LONGEST} characters")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of odd spellings: they are refused or harmless
                condition = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise WrongGate(
                f"{text!r} is no expression such as 'p95_ttft > 1.1 * {BASELINE}'"
            ) from None
        _check_condition(text, condition)
        return cls(text, condition)

    def judge(self, now: Measures, then: Measures) -> Verdict:
        """Whether it is true of what was measured `now`, the baseline being `then`."""
        values: dict[str, float | None] = {}
        baseline: dict[str, float | None] = {}
        for comparison in _comparisons(self._condition):
            names, asks = _names(comparison)
            values |= {name: now(name) for name in names}
            if asks:
                baseline |= {name: then(name) for name in names}
        return Verdict(_truth(self._condition, values, baseline), values, baseline)


def _check_condition(text: str, node: ast.expr) -> None:
    if isinstance(node, ast.BoolOp):
        for each in node.values:
            _check_condition(text, each)
        return
    if not isinstance(node, ast.Compare):
        raise WrongGate(f"{text!r}: {_source(node)!r} is no comparison")
    if unknown := [each for each in node.ops if type(each) not in _COMPARISONS]:
        raise WrongGate(f"{text!r}: there is no {type(unknown[0]).__name__} in gates")
    for each in (node.left, *node.comparators):
        _check_value(text, each)
    names, asks = _names(node)
    if asks and len(names) != 1:
        raise WrongGate(
            f"{text!r}: {BASELINE} is of the one measure that it is compared with,"
            f" and here are {len(names)}"
        )


def _check_value(text: str, node: ast.expr) -> None:
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        _check_value(text, node.left)
        _check_value(text, node.right)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        _check_value(text, node.operand)
    elif isinstance(node, ast.Name):
        if node.id != BASELINE and node.id not in MEASURES:
            raise WrongGate(f"{text!r}: no measure {node.id!r}; there are {_known()}")
    elif not (isinstance(node, ast.Constant) and type(node.value) in (int, float)):
        raise WrongGate(f"{text!r}: {_source(node)!r} is neither a number nor a measure")
    elif abs(node.value) > _LARGEST:  # type: ignore[arg-type]
        raise WrongGate(f"{text!r}: a number in it is too large")


def _known() -> str:
    single = [name for name in MEASURES if name.partition("_")[2] not in DISTRIBUTIONS]
    return f"{', '.join(single)}, {'|'.join(STATISTICS)}_{'|'.join(DISTRIBUTIONS)}, {BASELINE}"


def _source(node: ast.expr) -> str:
    return ast.unparse(node)[:60]


def _comparisons(node: ast.expr) -> list[ast.Compare]:
    return [each for each in ast.walk(node) if isinstance(each, ast.Compare)]


def _names(node: ast.AST) -> tuple[list[str], bool]:
    """Of measures, each once, and whether it asks for the baseline."""
    names = dict.fromkeys(each.id for each in ast.walk(node) if isinstance(each, ast.Name))
    return [name for name in names if name != BASELINE], BASELINE in names


Values = Mapping[str, "float | None"]


def _truth(node: ast.expr, values: Values, baseline: Values) -> bool | None:
    """Three-valued: what is unknown decides nothing that something known decides."""
    if isinstance(node, ast.BoolOp):
        found = [_truth(each, values, baseline) for each in node.values]
        decides = isinstance(node.op, ast.Or)
        if decides in found:
            return decides
        return None if None in found else not decides
    assert isinstance(node, ast.Compare)
    names, _ = _names(node)
    before = baseline.get(names[0]) if names else None
    sides = [_value(each, values, before) for each in (node.left, *node.comparators)]
    found = [
        None if left is None or right is None else _COMPARISONS[type(op)](left, right)
        for op, left, right in zip(node.ops, sides, sides[1:], strict=False)
    ]
    if False in found:
        return False
    return None if None in found else True


def _number(node: ast.Constant) -> float:
    return float(node.value)  # type: ignore[arg-type]


def _value(node: Any, values: Values, before: float | None) -> float | None:
    """None: it needs what is not known, or divides by zero."""
    if isinstance(node, ast.Constant):
        return _number(node)
    if isinstance(node, ast.Name):
        return before if node.id == BASELINE else values[node.id]
    if isinstance(node, ast.UnaryOp):
        operand = _value(node.operand, values, before)
        return None if operand is None else -operand
    left, right = (_value(each, values, before) for each in (node.left, node.right))
    if left is None or right is None or (isinstance(node.op, ast.Div) and right == 0):
        return None
    return _ARITHMETIC[type(node.op)](left, right)
