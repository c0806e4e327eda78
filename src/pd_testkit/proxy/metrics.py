"""What the proxy counts and times, for Prometheus.

Numbers are kept in plain lists and handed to prometheus_client when it asks: its own counters and
histograms lock and look up on each observation, which is dear at one per token.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from pd_testkit.proxy.timeline import Passage

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Histogram:
    """Seconds, by upper bounds."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(_SECONDS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(_SECONDS, seconds)] += 1
        self.sum += seconds

    def family(self, name: str, text: str) -> Metric:
        bounds = [*map(str, _SECONDS), "+Inf"]
        buckets = list(zip(bounds, accumulate(self.counts), strict=True))
        family = HistogramMetricFamily(name, text)
        family.add_metric([], buckets, self.sum)
        return family


class Metrics(Collector):
    """One proxy's, with a registry of their own.

    ``instances`` and ``conversations`` are asked at each scrape: as `Router.instances`, and a
    count.
    """

    def __init__(
        self,
        instances: Callable[[], list[dict[str, Any]]] = list,
        conversations: Callable[[], int] = int,
    ) -> None:
        self._instances = instances
        self._conversations = conversations
        self._requests: Counter[tuple[str, str]] = Counter()
        self._retries = 0
        self._total = Histogram()
        self._first = Histogram()
        self._prefill = Histogram()
        self._wait = Histogram()
        self._decode = Histogram()
        self.inter_token = Histogram()
        """Between two reads of a stream; an engine sends one event per step."""
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)

    def passed(self, passage: Passage) -> None:
        """A request is over."""
        self._requests[passage.kind, passage.outcome] += 1
        self._retries += passage.retries
        self._total.observe(passage.total_s)
        if (prefill_s := passage.prefill_s) is not None:
            self._prefill.observe(prefill_s)
        if passage.stream and (first_s := passage.first_s) is not None:
            self._first.observe(first_s)
        if (wait_s := passage.wait_s) is not None:
            self._wait.observe(wait_s)
        if (decode_s := passage.decode_s) is not None:
            self._decode.observe(decode_s)

    def turned_away(self, outcome: str, seconds: float) -> None:
        """A request is over that was not routed."""
        self._requests["none", outcome] += 1
        self._total.observe(seconds)

    @property
    def failures(self) -> int:
        """Requests that got no answer, or half of one, and whose client has not left."""
        failed = ("broken", "failed", "unavailable")
        return sum(n for (_, outcome), n in self._requests.items() if outcome in failed)

    def exposition(self) -> bytes:
        """What a scrape gets, of `CONTENT_TYPE`."""
        return generate_latest(self.registry)

    def collect(self) -> Iterable[Metric]:
        requests = CounterMetricFamily(
            "pd_proxy_requests",
            "Requests that are over, by the way they took and how they ended.",
            labels=("kind", "outcome"),
        )
        for (kind, outcome), count in sorted(self._requests.items()):
            requests.add_metric((kind, outcome), count)
        yield requests
        cancelled = sum(n for (_, outcome), n in self._requests.items() if outcome == "cancelled")
        yield _counter("retries", "Calls made again on another engine.", self._retries)
        yield _counter("cancellations", "Requests whose client left.", cancelled)
        for name, text, histogram in (
            ("request", "From the request to the end of its answer.", self._total),
            ("time_to_first_token", "To the first byte of a stream.", self._first),
            ("inter_token_latency", "Between two pieces of a stream.", self.inter_token),
            ("prefill", "From P's call to its answer.", self._prefill),
            ("transfer_wait", "From D's call to the first byte of its stream.", self._wait),
            ("decode", "D's time after that; all of its time without a stream.", self._decode),
        ):
            yield histogram.family(f"pd_proxy_{name}_seconds", text)
        yield from self._gauges()

    def _gauges(self) -> Iterable[Metric]:
        yield GaugeMetricFamily(
            "pd_proxy_conversations", "That are remembered.", self._conversations()
        )
        families = {
            "in_flight": "Requests that hold a place on the engine.",
            "queued_tokens": "Prompt tokens that wait to be prefilled there, or are.",
        }
        instances = self._instances()
        for name, text in families.items():
            gauge = GaugeMetricFamily(f"pd_proxy_engine_{name}", text, labels=("role", "url"))
            for instance in instances:
                gauge.add_metric((instance["role"], instance["url"]), instance[name])
            yield gauge
        state = GaugeMetricFamily(
            "pd_proxy_engine_up",
            "1 where the breaker and the health checks let requests through.",
            labels=("role", "url"),
        )
        for instance in instances:
            up = instance["breaker"] == "closed" and instance["well"]
            state.add_metric((instance["role"], instance["url"]), int(up))
        yield state


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"pd_proxy_{name}", text, value)
