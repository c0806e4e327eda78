"""How fast the KV moves: the sums against numbers worked out by hand, and the command over a
deployment that is scripted."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pd_testkit.bench import results
from pd_testkit.bench.kv import bandwidth as sums
from pd_testkit.bench.kv import links
from pd_testkit.bench.kv.bandwidth import Bandwidth, Line, Sample, Source
from pd_testkit.bench.kv.bandwidth_command import bandwidth
from pd_testkit.bench.kv.links import LINKS
from tests.kit.scripted_deployment import Deployment, serving

MB = 10**6


# Sums


def test_a_line_goes_through_its_points() -> None:
    """y = 1 + 2 x."""
    found = sums.line([(0, 1), (1, 3), (2, 5), (3, 7)])
    assert found is not None
    assert (found.intercept, found.slope) == pytest.approx((1, 2))
    assert (found.low, found.high) == pytest.approx((2, 2))


def test_a_slopes_uncertainty_is_students() -> None:
    """Of (0, 0), (1, 2), (2, 2), (3, 4): means 1.5 and 2, spread 5, slope 6 / 5, intercept 0.2;
    left over 0.04 + 0.36 + 0.36 + 0.04 = 0.8, of 2 degrees of freedom: error sqrt(0.4 / 5);
    t = 4.303."""
    found = sums.line([(0, 0), (1, 2), (2, 2), (3, 4)])
    assert found is not None
    assert found.slope == pytest.approx(1.2)
    assert found.intercept == pytest.approx(0.2)
    assert found.high - found.slope == pytest.approx(4.303 * math.sqrt(0.08))
    assert found.slope - found.low == pytest.approx(4.303 * math.sqrt(0.08))


@pytest.mark.parametrize("points", [[], [(0.0, 1.0), (1.0, 2.0)], [(1.0, 1.0)] * 4])
def test_too_little_makes_no_line(points: list[tuple[float, float]]) -> None:
    assert sums.line(points) is None


def test_a_bandwidth_is_the_slopes_inverse() -> None:
    """Between 1 and 4 ns per byte."""
    found = Bandwidth.of(Source.TTFT, Line(0, 2e-9, 1e-9, 4e-9))
    assert (found.value, found.low, found.high) == pytest.approx((0.5e9, 0.25e9, 1e9))


def test_a_slope_that_may_be_none_gives_a_lower_end_only() -> None:
    found = Bandwidth.of(Source.TTFT, Line(0, 2e-9, -1e-9, 5e-9))
    assert found.value is None
    assert (found.low, found.high) == (pytest.approx(0.2e9), math.inf)
    assert "not above the noise; at least 200 MB/s" in str(found)


def sample(tokens: int, ttft: float | None, direct: float | None = None, **more: float) -> Sample:
    return Sample(tokens, tokens * MB, ttft, direct, **more)


def test_the_computation_is_in_the_slope_and_not_in_the_difference() -> None:
    """1 ms a token to compute, 0.1 ms for its 1 MB to move; besides 5 ms over P, and 2 directly."""
    samples = [
        sample(n, 0.005 + n * 1.1e-3, 0.002 + n * 1e-3) for n in (100, 500, 1000) for _ in "12"
    ]
    found = sums.bandwidths(samples)
    assert found[Source.TTFT].value == pytest.approx(1 / 1.1e-9)  # MB in 1.1 ms
    assert found[Source.DIRECT].value == pytest.approx(10e9)  # MB in 0.1 ms
    assert Source.METRICS not in found


def test_transfers_that_are_counted_are_summed_up() -> None:
    """300 MB in 0.6 s."""
    samples = [
        sample(100, 0.1, moved=100 * MB, transfer_s=0.4),
        sample(200, 0.1, moved=200 * MB, transfer_s=0.2),
        sample(300, None, moved=0.0, transfer_s=0.0),
    ]
    assert sums.bandwidths(samples)[Source.METRICS].value == pytest.approx(500e6)


def test_points_are_medians_by_length() -> None:
    samples = [
        *(sample(20, ttft) for ttft in (0.5, 0.1, 0.2)),
        sample(10, 0.4, 0.3, moved=10 * MB, transfer_s=0.1),
        sample(10, None),
    ]
    first, second = sums.points(samples)
    assert (first.prompt_tokens, first.bytes, first.ttft_s, first.direct_ttft_s) == (
        *(10, 10 * MB, 0.4, 0.3),
    )
    assert first.bytes_per_s == pytest.approx(100e6)
    assert (second.prompt_tokens, second.ttft_s, second.bytes_per_s) == (20, 0.2, None)


# What counters say


@pytest.mark.parametrize(
    ("moved", "cached", "told"),
    [
        (100.0 * MB, 0, ""),
        (None, 0, "no engine that is known counts moved bytes"),
        (0.0, 0, "NO KV MOVED"),
        (84.0 * MB, 16, "D had 16 tokens of the prompts in its own cache"),
        (50.0 * MB, 0, "the engines counted 50000000 bytes where the model's shape makes 100"),
        (200.0 * MB, 0, "ranks that each take all of it"),
    ],
)
def test_what_the_counters_say_against_it_is_told(
    moved: float | None, cached: int, told: str
) -> None:
    said = sums.not_moved([Sample(100, 100 * MB, 0.1, moved=moved, cached=cached)])
    assert told in said
    assert bool(said) == bool(told)


# Links and verdicts


@pytest.mark.parametrize(
    ("name", "theoretical", "practical"),
    [
        ("10GbE", 1.25e9, 1e9),
        ("25GbE", 3.125e9, 2.5e9),
        ("100GbE", 12.5e9, 10e9),
        ("400GbE", 50e9, 40e9),
        ("PCIe4", 31.5e9, 25.2e9),  # the seed: 32, and about 25
        ("PCIe5", 63e9, 50.4e9),
        ("NVLink4", 450e9, 360e9),
    ],
)
def test_links_are_as_the_seed_and_the_standards_have_them(
    name: str, theoretical: float, practical: float
) -> None:
    link = LINKS[name]
    assert link.theoretical == pytest.approx(theoretical, rel=0.001)
    assert link.practical[1] == pytest.approx(practical, rel=0.001)


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (13e9, 20e9, "too fast"),
        (9e9, 13e9, "plausible"),
        (5.1e9, 5.1e9, "plausible"),
        (4.9e9, 4.9e9, "slow"),
        (0.9e9, 0.9e9, "much too slow"),
        (0.1e9, math.inf, "plausible"),
    ],
)
def test_a_link_says_what_it_can_carry(low: float, high: float, told: str) -> None:
    assert LINKS["100GbE"].carries(low, high) == told


def test_loopback_is_limited_by_memory() -> None:
    assert LINKS["loopback"].carries(51e9, 51e9) == "too fast"
    assert LINKS["loopback"].carries(20e9, 20e9) == "plausible"


def exactly(source: Source, value: float) -> dict[Source, Bandwidth]:
    return {source: Bandwidth(source, value, value, value)}


@pytest.mark.parametrize(
    ("found", "link", "told"),
    [
        (exactly(Source.METRICS, 9e9), "100GbE", "over 100GbE: plausible"),
        (exactly(Source.METRICS, 50e9), "100GbE", "no KV moved over it, or prefixes were there"),
        (exactly(Source.DIRECT, 3e9), "100GbE", "less than half of what is practical"),
        (exactly(Source.TTFT, 0.5e9), "100GbE", "but it is a lower bound"),
        (exactly(Source.METRICS, 2e9), None, "by transfer metrics: fits 25GbE"),
        (exactly(Source.METRICS, 1e6), None, "fits no link of the table"),
        (exactly(Source.TTFT, 2e9), None, "and any that is faster, as it is a lower bound"),
        ({Source.TTFT: Bandwidth(Source.TTFT, None, 1e9)}, "100GbE", "cannot be told: the slope"),
        ({}, None, "three prompts of two lengths are the least"),
    ],
)
def test_a_verdict_names_what_it_rests_on(
    found: dict[Source, Bandwidth], link: str | None, told: str
) -> None:
    assert told in sums.verdict(found, LINKS[link] if link else None)


def test_the_best_source_decides() -> None:
    found = {**exactly(Source.TTFT, 1e9), **exactly(Source.METRICS, 11e9)}
    assert sums.verdict(found, LINKS["100GbE"]).startswith("11 GB/s by transfer metrics")


def test_bandwidths_are_told_in_decimal_units() -> None:
    assert [links.told(value) for value in (12.5e9, 101e6, 1500, 7)] == [
        *("12.5 GB/s", "101 MB/s", "1.5 kB/s", "7 B/s"),
    ]


# The command


def ran(deployment: Deployment, output: Path, *arguments: str, engines: bool = True) -> Result:
    words = ["--endpoint", deployment.url, "--output", str(output), "--seed", "1", *arguments]
    if engines:
        words += ["--decode-endpoint", deployment.url]
    return CliRunner().invoke(bandwidth, words)


def test_the_seeds_flags_measure_what_the_engines_count(tmp_path: Path) -> None:
    """2048 bytes a token, by the name of the model, at 5 GB/s."""
    file = tmp_path / "result.jsonl"
    with serving(Deployment(2048, 5e9)) as deployment:
        lengths = ["--prompt-lengths", "20", "50", "90", "--iterations", "2", "--warm-up", "1"]
        result = ran(deployment, file, *lengths, "--no-direct", "--link", "100gbe")
    assert result.exit_code == 0, result.output
    assert "5 GB/s by transfer metrics, over 100GbE: plausible" in result.stdout
    assert result.stdout.splitlines()[-1] == f"result: {file}"
    read = results.read(file)
    assert read.end is not None
    summary = read.end.summary
    assert summary["kv_bytes_per_token"] == 2048
    assert [point["prompt_tokens"] for point in summary["points"]] == [20, 50, 90]
    assert [point["bytes"] for point in summary["points"]] == [40960, 102400, 184320]
    assert summary["transfer_bytes_per_s"] == pytest.approx(5e9)
    assert summary["link"] == "100GbE"
    assert read.end.warnings == ()
    assert len(read.measured) == 6
    assert len(read.requests) == 9
    assert [each.decode["transfer_bytes"] for each in read.counted] == [
        2048 * (request.prompt_tokens or 0) for request in read.measured
    ]


def test_no_two_prompts_are_the_same(tmp_path: Path) -> None:
    """Not those that are asked directly, either: D would have them."""
    with serving(Deployment(2048)) as deployment:
        lengths = ["--prompt-lengths", "20", "30", "--iterations", "2", "--warm-up", "0"]
        result = ran(deployment, tmp_path / "r.jsonl", *lengths)
        begins = {prompt[:12] for prompt in deployment.prompts[-8:]}
    assert result.exit_code == 0, result.output
    assert len(begins) == 8
    modes = [request.mode for request in results.read(tmp_path / "r.jsonl").requests]
    assert sorted(modes) == ["direct"] * 4 + ["pd"] * 4


SHORT = ("--prompt-lengths", "20", "30", "--iterations", "2", "--warm-up", "0", "--no-direct")


def test_that_no_kv_moved_is_said_loudly(tmp_path: Path) -> None:
    with serving(Deployment(0)) as deployment:
        result = ran(deployment, tmp_path / "r.jsonl", *SHORT)
    assert result.exit_code == 1
    assert "warning: NO KV MOVED" in result.stderr
    assert "verdict: no KV moved" in result.stdout


def test_prefix_hits_are_told(tmp_path: Path) -> None:
    with serving(Deployment(2048, hits=16)) as deployment:
        result = ran(deployment, tmp_path / "r.jsonl", *SHORT)
    assert "warning: D had 64 tokens of the prompts in its own cache" in result.stderr


def test_without_engines_nothing_shows_that_kv_moved(tmp_path: Path) -> None:
    with serving(Deployment(2048)) as deployment:
        result = ran(deployment, tmp_path / "r.jsonl", *SHORT, engines=False)
    assert result.exit_code == 0
    assert "nothing shows that KV moved" in result.stderr
    assert "a lower bound, P's computation is in it" in result.stdout


def test_requests_that_all_fail_are_no_measurement(tmp_path: Path) -> None:
    with serving(Deployment(2048, status=503)) as deployment:
        result = ran(deployment, tmp_path / "r.jsonl", *SHORT)
    assert result.exit_code == 1
    assert "4 requests failed, refused first: status 503: no engine" in result.stderr


def test_a_models_shape_may_be_told(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps({"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64})
    )
    with serving(Deployment(512, model="mine")) as deployment:
        told = ran(deployment, tmp_path / "a.jsonl", *SHORT, "--config", str(config))
        given = ran(deployment, tmp_path / "b.jsonl", *SHORT, "--kv-bytes-per-token", "512")
        neither = ran(deployment, tmp_path / "c.jsonl", *SHORT)
        replicated = ran(
            deployment, tmp_path / "d.jsonl", *SHORT, "--config", str(config), "--tp", "8"
        )
    assert "KV: 512 B/token" in told.stdout  # 2 layers x 2 x 4 heads x 16 x 2 bytes
    assert "KV: 512 B/token" in given.stdout
    assert "KV: 1024 B/token" in replicated.stdout  # 8 ranks of a head each, which are 4
    assert neither.exit_code == 2
    assert "the shape of 'mine' is not built in" in neither.stderr
    assert neither.stderr.count("\n") == 1
    assert not (tmp_path / "c.jsonl").exists()


def test_each_request_is_in_the_trace(tmp_path: Path) -> None:
    """Of the client, as nobody else here tells a timeline."""
    with serving(Deployment(2048)) as deployment:
        result = ran(deployment, tmp_path / "r.jsonl", *SHORT, "--trace", str(tmp_path / "t.json"))
    assert result.exit_code == 0, result.output
    assert "Where 4 requests waited" in result.stdout
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    names = [event["name"] for event in events if event["ph"] == "X"]
    assert {f"request {index}" for index in range(4)} <= set(names)


def test_what_does_not_answer_is_said_in_one_line(tmp_path: Path) -> None:
    with serving(Deployment()) as deployment:
        gone = deployment
    result = ran(gone, tmp_path / "r.jsonl", *SHORT)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "r.jsonl").exists()
