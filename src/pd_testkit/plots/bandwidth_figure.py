"""How long KV took to come over, against how much it was, among what links do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from pd_testkit.bench.kv.links import LINKS
from pd_testkit.bench.results import Result
from pd_testkit.plots.drawing import CannotDraw, Drawing, begun, octets, plain_log, seconds
from pd_testkit.plots.loads import Gathered
from pd_testkit.plots.look import SOFT


def bandwidth(gathered: Gathered, *, bare: bool = False) -> Drawing:
    """Points, the apparent bandwidth's line, and the lines of links, on log axes."""
    measured = [
        (result, points) for result in gathered.of("bandwidth") if (points := _points(result))
    ]
    if not measured:
        raise CannotDraw("there is no run of bandwidth that told how long a transfer took")
    drawing = begun(
        "Time of a KV transfer against its size",
        "marks: measured; lines in their colour: at their bandwidth, without what each\n"
        "transfer takes besides; grey: what links can carry at most",
        bare=bare,
        height=4.4,
    )
    (axes,) = drawing.axes
    sizes = [size for _, points in measured for size, _, _ in points]
    times = [time for _, points in measured for _, time, _ in points]
    size_unit, time_unit = octets(_middle(sizes)), seconds(_middle(times))
    for result, points in measured:
        for source in dict.fromkeys(source for _, _, source in points):
            mine = sorted((size, time) for size, time, of in points if of == source)
            name = f"{result.name}: {source}" if len(measured) > 1 else source
            place, look = drawing.entry(name)
            xs = [size * size_unit.factor for size, _ in mine]
            ys = [time * time_unit.factor for _, time in mine]
            axes.plot(
                xs,
                ys,
                linestyle="none",
                marker=look.marker,
                color=look.colour,
                gid=f"series-{place}",
            )
            for (size, time), x, y in zip(mine, xs, ys, strict=True):
                told = f"{size_unit.said(size)} in {time_unit.said(time)}: {_speed(size / time)}"
                drawing.mark(axes, x, y, f"{name}: {told}", place)
            speed = _told(result).get(_SPEEDS[source])
            if speed:
                ends = [min(sizes), max(sizes)]
                axes.plot(
                    [end * size_unit.factor for end in ends],
                    [end / speed * time_unit.factor for end in ends],
                    color=look.colour,
                    linestyle=look.linestyle,
                    gid=f"series-{place}",
                )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(0.08)
    axes.autoscale_view()
    _links(axes, time_unit.factor / size_unit.factor)
    for axis in (axes.xaxis, axes.yaxis):
        plain_log(axis)
    axes.set_xlabel(f"KV of the prompt ({size_unit.name})")
    axes.set_ylabel(f"time ({time_unit.name})")
    return drawing


def _links(axes: Axes, scale: float) -> None:
    """A line for each link that crosses the picture, with its name where it leaves it; none for
    one that is close beside another.

    Args:
        scale: of the y axis' unit for time over the x axis' unit for size.
    """
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    taken: list[float] = []
    for link in LINKS.values():
        per_size = scale / link.limit
        if right * per_size < low or left * per_size > high:
            continue
        top = right * per_size > high
        x, y = (high / per_size, high) if top else (right, right * per_size)
        along = math.log(y / low) / math.log(high / low)
        along += 0 if not top else math.log(right / x) / math.log(right / left)
        if all(abs(along - other) > 0.05 for other in taken):
            taken.append(along)
            axes.plot([left, right], [left * per_size, right * per_size], color=SOFT, linewidth=0.7)
            axes.annotate(
                link.name,
                (x, y),
                xytext=(0, 3) if top else (4, 0),
                textcoords="offset points",
                ha="center" if top else "left",
                va="bottom" if top else "center",
                fontsize=8,
                color=SOFT,
            )


_APPARENT, _TRANSFERS = "from TTFT, less that without a transfer", "from the engines' metrics"
_SPEEDS = {_APPARENT: "apparent_bytes_per_s", _TRANSFERS: "transfer_bytes_per_s"}


def _points(result: Result) -> list[tuple[float, float, str]]:
    """Bytes, seconds, and what told them."""
    found: list[tuple[float, float, str]] = []
    for point in _told(result).get("points", ()):
        size, whole, direct = point["bytes"], point["ttft_s"], point.get("direct_ttft_s")
        apparent = whole - direct if None not in (whole, direct) else 0.0
        if size and apparent > 0:
            found.append((size, apparent, _APPARENT))
        if size and (point.get("transfer_s") or 0) > 0:
            found.append((size, point["transfer_s"], _TRANSFERS))
    return found


def _middle(values: Sequence[float]) -> float:
    """On a log axis."""
    return math.sqrt(min(values) * max(values))


def _told(result: Result) -> Mapping[str, Any]:
    return result.end.summary if result.end else {}


def _speed(per_second: float) -> str:
    return f"{octets(per_second).said(per_second)}/s"
