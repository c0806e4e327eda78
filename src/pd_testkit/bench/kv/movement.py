"""Whether the KV moved: what the engines count, against what the prompts hold.

A D that computes a prompt again gives the right tokens, and makes disaggregation pointless. So D's
counters must account for each prompt: tokens that D had cached itself, and tokens that came from P.
The names of the metrics are vLLM's (docs.vllm.ai/en/latest/usage/metrics.html), which the CPU
engine has as well.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from pd_testkit.bench.endpoint import Endpoint, Unexpected

DEFAULT_BLOCK_SIZE = 16
SETTLING_S = 5.0
"""Real seconds that an engine may take to count what it has answered."""
_LOOK_S = 0.05

_NAMES = {
    "prompt_tokens": "vllm:prompt_tokens_total",
    "local_queries": "vllm:prefix_cache_queries_total",
    "local_hits": "vllm:prefix_cache_hits_total",
    "external_queries": "vllm:external_prefix_cache_queries_total",
    "external_hits": "vllm:external_prefix_cache_hits_total",
    "transfer_bytes": "vllm:nixl_bytes_transferred_sum",
    "transfer_seconds": "vllm:nixl_xfer_time_seconds_sum",
    "computed": "pd_engine_computed_prompt_tokens_total",
    "failed_digests": "pd_engine_failed_digests_total",
    "running": "vllm:num_requests_running",
    "waiting": "vllm:num_requests_waiting",
    "held": "pd_engine_held_requests",
    "loading": "pd_engine_loading_requests",
}
_GAUGES = frozenset({"running", "waiting", "held", "loading", "block_sizes"})
_BLOCK_SIZE = "vllm:cache_config_info"
_LINE = re.compile(r"#|[a-zA-Z_:][\w:]*[{ \t]")
_WANTED = re.compile(
    rf"^(?:{'|'.join(map(re.escape, (*_NAMES.values(), _BLOCK_SIZE)))})[{{ \t].*", re.MULTILINE
)


@dataclass(frozen=True)
class Counters:
    """Of some engines together; None where none of them tells.

    Attributes:
        prompt_tokens: of the requests that were served.
        local_queries, local_hits: tokens of prompts that were looked up in the engine's own prefix
            cache, and found there.
        external_queries, external_hits: tokens of prompts that another engine was asked for, and
            that came from there. vLLM counts as asked for all that it has not itself; the CPU
            engine only where a request names another engine.
        transfer_bytes: moved between engines. A side that writes counts what it wrote.
        transfer_seconds: that the transfers took, one after another.
        computed: tokens of prompts that the model computed.
        failed_digests: loads whose bytes were not what P said.
        running, waiting, held, loading: requests, now. Held: for a D that has not come yet.
        block_size: of the KV cache, where all have the same.
    """

    prompt_tokens: float | None = None
    local_queries: float | None = None
    local_hits: float | None = None
    external_queries: float | None = None
    external_hits: float | None = None
    transfer_bytes: float | None = None
    transfer_seconds: float | None = None
    computed: float | None = None
    failed_digests: float | None = None
    running: float | None = None
    waiting: float | None = None
    held: float | None = None
    loading: float | None = None
    block_sizes: frozenset[int] = frozenset()

    def counts(self) -> dict[str, float]:
        """Those that only grow, by name, as far as they are told."""
        told = {each.name: getattr(self, each.name) for each in fields(self)}
        return {
            name: count for name, count in told.items() if name not in _GAUGES and count is not None
        }

    def since(self, before: Counters) -> Counters:
        """What was counted in between. The gauges are those of now."""
        return Counters(
            **{
                each.name: now
                if each.name in _GAUGES or now is None
                else now - (getattr(before, each.name) or 0)
                for each in fields(self)
                for now in (getattr(self, each.name),)
            }
        )


def read(expositions: Iterable[str]) -> Counters:
    """Of the engines' ``/metrics``, in Prometheus' text format.

    Raises:
        ValueError: one is not in that format.
    """
    wanted = {metric: name for name, metric in _NAMES.items()}
    found: dict[str, float] = {}
    sizes: set[int] = set()
    for exposition in expositions:
        for family in text_string_to_metric_families(_wanted(exposition)):
            for sample in family.samples:
                if (name := wanted.get(sample.name)) is not None:
                    found[name] = found.get(name, 0.0) + sample.value
                elif sample.name == _BLOCK_SIZE and sample.labels.get("block_size", "").isdecimal():
                    sizes.add(int(sample.labels["block_size"]))
    return Counters(**found, block_sizes=frozenset(sizes))


def _wanted(exposition: str) -> str:
    """Its lines that are wanted: an engine tells of many more metrics, and to take their lines
    apart takes far longer.

    Raises:
        ValueError: a line is none of such a text.
    """
    for line in exposition.splitlines():
        if line.strip() and not _LINE.match(line):
            raise ValueError(f"no metrics: {line[:80]!r}")
    return "".join(f"{line}\n" for line in _WANTED.findall(exposition))


class Snapshot(NamedTuple):
    """The counters of all P together, and of all D."""

    prefill: Counters
    decode: Counters


class Moved(NamedTuple):
    """What became of some prompts' KV, in tokens."""

    prompts: int
    cached: int
    """On D already."""
    external: int | None
    """Came from P, as D counts it; None: D does not."""
    transferred: int | None
    """Bytes."""

    @property
    def missing(self) -> int:
        """What D could not have but from P."""
        return self.prompts - self.cached

    def __str__(self) -> str:
        external = "not counted" if self.external is None else f"{self.external}"
        transferred = "" if self.transferred is None else f", {self.transferred} bytes moved"
        return (
            f"of {self.prompts} prompt tokens D had {self.cached}, and {external} came from P"
            f"{transferred}"
        )


def unaccounted(moved: Moved, tolerance: int) -> str:
    """What is wrong with the account of some prompts; empty if nothing is.

    Args:
        tolerance: tokens that may differ: a block per request, as the last one is computed again
            in part.
    """
    if moved.external is None and moved.transferred is None:
        return "D counts neither external prefix-cache hits nor bytes: nothing shows that KV moved"
    if moved.missing <= tolerance:
        return f"{moved}: too little was missing to tell; take another --seed"
    if moved.external is not None and moved.external < moved.missing - tolerance:
        return f"{moved}: D computed the rest again"
    if moved.external is not None and moved.external > moved.missing + tolerance:
        return f"{moved}: more than was missing"
    if moved.transferred == 0:
        return f"{moved}: no byte did"
    return ""


def out_of_proportion(first: Moved, second: Moved, tolerance: int) -> str:
    """Where only bytes are counted: what is wrong with them; empty if nothing is.

    Bytes per token are not known; but they are the same for both groups of prompts, so that a
    group of which a part was computed again stands out.

    Args:
        tolerance: as in `unaccounted`, for each of the groups.
    """
    if not first.transferred or not second.transferred:
        return ""
    low = (second.missing - tolerance) / (first.missing + tolerance)
    high = (second.missing + tolerance) / max(1, first.missing - tolerance)
    if low <= second.transferred / first.transferred <= high:
        return ""
    return (
        f"{first.transferred} bytes for {first.missing} missing tokens, and {second.transferred} "
        f"for {second.missing}"
    )


class Engines:
    """The engines behind the endpoint, of which the counters come.

    Args:
        prefill, decode: where they answer; empty where nobody said.
    """

    def __init__(self, prefill: Sequence[Endpoint], decode: Sequence[Endpoint]) -> None:
        self.prefill = tuple(prefill)
        self.decode = tuple(decode)

    @property
    def known(self) -> bool:
        return bool(self.prefill and self.decode)

    @property
    def any(self) -> bool:
        return bool(self.prefill or self.decode)

    async def snapshot(self) -> Snapshot:
        """The counters of now.

        Raises:
            Unexpected: an engine does not give its metrics.
        """
        expositions = await asyncio.gather(*map(_metrics, (*self.prefill, *self.decode)))
        parts = expositions[: len(self.prefill)], expositions[len(self.prefill) :]
        try:
            return Snapshot(*map(read, parts))
        except ValueError as problem:
            expected = "metrics in Prometheus' text format"
            raise Unexpected("GET /metrics", expected, str(problem)) from None

    async def moved(self, before: Snapshot, prompts: Sequence[int], tolerance: int) -> Moved:
        """What became of prompts with so many tokens each, all of them answered since `before`.

        Waits for counters that lag behind the answers, for `SETTLING_S` at most.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SETTLING_S
        while True:
            moved = _moved(before, await self.snapshot(), sum(prompts))
            if not unaccounted(moved, tolerance) or loop.time() > deadline:
                return moved
            await asyncio.sleep(_LOOK_S)

    async def settled(self, before: Snapshot, prompt_tokens: int) -> Snapshot:
        """The counters once all is counted that was asked since `before`, and nobody asks now.

        That is where prompts of so many tokens are counted, no request is left, and nothing has
        changed between two looks. Waits for `SETTLING_S` at most.
        """
        if not self.any:
            return before
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SETTLING_S
        last = await self.snapshot()
        while True:
            await asyncio.sleep(_LOOK_S)
            now = await self.snapshot()
            counted = sum(
                (after.prompt_tokens or 0) - (earlier.prompt_tokens or 0)
                for after, earlier in zip(now, before, strict=True)
            )
            uncounted = all(side.prompt_tokens is None for side in now)
            if now == last and not _left(now) and (uncounted or counted >= prompt_tokens):
                return now
            if loop.time() > deadline:
                return now
            last = now

    async def idle(self) -> Mapping[str, int]:
        """Requests that engines still have when nobody asks any more, by what they do.

        Waits for `SETTLING_S` at most; empty: none.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SETTLING_S
        while True:
            left = _left(await self.snapshot())
            if not left or loop.time() > deadline:
                return left
            await asyncio.sleep(_LOOK_S)


def _moved(before: Snapshot, after: Snapshot, prompts: int) -> Moved:
    prefill, decode = after.prefill.since(before.prefill), after.decode.since(before.decode)
    counted = [side.transfer_bytes for side in (prefill, decode) if side.transfer_bytes is not None]
    return Moved(
        prompts,
        int(decode.local_hits or 0),
        None if decode.external_hits is None else int(decode.external_hits),
        int(sum(counted)) if counted else None,
    )


def _left(snapshot: Snapshot) -> dict[str, int]:
    return {
        f"{role} {name}": int(count)
        for role, side in zip(("prefill", "decode"), snapshot, strict=True)
        for name in ("running", "waiting", "held", "loading")
        if (count := getattr(side, name))
    }


async def _metrics(engine: Endpoint) -> str:
    status, body = await engine.get("/metrics")
    if status != 200:
        raise Unexpected(
            f"GET {engine.url}/metrics",
            "status 200",
            f"status {status}",
            f"curl -sS {engine.url}/metrics",
        )
    return body.decode("utf-8", "replace")
