"""All plots, by the names that the command line and the files have for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pd_testkit.plots import bandwidth_figure, load_figures, turn_figures
from pd_testkit.plots.drawing import CannotDraw, Drawing
from pd_testkit.plots.loads import Gathered
from pd_testkit.plots.look import settled


@dataclass(frozen=True)
class Kind:
    """A plot.

    Attributes:
        file: its file's name, without ending; the testbed's where it has the same plot.
        draw: raises `CannotDraw`.
    """

    file: str
    draw: Callable[..., Drawing]


KINDS = {
    "throughput": Kind("throughput_vs_concurrency", load_figures.throughput),
    "ttft": Kind("ttft_vs_prompt_tokens", load_figures.ttft),
    "latency": Kind("latency_distributions", load_figures.latency),
    "pareto": Kind("throughput_vs_latency", load_figures.pareto),
    "modes": Kind("modes_by_turn", turn_figures.modes),
    "hits": Kind("hit_rates_by_turn", turn_figures.hits),
    "bandwidth": Kind("bandwidth", bandwidth_figure.bandwidth),
}


class Drawn(NamedTuple):
    """What became of a kind: a drawing, or why there is none."""

    kind: str
    drawing: Drawing | None
    reason: str = ""

    @property
    def file(self) -> str:
        return KINDS[self.kind].file


def draw(gathered: Gathered, kinds: Iterable[str], *, bare: bool = False) -> Iterator[Drawn]:
    """Each of the kinds, in turn."""
    for kind in kinds:
        with settled():
            try:
                yield Drawn(kind, KINDS[kind].draw(gathered, bare=bare).finish())
            except CannotDraw as reason:
                yield Drawn(kind, None, str(reason))
