"""Results as the testbed around P2P-NCCL keeps them: its CSV, and its printed logs. Pure.

Its ``bench_pd.py`` prints, and its ``collect_from_log.py`` reads::

    == TTFT (stream=true) N=100 ==
      p50=0.656s  p95=0.796s  min=0.077s  max=0.800s

    == Throughput (stream=false) N=100, errors=0 ==
      per-request tokens/sec: p50=67.6  p95=73.3  mean=65.2
      total generated tokens = 8219
      wall time (whole run)   = 8.53s
      aggregate throughput    = 964.1 tokens/sec
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pd_testkit.bench.load.load import PARTICULARS, particulars
from pd_testkit.bench.measures import summarise
from pd_testkit.bench.results import Result

COLUMNS = (
    *("p50_ttft", "p95_ttft", "min_ttft", "max_ttft"),
    *("p50_tps", "p95_tps", "mean_tps"),
    *("total_tokens", "wall_time_sec", "aggregate_throughput"),
)
"""The testbed's, in its order. Times in seconds; tokens are generated ones."""
ABOUT = ("run", "model", "concurrency", "prompt_tokens", "max_tokens")
"""What goes before them where there are several runs in one file."""
_TOLD = ("mode", "prefill", "decode", "policy")
TAGS = ("rate", "arrivals", "stream", *PARTICULARS, *_TOLD)
"""The same, where a run has them."""
_USUAL_ARRIVALS = ("closed", "poisson", "trace")
"""Concurrency, rate or file tell these."""

_SECTION = re.compile(r"^\s*==\s*(TTFT|Throughput)\b(.*?)==\s*$")
_NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan|inf)"
_TTFT = {name: re.compile(rf"\b{name}={_NUMBER}s") for name in ("p50", "p95", "min", "max")}
_TPS = {name: re.compile(rf"\b{name}={_NUMBER}") for name in ("p50", "p95", "mean")}
_LINES = {
    "total_tokens": re.compile(rf"total generated tokens\s*=\s*{_NUMBER}"),
    "wall_time_sec": re.compile(rf"wall time.*?=\s*{_NUMBER}s"),
    "aggregate_throughput": re.compile(rf"aggregate throughput\s*=\s*{_NUMBER}"),
}
_NAME = re.compile(r"run_model_(.+)_conc(\d+)_pt(\d+)_mt(\d+)")


@dataclass
class Row:
    """One run.

    Attributes:
        values: by `COLUMNS`; what is not known is missing.
        about: by `ABOUT` and `TAGS`, likewise.
        errors: requests that failed.
    """

    values: dict[str, float] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)
    errors: int = 0

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(name for name in COLUMNS if name not in self.values)


def read_log(text: str, name: str = "") -> list[Row]:
    """The runs of a log, in its order; other lines are passed over.

    Args:
        name: of the log, without its ending; the testbed's tells model, load and lengths.
    """
    rows: list[Row] = []
    seen: set[str] = set()
    section = ""
    for line in text.splitlines():
        if (head := _SECTION.match(line)) is not None:
            section = head[1]
            if not rows or section in seen or section == "TTFT":
                rows.append(Row())
                seen = set()
            seen.add(section)
            if (errors := re.search(r"errors=(\d+)", head[2])) is not None:
                rows[-1].errors = int(errors[1])
        elif section:
            _read_line(rows[-1].values, section, line)
    about = _named(name)
    for place, row in enumerate(rows, 1):
        row.about = {**about, "run": name if len(rows) == 1 else f"{name}#{place}"}
    return rows


def _read_line(values: dict[str, float], section: str, line: str) -> None:
    if section == "TTFT":
        found = {f"{name}_ttft": each.search(line) for name, each in _TTFT.items()}
    elif "tokens/sec:" in line:
        found = {f"{name}_tps": each.search(line) for name, each in _TPS.items()}
    else:
        found = {name: each.search(line) for name, each in _LINES.items()}
    for name, match in found.items():
        if match is not None and math.isfinite(value := float(match[1])):
            values[name] = value


def _named(name: str) -> dict[str, str]:
    found = _NAME.search(name)
    return dict(zip(ABOUT[1:], found.groups(), strict=True)) if found else {}


def row_of(result: Result, name: str = "") -> Row:
    """Of ``pd-testkit bench``; one that was stopped counts as far as it got."""
    told: Mapping[str, Any] = (
        result.end.summary if result.end is not None else summarise(result.requests).told()
    )
    values: dict[str, Any] = {
        "total_tokens": told.get("output_tokens"),
        "wall_time_sec": told.get("seconds"),
        "aggregate_throughput": told.get("output_tokens_per_s"),
    }
    for column in COLUMNS:
        which, _, measure = column.partition("_")
        if measure in ("ttft", "tps"):
            values[column] = (told.get(measure) or {}).get(which)
    configuration = result.run.configuration
    served = result.run.environment.get("served") or {}
    about = {name: configuration.get(name) for name in ABOUT}
    about |= {
        "run": name or result.name,
        "model": served.get("model") or configuration.get("model"),
        "rate": configuration.get("rate"),
        "arrivals": None if (how := configuration.get("arrivals")) in _USUAL_ARRIVALS else how,
        "stream": None if configuration.get("stream", True) else False,
        **particulars(configuration),
        **{tag: (configuration.get("tags") or {}).get(tag) for tag in _TOLD},
    }
    return Row(
        {name: value for name, value in values.items() if value is not None},
        {name: str(value) for name, value in about.items() if value not in (None, "")},
        sum((told.get("errors") or {}).values()),
    )


def csv_names(rows: Sequence[Row]) -> list[str]:
    """Of each run's CSV: the testbed's, and the tags by which runs differ. A slash of a model's
    name is an underscore."""
    varying = [tag for tag in TAGS if len({row.about.get(tag) for row in rows}) > 1]
    names: list[str] = []
    for row in rows:
        load = zip(("conc", "pt", "mt"), ABOUT[2:], strict=True)
        words = [
            f"run_model_{row.about.get('model', 'unknown')}",
            *(f"{short}{row.about[name]}" for short, name in load if name in row.about),
            *(f"{tag}-{row.about[tag]}" for tag in varying if tag in row.about),
        ]
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", "_".join(words))
        again = sum(re.fullmatch(rf"{re.escape(name)}(_\d+)?", each) is not None for each in names)
        names.append(f"{name}_{again + 1}" if again else name)
    return [f"{name}.csv" for name in names]


def as_csv(rows: Sequence[Row], *, about: bool) -> str:
    """
    Args:
        about: with `ABOUT`, the tags that a row has, and ``errors``; else the testbed's columns.
    """
    tags = tuple(tag for tag in TAGS if any(tag in row.about for row in rows))
    names = (*ABOUT, *tags, *COLUMNS, "errors") if about else COLUMNS
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_cells(rows))
    return text.getvalue()


def _cells(rows: Iterable[Row]) -> list[dict[str, str]]:
    return [
        {
            **row.about,
            **{name: _said(value) for name, value in row.values.items()},
            "errors": str(row.errors),
        }
        for row in rows
    ]


def _said(value: float) -> str:
    """Whole numbers as such."""
    return str(int(value)) if float(value).is_integer() else repr(round(float(value), 9))
