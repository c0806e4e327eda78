"""How things look: colours that colour-blind people tell apart, and dashes and markers besides.

The colours are M. Okabe and K. Ito's ("Color Universal Design", jfly.uni-koeln.de/color). Each of
the light ones stands for a variable of the page's style, so that it can become a dark page's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl

TEXT, SOFT, LINE, GROUND = "#1b1f24", "#57606a", "#d0d7de", "#ffffff"
_SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b07d00", "#6a51a3")
_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1, 1.5), (6, 2, 1.5, 2))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

VARIABLES = {
    TEXT: "--text",
    SOFT: "--soft",
    LINE: "--line",
    GROUND: "--ground",
    **{colour: f"--series-{place}" for place, colour in enumerate(_SERIES)},
}
"""Of the page's style, by the colour that they have on a light ground."""

_PARAMETERS: dict[str, Any] = {
    "axes.edgecolor": SOFT,
    "axes.facecolor": GROUND,
    "axes.grid": True,
    "axes.labelcolor": TEXT,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "axes.unicode_minus": False,
    "figure.facecolor": GROUND,
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 10,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "path.sketch": None,
    "svg.fonttype": "none",
    "svg.hashsalt": "pd-testkit",
    "text.color": TEXT,
    "text.parse_math": False,
    "text.usetex": False,
    "xtick.color": SOFT,
    "xtick.labelsize": 9,
    "ytick.color": SOFT,
    "ytick.labelsize": 9,
}


@dataclass(frozen=True)
class Look:
    """Of a series: no two of the first 84 are alike.

    Attributes:
        dashes: lengths of strokes and gaps, in line widths; empty: none.
    """

    colour: str
    dashes: tuple[float, ...]
    marker: str

    @classmethod
    def of(cls, place: int) -> Look:
        return cls(
            _SERIES[place % len(_SERIES)],
            _DASHES[place % len(_DASHES)],
            _MARKERS[place % len(_MARKERS)],
        )

    @property
    def linestyle(self) -> Any:
        """As matplotlib has it."""
        return (0, self.dashes) if self.dashes else "-"


@contextmanager
def settled() -> Iterator[None]:
    """What is drawn in here looks alike, whatever the machine's matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_PARAMETERS)  # type: ignore[arg-type]
        yield
