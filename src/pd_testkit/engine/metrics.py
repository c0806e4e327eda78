"""What the engine counts and times, for Prometheus, by vLLM's names.

Names, labels and buckets are those of vLLM 0.33 (``vllm/v1/metrics/loggers.py``, ``buckets.py``;
``distributed/kv_transfer/kv_connector/v1/nixl/stats.py``), so that what reads a vLLM reads this
engine. The label ``engine`` is a data-parallel rank; times are told of as rank 0's. ``pd_engine_*``
are our own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from pd_testkit.engine.counts import Stats, Transferred

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def _bounds(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split()))


LATENCY = _bounds("0.3 0.5 0.8 1 1.5 2 2.5 5 10 15 20 30 40 50 60 120 240 480 960 1920 7680")
FIRST_TOKEN = _bounds(
    "0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1 2.5 5 7.5 10 20 40 80 160 640 2560"
)
INTER_TOKEN = _bounds("0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 0.75 1 2.5 5 7.5 10 20 40 80")
TOKENS = tuple(m * 10.0**e for e in range(5) for m in (1, 2, 5))
POST = _bounds("0.001 0.005 0.01 0.025 0.05 0.075 0.1 0.2 0.3 0.5 0.75 1 5")
TRANSFER = POST[1:]
BYTES = tuple(2.0 ** (10 + i) for i in range(1, 25, 2))
DESCRIPTORS = _bounds("10 20 30 50 75 100 200 400 1000 2000 4000 10000 20000 50000")

FINISH_REASONS = ("stop", "length", "abort", "error", "repetition")
"""vLLM's."""

_GAUGES: Mapping[str, tuple[str, Callable[[Stats], float]]] = {
    "vllm:num_requests_running": ("Requests in execution.", lambda s: s.running),
    "vllm:num_requests_waiting": (
        "Requests that wait, for room or for their KV.",
        lambda s: s.waiting + s.loading,
    ),
    "vllm:kv_cache_usage_perc": ("Share of the KV cache in use; 1 is all.", lambda s: s.kv_usage),
    "pd_engine_free_blocks": ("Blocks that are free.", lambda s: s.free_blocks),
    "pd_engine_blocks": ("Blocks of the KV cache.", lambda s: s.blocks),
    "pd_engine_held_requests": ("Requests whose blocks are kept for a D.", lambda s: s.held),
    "pd_engine_loading_requests": ("Requests whose KV is under way.", lambda s: s.loading),
}

_COUNTERS: Mapping[str, tuple[str, Callable[[Stats], float]]] = {
    "vllm:prefix_cache_queries": ("Tokens looked up in the cache.", lambda s: s.prefix_queries),
    "vllm:prefix_cache_hits": ("Tokens found in the cache.", lambda s: s.prefix_hits),
    "vllm:external_prefix_cache_queries": (
        "Tokens that another engine was asked for.",
        lambda s: s.external_queries,
    ),
    "vllm:external_prefix_cache_hits": (
        "Tokens whose KV came from another engine.",
        lambda s: s.external_hits,
    ),
    "vllm:num_preemptions": ("Requests that lost their blocks.", lambda s: s.preemptions),
    "vllm:prompt_tokens": ("Tokens of prompts.", lambda s: s.prompt_tokens),
    "vllm:generation_tokens": ("Tokens of answers.", lambda s: s.generated_tokens),
    "vllm:nixl_num_failed_transfers": ("Transfers that failed.", lambda s: s.failed_transfers),
    "vllm:nixl_num_kv_expired_reqs": (
        "Requests whose blocks no D came for.",
        lambda s: s.expired_holds,
    ),
    "pd_engine_computed_prompt_tokens": (
        "Tokens of prompts that this engine computed.",
        lambda s: s.computed_tokens,
    ),
    "pd_engine_failed_digests": (
        "Loads whose bytes were not what P said they are.",
        lambda s: s.failed_digests,
    ),
    "pd_engine_expired_holds": (
        "Requests whose blocks no D came for.",
        lambda s: s.expired_holds,
    ),
    "pd_engine_transfers": ("Loads that ended well.", lambda s: s.transfers),
}


class Histogram:
    """Numbers, by upper bounds."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """A value at a bound is below it."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def family(self, name: str, text: str, labels: Mapping[str, str]) -> Metric:
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        family = HistogramMetricFamily(name, text, labels=list(labels))
        buckets = list(zip(bounds, accumulate(self.counts), strict=True))
        family.add_metric(list(labels.values()), buckets, self.sum)
        return family


_HISTOGRAMS: Mapping[str, tuple[str, Sequence[float]]] = {
    "vllm:time_to_first_token_seconds": ("From arrival to the first token.", FIRST_TOKEN),
    "vllm:inter_token_latency_seconds": ("Between two tokens of an answer.", INTER_TOKEN),
    "vllm:request_time_per_output_token_seconds": (
        "An answer's mean time between two tokens.",
        INTER_TOKEN,
    ),
    "vllm:e2e_request_latency_seconds": ("From arrival to the last token.", LATENCY),
    "vllm:request_queue_time_seconds": ("From arrival to the first step.", LATENCY),
    "vllm:request_prefill_time_seconds": ("From the first step to the first token.", LATENCY),
    "vllm:request_decode_time_seconds": ("From the first token to the last.", LATENCY),
    "vllm:request_inference_time_seconds": ("From the first step to the last token.", LATENCY),
    "vllm:request_prompt_tokens": ("Tokens of a prompt.", TOKENS),
    "vllm:request_generation_tokens": ("Tokens of an answer.", TOKENS),
    "vllm:nixl_xfer_time_seconds": ("Of a transfer of KV.", TRANSFER),
    "vllm:nixl_post_time_seconds": ("To post a transfer of KV.", POST),
    "vllm:nixl_bytes_transferred": ("Bytes of a transfer of KV.", BYTES),
    "vllm:nixl_num_descriptors": ("Ranges of a transfer of KV.", DESCRIPTORS),
}


class Metrics(Collector):
    """One engine's, with a registry of their own.

    Args:
        model: its name, for the label ``model_name``.
        ranks, transfers, fired: asked at each scrape: `Core.ranks`, `Core.transfers`, and how
            often each kind of fault struck.
        cache: what ``vllm:cache_config_info`` says.
    """

    def __init__(
        self,
        model: str,
        ranks: Callable[[], Sequence[Stats]],
        transfers: Callable[[], Sequence[Transferred]] = tuple,
        fired: Callable[[], Mapping[str, int]] = dict,
        cache: Mapping[str, str] | None = None,
    ) -> None:
        self._labels = {"model_name": model, "engine": "0"}
        self._ranks = ranks
        self._transfers = transfers
        self._fired = fired
        self._cache = cache or {}
        self._ended: Counter[str] = Counter()
        self._histograms = {name: Histogram(bounds) for name, (_, bounds) in _HISTOGRAMS.items()}
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)

    def answer(self, prompt_tokens: int, arrived: float) -> AnswerTimes:
        """Follows one answer; ``arrived`` is a time of `time.monotonic`."""
        return AnswerTimes(self._histograms, self._ended, prompt_tokens, arrived)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        told: bytes = generate_latest(self.registry)
        return told

    def collect(self) -> Iterable[Metric]:
        labels = self._labels
        values = list(labels.values())
        ranks = [([*values[:-1], str(rank)], stats) for rank, stats in enumerate(self._ranks())]
        for name, (text, read) in _GAUGES.items():
            gauge = GaugeMetricFamily(name, text, labels=list(labels))
            for told, stats in ranks:
                gauge.add_metric(told, read(stats))
            yield gauge
        for name, (text, read) in _COUNTERS.items():
            counter = CounterMetricFamily(name, text, labels=list(labels))
            for told, stats in ranks:
                counter.add_metric(told, read(stats))
            yield counter
        ended = CounterMetricFamily(
            "vllm:request_success", "Answers that ended.", labels=[*labels, "finished_reason"]
        )
        for reason in FINISH_REASONS:
            ended.add_metric([*values, reason], self._ended[reason])
        yield ended
        self._take_transfers()
        for name, (text, _) in _HISTOGRAMS.items():
            yield self._histograms[name].family(name, text, labels)
        fired = CounterMetricFamily(
            "pd_engine_faults_fired", "Faults that struck.", labels=["kind"]
        )
        for kind, count in self._fired().items():
            fired.add_metric([kind], count)
        yield fired
        cache = {**self._cache, "engine": labels["engine"]}
        info = GaugeMetricFamily("vllm:cache_config_info", "Of the KV cache.", labels=list(cache))
        info.add_metric(list(cache.values()), 1)
        yield info

    def _take_transfers(self) -> None:
        histograms = self._histograms
        for transfer in self._transfers():
            histograms["vllm:nixl_xfer_time_seconds"].observe(transfer.seconds)
            histograms["vllm:nixl_post_time_seconds"].observe(transfer.post_seconds)
            histograms["vllm:nixl_bytes_transferred"].observe(transfer.bytes)
            histograms["vllm:nixl_num_descriptors"].observe(transfer.descriptors)


class AnswerTimes:
    """When the tokens of one answer came."""

    def __init__(
        self,
        histograms: Mapping[str, Histogram],
        ended: Counter[str],
        prompt_tokens: int,
        arrived: float,
    ) -> None:
        self._histograms = histograms
        self._ended = ended
        self._prompt_tokens = prompt_tokens
        self._arrived = arrived
        self._started = arrived
        self._first = self._last = 0.0
        self._tokens = 0

    def token(self, now: float, queued_s: float) -> None:
        """One more came; ``queued_s``, of the first one, is the time before its first step."""
        if self._tokens:
            self._observe("inter_token_latency_seconds", now - self._last)
        else:
            self._first = now
            self._started = self._arrived + queued_s
            self._observe("time_to_first_token_seconds", now - self._arrived)
        self._last = now
        self._tokens += 1

    def ended(self, reason: str) -> None:
        """That was the last one. Aborted and failed answers are counted, and not timed."""
        self._ended[reason] += 1
        if reason not in ("stop", "length") or not self._tokens:
            return
        self._observe("e2e_request_latency_seconds", self._last - self._arrived)
        self._observe("request_queue_time_seconds", self._started - self._arrived)
        self._observe("request_prefill_time_seconds", self._first - self._started)
        self._observe("request_decode_time_seconds", self._last - self._first)
        self._observe("request_inference_time_seconds", self._last - self._started)
        self._observe("request_prompt_tokens", self._prompt_tokens)
        self._observe("request_generation_tokens", self._tokens)
        if self._tokens > 1:
            each = (self._last - self._first) / (self._tokens - 1)
            self._observe("request_time_per_output_token_seconds", each)

    def _observe(self, name: str, value: float) -> None:
        self._histograms[f"vllm:{name}"].observe(value)
