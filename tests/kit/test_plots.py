"""Plots: what is drawn is what was measured, with its units, the same each time."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from tests.kit import measured as made

pytest.importorskip("matplotlib")

import matplotlib as mpl

from pd_testkit.plots.command import plot
from pd_testkit.plots.drawing import number, octets, plain, seconds
from pd_testkit.plots.inline import inline
from pd_testkit.plots.kinds import KINDS, draw
from pd_testkit.plots.load_figures import ecdf, frontier
from pd_testkit.plots.loads import gather

FILES = {
    "throughput": "throughput_vs_concurrency",
    "ttft": "ttft_vs_prompt_tokens",
    "latency": "latency_distributions",
    "pareto": "throughput_vs_latency",
    "modes": "modes_by_turn",
    "hits": "hit_rates_by_turn",
    "bandwidth": "bandwidth",
}


def drawn(kind, *paths):
    (result,) = draw(gather(paths), [kind])
    return result.drawing or pytest.fail(result.reason)


def lines(axes, series):
    """The points of the lines of a series, with more than one point."""
    found = [line for line in axes.get_lines() if line.get_gid() == f"series-{series}"]
    return [[(float(x), float(y)) for x, y in line.get_xydata()] for line in found]


def near(points):
    return [pytest.approx(point) for point in points]


def run(path, ttfts, *, label="", **configuration):
    """Requests one after another, each of three tokens in 20 ms after the first."""
    requests, at = [], 0.0
    for index, ttft in enumerate(ttfts):
        requests.append(made.answered(index, due=at, ttft=ttft))
        at = requests[-1].ended
    return made.written(path, made.run_of(label=label, **configuration), requests)


@pytest.fixture
def folder(tmp_path):
    """Something for each kind."""
    data = tmp_path / "data"
    for concurrency in (1, 4):
        for prompt in (64, 512):
            name = f"b{concurrency}-{prompt}.jsonl"
            made.load(data / name, concurrency=concurrency, prompt=prompt, requests=12)
    made.comparison(data / "compare.jsonl")
    made.bandwidth(data / "bandwidth.jsonl")
    return data


def test_throughput_is_the_mean_of_repeated_runs_with_their_range(tmp_path):
    run(tmp_path / "a.jsonl", [0.08], concurrency=1, label="x")  # 3 tokens in 0.1 s
    run(tmp_path / "b.jsonl", [0.04], concurrency=1, label="x")  # in 0.06 s
    run(tmp_path / "c.jsonl", [0.01], concurrency=2, label="x")  # in 0.03 s
    drawing = drawn("throughput", tmp_path)
    (axes,) = drawing.axes
    line, *_ = lines(axes, 0)
    assert line == near([(1, 40.0), (2, 100.0)])
    (bars,) = axes.collections
    assert bars.get_segments()[0][:, 1] == pytest.approx([30.0, 50.0])
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "concurrency (requests at once)",
        "output tokens per second",
    )
    assert axes.get_ylim()[0] == 0
    assert drawing.entries[0][0] == ""


def test_ttft_is_drawn_from_its_median_to_its_95th_percentile(tmp_path):
    # Ranks 0 to 2: the median is the second value, p95 is 0.9 of the way to the third.
    run(tmp_path / "a.jsonl", [0.1, 0.2, 0.3], prompt_tokens=64, prompt_lengths="32-96")
    run(tmp_path / "b.jsonl", [0.2, 0.4, 0.6], prompt_tokens=128, prompt_lengths="96-160")
    (axes,) = drawn("ttft", tmp_path).axes
    assert lines(axes, 0) == [near([(64, 200.0), (128, 400.0)])]
    (band,) = axes.collections
    corners = {tuple(map(float, corner.round(6))) for corner in band.get_paths()[0].vertices}
    assert {(64.0, 290.0), (128.0, 580.0)} <= corners
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("prompt tokens", "TTFT (ms)")


def test_a_distribution_says_which_share_was_at_most_so_slow(tmp_path):
    run(tmp_path / "a.jsonl", [0.1, 0.2, 0.4, 0.3])
    ttft, itl, e2e = drawn("latency", tmp_path).axes
    steps, marks = lines(ttft, 0)
    assert steps == near([(100, 0), (100, 25), (200, 50), (300, 75), (400, 100)])
    assert marks == near([(250, 50), (370, 90), (385, 95), (397, 99)])
    assert lines(e2e, 0)[1][0] == pytest.approx((270, 50))
    assert ttft.get_xlabel() == "time to first token (TTFT), ms"
    assert (ttft.get_ylabel(), itl.get_ylabel()) == ("requests, %", "gaps, %")


def test_what_spans_much_is_drawn_on_a_log_axis(tmp_path):
    run(tmp_path / "a.jsonl", [0.1, 0.2, 0.3, 3.1])
    ttft, itl, _ = drawn("latency", tmp_path).axes
    assert (ttft.get_xscale(), itl.get_xscale()) == ("log", "linear")


def test_of_many_values_some_are_drawn_with_the_first_and_the_last():
    xs, ys = ecdf([float(value) for value in range(1, 1001)])
    assert len(xs) == 201
    assert (xs[0], ys[0], xs[1], ys[1], xs[-1], ys[-1]) == (1, 0, 1, 0.1, 1000, 100)
    assert all(y == pytest.approx(x / 10) for x, y in zip(xs[1:], ys[1:], strict=True))


def test_the_frontier_is_what_nothing_is_better_than_in_both():
    points = [(1.0, 10.0), (2.0, 30.0), (2.0, 20.0), (3.0, 30.0), (4.0, 25.0), (5.0, 50.0)]
    assert frontier(points) == [(1.0, 10.0), (2.0, 30.0), (5.0, 50.0)]


def test_the_frontier_is_marked(tmp_path):
    run(tmp_path / "a.jsonl", [0.08], concurrency=1)  # 30 tokens/s at 100 ms
    run(tmp_path / "b.jsonl", [0.04], concurrency=2)  # 50 at 60 ms: better in both
    (axes,) = drawn("pareto", tmp_path).axes
    (ringed,) = [line for line in axes.get_lines() if line.get_gid() == "frontier"]
    assert [tuple(map(float, point)) for point in ringed.get_xydata()] == near([(60, 50)])
    assert sorted(lines(axes, 0)[0]) == near([(60, 50), (100, 30)])
    assert {each.get_text() for each in axes.texts} >= {"c=1", "c=2"}
    assert axes.get_xlabel() == "median end-to-end latency (ms)"


def test_marks_of_runs_that_hardly_differ_are_whole(tmp_path):
    run(tmp_path / "a.jsonl", [0.100], concurrency=1)
    run(tmp_path / "b.jsonl", [0.101], concurrency=2)
    for kind in ("throughput", "pareto"):
        (axes,) = drawn(kind, tmp_path).axes
        (ys,) = [[y for _, y in line] for line in lines(axes, 0)]
        assert 0.9 < max(ys) / axes.get_ylim()[1] < 0.96


def test_the_frontier_of_csvs_is_over_ttft(tmp_path):
    for concurrency, ttft, speed in ((1, 0.1, 10), (2, 0.2, 30)):
        name = f"run_model_x_conc{concurrency}_pt64_mt128.csv"
        head = "p50_ttft,p95_ttft,aggregate_throughput"
        (tmp_path / name).write_text(f"{head}\n{ttft},{ttft},{speed}\n")
    (axes,) = drawn("pareto", tmp_path).axes
    assert sorted(lines(axes, 0)[0]) == near([(100, 10), (200, 30)])
    assert axes.get_xlabel() == "median TTFT (ms)"


def test_modes_are_drawn_with_their_paired_differences(tmp_path):
    drawing = drawn("modes", made.comparison(tmp_path / "c.jsonl", turns=2))
    above, below = drawing.axes
    assert [name for name, _ in drawing.entries] == ["pd", "ppd"]
    # The medians of 0.14 + 0.01 * turn + 0, 2, 4, 6, 8 ms.
    assert [y for _, y in lines(above, 0)[0]] == pytest.approx([154, 164])
    assert [y for _, y in lines(above, 1)[0]] == pytest.approx([154, 124])
    assert lines(below, 1)[0] == near([(1, 0), (2, -40)])
    bars = below.collections[0].get_segments()
    assert bars[1][:, 1] == pytest.approx([-46, -35])
    assert above.get_ylabel() == "end-to-end latency (ms)"
    assert below.get_ylabel() == "difference from pd (ms)"
    assert "95 % confidence" in drawing.caption


def test_one_conversation_has_no_interval_and_a_mode_that_failed_no_line(tmp_path):
    drawing = drawn("modes", made.comparison(tmp_path / "c.jsonl", turns=2, alone=True))
    _, below = drawing.axes
    assert [name for name, _ in drawing.entries] == ["pd", "ppd"]
    assert lines(below, 1)[0] == near([(1, 0), (2, -40)])
    assert [float(bar[1, 1] - bar[0, 1]) for bar in below.collections[0].get_segments()] == [0, 0]


def test_hit_rates_are_drawn_in_percent(tmp_path):
    local, external = drawn("hits", made.comparison(tmp_path / "c.jsonl", turns=3)).axes
    assert [y for _, y in lines(local, 0)[0]] == pytest.approx([0, 60, 60])
    assert [y for _, y in lines(external, 1)[0]] == pytest.approx([94, 0, 0])
    assert (local.get_ylabel(), external.get_ylabel()) == ("in D's own cache, %", "from P, %")


def test_bandwidth_is_drawn_among_links(tmp_path):
    drawing = drawn("bandwidth", made.bandwidth(tmp_path / "b.jsonl"))
    (axes,) = drawing.axes
    apparent, slope = lines(axes, 0)
    # 128 and 8192 tokens of 131072 bytes at 2 GB/s.
    assert (apparent[0], apparent[-1]) == (
        pytest.approx((16.777216, 8.388608)),
        pytest.approx((1073.741824, 536.870912)),
    )
    assert [slope[0], slope[-1]] == near([apparent[0], apparent[-1]])
    links = {each.get_text() for each in axes.texts}
    assert {"10GbE", "25GbE", "100GbE"} <= links
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("KV of the prompt (MB)", "time (ms)")


def test_no_two_series_look_alike(tmp_path):
    for label in "abcdefgh":
        run(tmp_path / f"{label}.jsonl", [0.1], label=label, concurrency=1)
        run(tmp_path / f"{label}2.jsonl", [0.1], label=label, concurrency=2)
    looks = [look for _, look in drawn("throughput", tmp_path).entries]
    assert len(set(looks)) == 8
    for one, other in pairwise(looks):
        assert one.colour != other.colour
        assert one.marker != other.marker
        assert one.dashes != other.dashes


@pytest.mark.parametrize("kind", KINDS)
def test_the_legend_hides_no_data(folder, kind):
    drawing = drawn(kind, folder)
    renderer = drawing.figure.canvas.get_renderer()
    for legend in drawing.figure.legends:
        box = legend.get_window_extent(renderer)
        assert not any(box.overlaps(axes.get_window_extent(renderer)) for axes in drawing.axes)


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_is_said_is_inside_the_picture(folder, kind):
    drawing = drawn(kind, folder)
    renderer = drawing.figure.canvas.get_renderer()
    whole = drawing.figure.bbox
    for axes in drawing.axes:
        for text in [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]:
            if text.get_text():
                box = text.get_window_extent(renderer)
                assert whole.x0 <= box.x0 <= box.x1 <= whole.x1, text
                assert whole.y0 <= box.y0 <= box.y1 <= whole.y1, text


def test_the_same_results_give_the_same_bytes(folder, tmp_path):
    for where in ("one", "other"):
        for more in (["--format", "svg"], ["--kind", "throughput"]):
            arguments = [str(folder), "--output", str(tmp_path / where), *more]
            told = CliRunner().invoke(plot, arguments)
            assert told.exit_code == 0, told.output
    one, other = (sorted((tmp_path / where).iterdir()) for where in ("one", "other"))
    assert [path.name for path in one] == sorted(
        ["throughput_vs_concurrency.png", *(f"{name}.svg" for name in FILES.values())]
    )
    for mine, theirs in zip(one, other, strict=True):
        assert mine.read_bytes() == theirs.read_bytes(), mine.name


def test_drawing_leaves_matplotlib_as_it_was(folder):
    before = dict(mpl.rcParams)
    list(draw(gather([folder]), KINDS))
    assert dict(mpl.rcParams) == before


def test_what_cannot_be_drawn_is_said_in_one_line(tmp_path):
    run(tmp_path / "a.jsonl", [0.1], concurrency=1, prompt_tokens=64)
    told = CliRunner().invoke(plot, [str(tmp_path), "--output", str(tmp_path / "out")])
    assert told.exit_code == 0
    assert told.stdout.split() == [str(tmp_path / "out" / "latency_distributions.png")]
    assert told.stderr.splitlines() == [
        "throughput: not drawn: all runs have concurrency 1: it needs two values",
        "ttft: not drawn: all runs have 64 prompt tokens: it needs two values",
        "pareto: not drawn: it needs two runs of bench, or CSVs, with throughput and latency",
        "modes: not drawn: there is no run of compare that came to its end",
        "hits: not drawn: there is no run of multiturn or compare that tells hit rates",
        "bandwidth: not drawn: there is no run of bandwidth that told how long a transfer took",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["--kind", "latency", "--kind", "hits"], 1, "hits: not drawn: there is no run"),
        (["--kind", "hits"], 2, "hits: not drawn: there is no run"),
        (["--kind", "cake"], 2, "Error: Invalid value for '--kind': 'cake' is not one of"),
        (["nowhere"], 2, "nowhere: there is no such file or folder"),
    ],
)
def test_the_exit_code_says_whether_all_was_drawn(tmp_path, arguments, code, why):
    run(tmp_path / "a.jsonl", [0.1])
    given = [str(tmp_path), "--output", str(tmp_path / "out"), *arguments]
    told = CliRunner().invoke(plot, given)
    assert told.exit_code == code
    assert told.stderr.startswith(why)
    assert len(told.stderr.splitlines()) == 1


def test_runs_that_did_not_end_are_drawn_and_said(tmp_path):
    made.load(tmp_path / "a.jsonl", concurrency=1, requests=3, ends=False)
    arguments = [str(tmp_path), "--kind", "latency", "--output", str(tmp_path / "out")]
    told = CliRunner().invoke(plot, arguments)
    assert told.exit_code == 0
    assert told.stderr == "note: a was killed: drawn as far as it came\n"


@pytest.mark.parametrize("name", ["_hidden", "$x^2$", "$\\frac", "a\x00b\x1b", "<b>&amp;", "模型"])
def test_any_name_can_be_drawn(tmp_path, name, recwarn):
    run(tmp_path / "a.jsonl", [0.1], label=name)
    run(tmp_path / "b.jsonl", [0.1], label="other")
    drawing = drawn("latency", tmp_path)
    svg = drawing.svg().decode()
    ElementTree.fromstring(svg)
    assert "<b>" not in svg
    shown = [text.get_text() for text in drawing.figure.legends[0].get_texts()]
    assert shown == [plain(name), "other"]
    recwarn.clear()  # of fonts without Chinese


def test_values_in_a_page_are_where_they_are_drawn(tmp_path):
    run(tmp_path / "a.jsonl", [0.08], concurrency=1)
    run(tmp_path / "b.jsonl", [0.04], concurrency=2)
    drawing = drawn("throughput", tmp_path)
    root = ElementTree.fromstring(inline(drawing, "p"))
    space = "{http://www.w3.org/2000/svg}"
    circles = list(root.iter(f"{space}circle"))
    titles = [each.findtext(f"{space}title") for each in circles]
    assert titles == ["concurrency 1: 30 tokens/s", "concurrency 2: 50 tokens/s"]
    # matplotlib puts a marker there by a use element of the same place.
    used = [each for each in root.iter(f"{space}use") if "x" in each.attrib]
    places = {(round(float(e.get("x"))), round(float(e.get("y")))) for e in used}
    for circle in circles:
        assert (round(float(circle.get("cx"))), round(float(circle.get("cy")))) in places


def test_colours_in_a_page_are_the_pages(folder):
    svg = inline(drawn("throughput", folder), "p")
    styles = [each.get("style", "") for each in ElementTree.fromstring(svg).iter()]
    assert any("var(--series-0)" in style for style in styles)
    assert any("var(--text)" in style for style in styles)
    assert not any("#" in style.replace("url(#", "") for style in styles)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (1234567, "1\u202f234\u202f567"), (0.1234, "0.123"), (1e-7, "1.0e-07"), (64, "64")],
)
def test_numbers_have_no_more_digits_than_count(value, shown):
    assert number(value) == shown


def test_units_are_those_that_people_say():
    assert [seconds(at).said(at) for at in (12e-6, 0.0123, 2.5, 12.0)] == [
        "12.0 µs",
        "12.3 ms",
        "2\u202f500 ms",
        "12.0 s",
    ]
    assert [octets(at).said(at) for at in (12, 131072, 2e9)] == ["12.0 B", "131 kB", "2.00 GB"]


LIGHT = """
import sys
from click.testing import CliRunner
from pd_testkit.cli import main
for arguments in (["--help"], ["bench", "--help"], ["compare", "--help"], ["bandwidth", "--help"]):
    told = CliRunner().invoke(main, arguments)
    assert told.exit_code == 0, told.output
print(*sorted({"matplotlib", "jinja2"}.intersection(sys.modules)))
"""


PLOT = """
import sys
from pd_testkit.plots.command import plot
try:
    plot.main(sys.argv[1:])
except SystemExit as done:
    assert done.code == 0
print(*sorted({"matplotlib", "matplotlib.pyplot"}.intersection(sys.modules)))
"""


def output(*command):
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()[-1].split()


def test_only_plots_import_matplotlib():
    assert output(sys.executable, "-c", LIGHT) == []


def test_no_plot_has_a_state_for_all(tmp_path):
    run(tmp_path / "a.jsonl", [0.1])
    given = [str(tmp_path), "--kind", "latency", "--output", str(tmp_path / "out")]
    assert output(sys.executable, "-c", PLOT, *given) == ["matplotlib"]
