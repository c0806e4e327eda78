"""The report: one HTML page that loads nothing else, and reads well without its script too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import pd_testkit
from pd_testkit.bench.results import Result
from pd_testkit.plots import told
from pd_testkit.plots.comparison import Difference, Pair
from pd_testkit.plots.conformance import Target, by_unit
from pd_testkit.plots.conformance import summary as conformance_summary
from pd_testkit.plots.drawing import number
from pd_testkit.plots.inline import inline
from pd_testkit.plots.kinds import KINDS, draw
from pd_testkit.plots.loads import Gathered, of_result, state
from pd_testkit.plots.look import VARIABLES, Look
from pd_testkit.plots.told import NOTHING, Cell, Table, measured

_SHAPES = {
    "o": "M14 2.2a3.3 3.3 0 1 0 .01 0z",
    "s": "M11 2.5h6v6h-6z",
    "^": "M14 2l3.5 6.5h-7z",
    "D": "M14 1.7l3.8 3.8-3.8 3.8-3.8-3.8z",
    "v": "M14 9l3.5-6.5h-7z",
    "P": "M12.8 2h2.4v2.3h2.3v2.4h-2.3V9h-2.4V6.7h-2.3V4.3h2.3z",
    "X": "M11.8 1.8l2.2 2.2 2.2-2.2 1.5 1.5-2.2 2.2 2.2 2.2-1.5 1.5-2.2-2.2-2.2 2.2-1.5-1.5"
    " 2.2-2.2-2.2-2.2z",
}
"""Of markers, around (14, 5.5)."""


@dataclass(frozen=True)
class Gated:
    """What became of a gate for one configuration.

    Attributes:
        word: ``holds``, ``FAILS`` or ``cannot be judged``.
        told: the values.
    """

    gate: str
    name: str
    word: str
    told: str


@dataclass(frozen=True)
class Content:
    """Attributes:
    pairs: with the baseline; None: there is none.
    accuracy: of ``pd-testkit accuracy --json``.
    """

    gathered: Gathered
    pairs: Sequence[Pair] | None = None
    gates: Sequence[Gated] = ()
    conformance: Sequence[Target] = ()
    accuracy: Sequence[Mapping[str, Any]] = field(default=())


def page(content: Content) -> str:
    """The same for the same content."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    gathered = content.gathered
    return environment.get_template("page.html").render(
        kit=pd_testkit.__version__,
        style=Markup(_beside("page.css")),  # noqa: S704 - a file of the kit
        script=Markup(_beside("page.js")),  # noqa: S704 - a file of the kit
        gates=_gates(content.gates) if content.gates else None,
        loads=told.loads(gathered.loads) if gathered.loads else None,
        shared=told.shared(gathered.loads) if gathered.loads else "",
        pairs=_compared(content.pairs),
        plots=list(_plots(gathered)),
        compared=[_mode_tables(each) for each in gathered.of("compare") if each.end],
        multiturn=[_turn_tables(each) for each in gathered.of("multiturn") if each.end],
        bandwidth=[_bandwidth(each) for each in gathered.of("bandwidth") if each.end],
        accuracy=[_accuracy(each) for each in content.accuracy],
        conformance=[conformance_summary(content.conformance), by_unit(content.conformance)]
        if content.conformance
        else [],
        runs=list(map(_run, gathered.results)),
        shapes=_SHAPES,
    )


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf-8")


def _plots(gathered: Gathered) -> Iterable[dict[str, Any]]:
    for drawn in draw(gathered, KINDS, bare=True):
        if drawn.drawing is None:
            yield {"kind": drawn.kind, "reason": drawn.reason}
            continue
        yield {
            "kind": drawn.kind,
            "reason": "",
            "title": drawn.drawing.title,
            "caption": "; ".join([drawn.drawing.caption, *drawn.drawing.notes]),
            "svg": Markup(inline(drawn.drawing, drawn.kind)),  # noqa: S704 - escaped by ElementTree
            "series": [
                (place, name, _variable(look), look)
                for place, (name, look) in enumerate(drawn.drawing.entries)
                if name
            ],
        }


def _gates(gates: Sequence[Gated]) -> Table:
    """What does not hold comes first."""
    rows = [
        [
            Cell(gated.gate),
            Cell(gated.name),
            Cell(gated.word, None, "better" if gated.word == "holds" else "worse"),
            Cell(gated.told),
        ]
        for gated in sorted(gates, key=lambda gated: gated.word)
    ]
    return Table(["fails if", "run", "", "measured"], rows, 4)


def _variable(look: Look) -> str:
    return VARIABLES[look.colour]


def _compared(pairs: Sequence[Pair] | None) -> list[dict[str, Any]] | None:
    if pairs is None:
        return None
    return [
        {
            "name": pair.name,
            "counts": (len(pair.now), len(pair.then)),
            "table": Table(
                ["measure", "baseline", "now", "difference", ""],
                [_difference(each) for each in pair.differences()],
            ),
        }
        for pair in pairs
    ]


def _difference(of: Difference) -> list[Cell]:
    percent = of.percent
    return [
        Cell(of.measure),
        measured(of.measure, of.then),
        measured(of.measure, of.now),
        Cell(NOTHING if percent is None else f"{percent:+.1f} %", percent, of.verdict),
        Cell(", ".join(filter(None, [of.verdict, of.noise.value])), None, of.verdict),
    ]


def _mode_tables(result: Result) -> dict[str, Any]:
    assert result.end
    told_modes = result.end.summary.get("modes", {})
    return {
        "name": result.name,
        "tables": [told.pairs(result.end.summary), told.modes(result.end.summary)],
        "turns": [(mode, told.turns(each["turns"])) for mode, each in told_modes.items()],
    }


def _turn_tables(result: Result) -> dict[str, Any]:
    assert result.end
    return {"name": result.name, "table": told.turns(result.end.summary.get("turns", ()))}


def _bandwidth(result: Result) -> dict[str, Any]:
    assert result.end
    summary = result.end.summary
    per_token = summary.get("kv_bytes_per_token")
    facts = [
        ("KV per token", f"{number(per_token)} B" if per_token else NOTHING),
        ("apparent, from TTFT", told.speed(summary.get("apparent_bytes_per_s")).shown),
        ("from the engines' metrics", told.speed(summary.get("transfer_bytes_per_s")).shown),
        ("link", str(summary.get("link") or NOTHING)),
    ]
    return {
        "name": result.name,
        "verdict": summary.get("verdict", ""),
        "facts": facts,
        "table": told.transfers(summary),
    }


def _accuracy(document: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        [
            Cell(str(check["name"])),
            Cell(
                str(check["outcome"]),
                None,
                {"kept": "better", "failed": "worse"}.get(str(check["outcome"]), ""),
            ),
            Cell(str(check.get("got") or check.get("detail") or "")),
            Cell(f"{float(check.get('seconds', 0)):.1f} s", float(check.get("seconds", 0))),
        ]
        for check in document["checks"]
    ]
    return {
        "succeeded": bool(document["succeeded"]),
        "facts": list(
            told.flat({k: document[k] for k in document if k not in ("checks", "succeeded")})
        ),
        "table": Table(["check", "outcome", "told", "took"], rows, 3),
    }


def _run(result: Result) -> dict[str, Any]:
    parts = of_result(result)
    return {
        "name": result.name,
        "state": state(result),
        "facts": [fact for fact in told.facts(result) if fact[1]],
        "warnings": list(result.end.warnings) if result.end else [],
        "configuration": list(told.flat(result.run.configuration)),
        "environment": list(told.flat(result.run.environment)),
        "errors": told.errors(result),
        "statistics": [
            (part.name, table) for part in parts if (table := told.statistics(part)) is not None
        ],
    }
