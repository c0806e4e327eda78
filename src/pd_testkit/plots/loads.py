"""What was asked of a deployment, and what it did: one point of a plot, one row of a table.

A result file is one load, or one per mode of routing where it compares some. A CSV of the testbed
(``run_model_NAME_conc4_pt64_mt128.csv``) is one as well, of which less is known.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pd_testkit.bench.load.load import PARTICULARS, particulars
from pd_testkit.bench.measures import Summary, Timing, summarise, timing
from pd_testkit.bench.results import NoResult, Request, Result, files, read

DISTRIBUTIONS = ("ttft", "ttst", "tpot", "itl", "e2e", "tps", "late")
STATISTICS = ("mean", "std", "min", "p50", "p90", "p95", "p99", "max")
COUNTS = {
    "throughput": "output_tokens_per_s",
    "total_throughput": "total_tokens_per_s",
    "requests_per_s": "requests_per_s",
    "goodput": "goodput_per_s",
    "seconds": "seconds",
    "requests": "requests",
    "completed": "completed",
    "output_tokens": "output_tokens",
}
"""Measures that are one number, and their names in a summary."""
MEASURES = (
    *(f"{statistic}_{name}" for name in DISTRIBUTIONS for statistic in STATISTICS),
    *COUNTS,
    "errors",
    "error_rate",
)
"""All names that `Load.measure` knows. Times are in seconds."""

_IN_TURNS = ("compare", "multiturn")
"""Commands whose requests of a mode are no load by themselves: turns of other modes lie between
them, and waits until the engines' counters stand still."""
_OVER_TIME = (
    *("seconds", "requests_per_s", "output_tokens_per_s", "total_tokens_per_s", "goodput_per_s"),
)
_TOLD_OTHERWISE = ("mode", "prefill", "decode", "cell")
"""Tags; ``cell`` is only the name of a sweep's file."""
_TESTBED = re.compile(
    r"run_model_(?P<model>.+)_conc(?P<c>\d+)_pt(?P<pt>\d+)_mt(?P<mt>\d+)(?:_(?P<rest>.+))?"
)
_TESTBED_TRAITS = (
    *("label", "model", "mode", "policy", "arrivals", "concurrency", "rate"),
    *("prompt_tokens", "max_tokens", "stream", *PARTICULARS),
)
_TESTBED_COLUMNS = {"p50_ttft", "p95_ttft", "aggregate_throughput"}


@dataclass(frozen=True)
class Load:
    """One configuration, measured once.

    Attributes:
        name: what a person calls it.
        command: that measured it; ``testbed`` for a CSV.
        traits: by which loads are told apart, by name; None where unknown or not meant, and empty
            where there is nothing particular.
        told: as `Summary.told` has it, as far as is known.
        timings: of each whole answer; empty for a CSV.
        state: ``interrupted``, ``killed`` or empty.
    """

    name: str
    command: str
    traits: Mapping[str, Any]
    told: Mapping[str, Any]
    timings: Sequence[Timing] = ()
    state: str = ""
    prompts: Sequence[int | None] = field(default=())

    def measure(self, name: str) -> float | None:
        """Of `MEASURES`; None where it cannot be told.

        Raises:
            KeyError: there is no such measure.
        """
        if name not in MEASURES:
            raise KeyError(name)
        if name in COUNTS:
            return self._number(self.told.get(COUNTS[name]))
        errors: Mapping[str, int] | None = self.told.get("errors")
        if name == "errors":
            return None if errors is None else float(sum(errors.values()))
        if name == "error_rate":
            requests = self.told.get("requests")
            return sum(errors.values()) / requests if errors is not None and requests else None
        statistic, _, of = name.partition("_")
        return self._number(self.told.get(of, {}).get(statistic))

    def samples(self, of: str) -> list[float]:
        """Each value of ``ttft``, ``itl`` or ``e2e``, in seconds, in ascending order."""
        if of == "itl":
            return sorted(gap for each in self.timings for gap in each.itl)
        values = (getattr(each, of) for each in self.timings)
        return sorted(value for value in values if value is not None)

    @staticmethod
    def _number(value: Any) -> float | None:
        return None if value is None else float(value)


def of_result(result: Result) -> list[Load]:
    """One, or one per mode of its requests."""
    modes = list(dict.fromkeys(request.mode for request in result.measured)) or [""]
    return [
        _part(result, mode, [each for each in result.measured if each.mode == mode])
        for mode in modes
    ]


def state(result: Result) -> str:
    """``interrupted``, ``killed``, or empty where it ran to its end."""
    if result.end is None:
        return "killed"
    return "interrupted" if result.end.interrupted else ""


def model(result: Result) -> str:
    """Its name; empty where the file does not tell."""
    told: Any = result.run.configuration.get("model")
    for group in (result.run.environment, result.run.configuration):
        served = group.get("served")
        told = told or (served.get("model") if isinstance(served, dict) else None)
    return str(told or result.run.environment.get("model") or "")


def _part(result: Result, mode: str, requests: Sequence[Request]) -> Load:
    summary = summarise(requests)
    whole = [request for request in requests if not request.error]
    return Load(
        name=f"{result.name} {mode}".strip(),
        command=result.run.command,
        traits=_traits(result, mode),
        told=_told(summary, result),
        timings=[timing(request) for request in whole],
        state=state(result),
        prompts=[request.prompt_tokens for request in whole],
    )


def _told(summary: Summary, result: Result) -> dict[str, Any]:
    """With goodput, whose objectives are only in what its command says, and without what is over
    time where the time is not the load's."""
    known = result.end.summary if result.end else {}
    told = summary.told() | {
        name: known[name] for name in ("good", "goodput_per_s") if known.get(name) is not None
    }
    if result.run.command in _IN_TURNS:
        return {name: value for name, value in told.items() if name not in _OVER_TIME}
    return told


def _traits(result: Result, mode: str) -> dict[str, Any]:
    told = result.run.configuration
    tags: Mapping[str, Any] = told.get("tags") or {}
    traits: dict[str, Any] = {
        "label": result.run.label or None,
        "model": model(result) or None,
        "mode": mode or tags.get("mode"),
        "engines": _engines(tags),
    }
    traits |= {name: value for name, value in tags.items() if name not in _TOLD_OTHERWISE}
    for name in ("arrivals", "concurrency", "rate", "prompt_tokens", "max_tokens", "stream"):
        traits[name] = told.get(name)
    if result.run.command == "bench":
        traits |= particulars(told)
    traits["commit"] = result.run.environment.get("commit") or None
    return traits


def _engines(told: Mapping[str, Any]) -> str | None:
    prefill, decode = told.get("prefill"), told.get("decode")
    return None if {prefill, decode} & {None, ""} else f"{prefill}P {decode}D"


def of_csv(path: Path) -> list[Load]:
    """The rows of a CSV of the testbed; none where it is another CSV.

    Raises:
        NoResult: it is one, and a cell is no number.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        try:
            if not _TESTBED_COLUMNS.issubset(rows.fieldnames or ()):
                return []
        except (UnicodeDecodeError, csv.Error):  # somebody else's, and perhaps no table at all
            return []
        try:
            return [_row(path, row) for row in rows]
        except ValueError as problem:
            raise NoResult(f"{path}, line {rows.line_num}: {problem}") from None


def _row(path: Path, row: Mapping[str, str]) -> Load:
    numbers = {name: float(cell) for name in row if (cell := row[name]) and _is_measure(name)}
    named = _TESTBED.fullmatch(path.stem)
    told: dict[str, Any] = {
        of: {
            statistic: numbers[f"{statistic}_{of}"]
            for statistic in STATISTICS
            if f"{statistic}_{of}" in numbers
        }
        for of in ("ttft", "tps")
    }
    renamed = {
        "total_tokens": "output_tokens",
        "wall_time_sec": "seconds",
        "aggregate_throughput": "output_tokens_per_s",
    }
    told |= {new: numbers[old] for old, new in renamed.items() if old in numbers}
    traits: dict[str, Any] = {}
    if named:
        traits = {
            "label": named["rest"],
            "model": named["model"],
            "concurrency": int(named["c"]),
            "prompt_tokens": int(named["pt"]),
            "max_tokens": int(named["mt"]),
        }
    traits |= {name: _trait(name, row[name]) for name in _TESTBED_TRAITS if row.get(name)}
    if engines := _engines(row):
        traits["engines"] = engines
    return Load(row.get("run") or path.stem, "testbed", traits, told)


def _trait(name: str, cell: str) -> Any:
    if name in _PLAIN:
        return cell
    if cell in ("True", "False"):
        return cell == "True"
    try:
        return int(cell) if cell.isdecimal() else float(cell)
    except ValueError:
        return cell


def _is_measure(column: str) -> bool:
    return column.partition("_")[2] in ("ttft", "tps") or column in (
        "total_tokens",
        "wall_time_sec",
        "aggregate_throughput",
    )


@dataclass(frozen=True)
class Gathered:
    """What lies at some paths.

    Attributes:
        results: of result files.
        loads: of these, but for bandwidth's, and of CSVs.
    """

    results: tuple[Result, ...]
    loads: tuple[Load, ...]

    def of(self, command: str) -> list[Result]:
        """The results of one command."""
        return [result for result in self.results if result.run.command == command]


def gather(paths: Sequence[Path]) -> Gathered:
    """Result files and the testbed's CSVs, which are named or lie in folders that are named. CSVs
    that lie beside result files tell of the same runs, and are left out unless they are named; so
    is what another CSV has told already.

    Raises:
        NoResult: there is nothing, or what is named is none.
        OSError: it cannot be read.
    """
    tables: list[Path] = []
    named: list[Path] = []
    for path in paths:
        if path.is_dir():
            tables += sorted(path.rglob("*.csv"))
        (tables if path.suffix == ".csv" and path.is_file() else named).append(path)
    by_csv = {path: of_csv(path) for path in dict.fromkeys(tables)}
    foreign = [path for path in paths if path in by_csv and not by_csv[path]]
    if foreign:
        raise NoResult(f"{foreign[0]}: no CSV of the testbed: no column aggregate_throughput")
    try:
        found = list(dict.fromkeys(files(named))) if named else []
    except NoResult:
        if not any(by_csv.values()) or not all(path.exists() for path in named):
            raise
        found = []
    results = tuple(map(read, found))
    beside = {path.parent for path in found}
    loads = [
        load
        for result in results
        if result.run.command != "bandwidth"
        for load in of_result(result)
    ]
    told: list[Mapping[str, Any]] = []
    for path, rows in by_csv.items():
        if path in paths or path.parent not in beside:
            fresh = [row for row in rows if row.told not in told]
            told += [row.told for row in fresh]
            loads += fresh
    return Gathered(results, tuple(loads))


_SAID = {
    "concurrency": "concurrency {}",
    "rate": "{} requests/s",
    "prompt_tokens": "{} prompt tokens",
    "max_tokens": "{} output tokens",
    "prompt_lengths": "prompts of {} tokens",
    "answer_lengths": "answers of {} tokens",
    "prefix_tokens": "{} prefix tokens",
    "prefix_groups": "{} prefix groups",
    "burst": "bursts of {}",
    "ramp_from": "from {} requests/s",
    "ramp_s": "within {} s",
    "chat": "chat",
    "exact": "as the model ends",
}
_PLAIN = ("label", "model", "mode", "engines", "arrivals", "file", "commit")


def said(trait: str, value: Any) -> str:
    """A trait in words; empty where there is nothing to say."""
    if value is None or value == "":
        return ""
    if trait == "stream":
        return "streamed" if value else "not streamed"
    if isinstance(value, float):
        value = f"{value:g}"
    if trait in _PLAIN:
        return str(value)
    return _SAID[trait].format(value) if trait in _SAID else f"{trait} {value}"


def telling_apart(loads: Sequence[Load]) -> list[str]:
    """The traits that not all of them share."""
    names = dict.fromkeys(name for load in loads for name in load.traits)
    return [name for name in names if len({_key(load.traits.get(name)) for load in loads}) > 1]


def words(load: Load, traits: Iterable[str]) -> str:
    """These traits of it."""
    return ", ".join(filter(None, (said(name, load.traits.get(name)) for name in traits)))


def series(loads: Iterable[Load], *along: str) -> dict[str, list[Load]]:
    """Loads by what sets them apart, in words, other than the traits `along` which they are drawn.

    Loads that nothing sets apart are one series. Where all are one, its name is empty.
    """
    given = list(loads)
    apart = [name for name in telling_apart(given) if name not in along]
    found: dict[str, list[Load]] = {}
    for load in sorted(given, key=_order(given, apart)):
        found.setdefault(words(load, apart), []).append(load)
    if len(found) > 1 and "" in found:
        found = {name or "others": group for name, group in found.items()}
    return found


def _order(loads: Sequence[Load], traits: Sequence[str]) -> Callable[[Load], tuple[float, ...]]:
    """Numbers by size; words as they come first."""
    seen: dict[str, dict[str, int]] = {name: {} for name in traits}
    for load in loads:
        for name in traits:
            seen[name].setdefault(_key(load.traits.get(name)), len(seen[name]))

    def place(load: Load) -> tuple[float, ...]:
        values = [(name, load.traits.get(name)) for name in traits]
        return tuple(
            float(value) if isinstance(value, (int, float)) else float(seen[name][_key(value)])
            for name, value in values
        )

    return place


def _key(value: Any) -> str:
    return repr(value)
