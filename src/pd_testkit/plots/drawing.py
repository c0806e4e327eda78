"""A figure, and what a page needs to know of it: its values, and what its series look like."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from pd_testkit.plots.look import SOFT, Look, settled

_POINTS_PER_INCH = 72
_PNG_DPI = 144
_WIDTH = 6.8
_LEGEND_LETTERS = 74
_LEGEND_ROW = 0.2


class CannotDraw(ValueError):
    """The data has not what a plot needs; says what."""


@dataclass(frozen=True)
class Mark:
    """A value that can be pointed at.

    Attributes:
        x, y: in the data's units.
        text: what it says.
        series: its place in `Drawing.entries`; None where it is of none.
    """

    axes: Axes
    x: float
    y: float
    text: str
    series: int | None = None


@dataclass
class Drawing:
    """One plot.

    Attributes:
        title: what it shows.
        caption: what lines, bars and bands mean.
        entries: names and looks of its series.
        bare: without title and legend, which the page around it has.
    """

    title: str
    caption: str
    figure: Figure
    axes: Sequence[Axes]
    bare: bool = False
    entries: list[tuple[str, Look]] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def entry(self, name: str) -> tuple[int, Look]:
        """The series of that name, which is made where there is none."""
        for place, (known, look) in enumerate(self.entries):
            if known == name:
                return place, look
        look = Look.of(len(self.entries))
        self.entries.append((name, look))
        return len(self.entries) - 1, look

    def mark(self, axes: Axes, x: float, y: float, text: str, series: int | None = None) -> None:
        self.marks.append(Mark(axes, x, y, text, series))

    def finish(self) -> Drawing:
        """Puts the parts into their places, where they stay."""
        named = [(plain(name), look) for name, look in self.entries if name]
        if not self.bare:
            self._head()
            if named:
                self._legend(named)
        FigureCanvasAgg(self.figure)
        self.figure.draw_without_rendering()
        self.figure.set_layout_engine("none")
        return self

    def _head(self) -> None:
        top = self.axes[0]
        lines = self.caption.count("\n") + 1
        top.set_title(
            self.title, loc="left", fontweight="bold", fontsize=11.5, pad=8 + 11.5 * lines
        )
        top.annotate(
            self.caption,
            (0, 1),
            xycoords="axes fraction",
            xytext=(0, 5),
            textcoords="offset points",
            va="bottom",
            fontsize=8.5,
            color=SOFT,
        )

    def _legend(self, named: Sequence[tuple[str, Look]]) -> None:
        handles = [
            Line2D(
                [],
                [],
                color=look.colour,
                linestyle=look.linestyle,
                marker=look.marker,
            )
            for _, look in named
        ]
        longest = max(len(name) for name, _ in named)
        columns = max(1, min(len(named), _LEGEND_LETTERS // (longest + 6)))
        rows = math.ceil(len(named) / columns)
        self.figure.set_figheight(self.figure.get_figheight() + _LEGEND_ROW * rows)
        self.figure.legend(
            handles,
            [name for name, _ in named],
            loc="outside lower left",
            ncols=columns,
            fontsize=9,
            handlelength=3,
        )

    def write(self, path: Path) -> None:
        """As PNG or SVG, by the path's ending; the same drawing gives the same bytes.

        Raises:
            OSError: it cannot be written.
        """
        ending = path.suffix.removeprefix(".")
        path.write_bytes(self.svg() if ending == "svg" else self._saved("png"))

    def svg(self) -> bytes:
        return self._saved("svg")

    def _saved(self, form: str) -> bytes:
        told: dict[str, Any] = {"Software": "pd-testkit"} if form == "png" else {"Date": None}
        written = io.BytesIO()
        with settled():
            self.figure.savefig(written, format=form, dpi=_PNG_DPI, metadata=told)
        return written.getvalue()


def begun(
    title: str,
    caption: str,
    *,
    bare: bool,
    height: float = 3.8,
    panels: int = 1,
    ratios: Sequence[float] | None = None,
    share: bool = False,
) -> Drawing:
    """An empty one, with its panels below one another. Inside `settled` only."""
    figure = Figure(figsize=(_WIDTH, height), dpi=_POINTS_PER_INCH, layout="constrained")
    axes = figure.subplots(panels, 1, squeeze=False, height_ratios=ratios, sharex=share)
    for each in axes[:, 0]:
        each.set_axisbelow(True)
    return Drawing(title, caption, figure, list(axes[:, 0]), bare)


def plain(text: str) -> str:
    """Of a name that somebody else chose, what can be drawn; no legend leaves out ``_name``."""
    shown = "".join(each if each.isprintable() else "?" for each in text)
    return f" {shown}" if shown.startswith("_") else shown


def number(value: float) -> str:
    """With three digits that count, and no exponent where people expect none."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.3g}" if size >= 1e-4 else f"{value:.1e}"


def measured(value: float) -> str:
    """With three digits that count, whether they are zeros or not."""
    if value == 0 or abs(value) >= 1000 or abs(value) < 1e-4:
        return number(value)
    return f"{value:#.3g}".removesuffix(".")


@dataclass(frozen=True)
class Unit:
    """What a number is shown in.

    Attributes:
        name: such as ``ms``.
        factor: from the unit that it is kept in.
    """

    name: str
    factor: float

    def said(self, value: float) -> str:
        return f"{measured(value * self.factor)} {self.name}"


def seconds(largest: float) -> Unit:
    """The unit for times of which `largest` is one, in seconds."""
    if largest < 1e-3:
        return Unit("µs", 1e6)
    return Unit("ms", 1e3) if largest < 10 else Unit("s", 1.0)


def octets(largest: float) -> Unit:
    """The unit for sizes of which `largest` is one, in bytes."""
    for name, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if largest >= factor:
            return Unit(name, 1 / factor)
    return Unit("B", 1.0)


def along_x(axes: Axes, values: Sequence[float]) -> None:
    """Ticks where the values are, as far as there is room; a log axis where they span much."""
    places = sorted(set(values))
    wide = places[0] > 0 and places[-1] / places[0] >= 8
    if wide:
        axes.set_xscale("log", base=2)
    elif len(places) > 1:
        axes.set_xscale("linear")
    low, high = axes.get_xlim()
    at = [axes.transScale.transform((place, 1))[0] for place in (low, high, *places)]
    room = 0.055 * (at[1] - at[0])
    shown: list[float] = []
    last = float("-inf")
    for place, where in zip(places, at[2:], strict=True):
        if where - last >= room:
            shown.append(place)
            last = where
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def plain_log(axis: Any) -> None:
    """Numbers as people write them on a log axis, 1, 2 and 5 of each decade where there are few."""
    low, high = sorted(axis.get_view_interval())
    few = low > 0 and high / low < 300
    axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5) if few else (1,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def from_zero(axes: Axes) -> None:
    """The y axis begins at 0, with room above the highest value."""
    axes.set_ylim(0, max(1.06 * axes.dataLim.y1, 1e-9))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
