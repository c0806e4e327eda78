"""What a scrape of the engine's metrics says."""

from __future__ import annotations

from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families

from pd_testkit.engine.counts import Stats, Transferred
from pd_testkit.engine.metrics import Metrics

NOW = Stats(
    running=3,
    waiting=4,
    loading=2,
    held=5,
    kv_usage=0.25,
    free_blocks=30,
    blocks=40,
    prefix_queries=100,
    prefix_hits=60,
    external_queries=80,
    external_hits=48,
    preemptions=1,
    prompt_tokens=500,
    computed_tokens=300,
    generated_tokens=70,
    transfers=6,
    failed_transfers=7,
    failed_digests=8,
    expired_holds=9,
)


def scrape(metrics: Metrics) -> dict[str, float]:
    """Samples by name and the labels that tell one from another."""
    found = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            if sample.name.startswith("vllm:") and sample.name != "vllm:cache_config_info":
                assert sample.labels["model_name"] == "m"
                assert sample.labels["engine"] == "0"
            rest = {k: v for k, v in sample.labels.items() if k not in ("model_name", "engine")}
            found[sample.name + "".join(f",{k}={v}" for k, v in rest.items())] = sample.value
    return found


def test_gauges_and_counters_are_the_core_s_of_now() -> None:
    told = scrape(Metrics("m", lambda: [NOW]))
    expected = {
        "vllm:num_requests_running": 3,
        "vllm:num_requests_waiting": 6,  # those whose KV is under way wait, too
        "vllm:kv_cache_usage_perc": 0.25,
        "vllm:prefix_cache_queries_total": 100,
        "vllm:prefix_cache_hits_total": 60,
        "vllm:external_prefix_cache_queries_total": 80,
        "vllm:external_prefix_cache_hits_total": 48,
        "vllm:prompt_tokens_total": 500,
        "vllm:generation_tokens_total": 70,
        "vllm:num_preemptions_total": 1,
        "vllm:nixl_num_failed_transfers_total": 7,
        "vllm:nixl_num_kv_expired_reqs_total": 9,
        "pd_engine_free_blocks": 30,
        "pd_engine_blocks": 40,
        "pd_engine_held_requests": 5,
        "pd_engine_loading_requests": 2,
        "pd_engine_computed_prompt_tokens_total": 300,
        "pd_engine_failed_digests_total": 8,
        "pd_engine_expired_holds_total": 9,
        "pd_engine_transfers_total": 6,
    }
    assert {name: told.get(name) for name in expected} == expected


def test_each_data_parallel_rank_is_told_of_by_itself() -> None:
    metrics = Metrics("m", lambda: [NOW, replace(NOW, running=9)])
    running = [
        (sample.labels["engine"], sample.value)
        for family in metrics.collect()
        for sample in family.samples
        if sample.name == "vllm:num_requests_running"
    ]
    assert running == [("0", 3), ("1", 9)]


def test_an_answer_is_timed_from_its_arrival_to_its_last_token() -> None:
    metrics = Metrics("m", lambda: [Stats()])
    times = metrics.answer(prompt_tokens=30, arrived=100.0)
    times.token(102.0, queued_s=0.5)  # TTFT 2, queue 0.5, prefill 1.5
    times.token(102.25, queued_s=0.0)
    times.token(103.0, queued_s=0.0)  # decode 1.0, inference 2.5, end to end 3.0, mean 0.5
    times.ended("length")
    told = scrape(metrics)
    sums = {
        "time_to_first_token_seconds": (1, 2.0),
        "inter_token_latency_seconds": (2, 1.0),
        "request_time_per_output_token_seconds": (1, 0.5),
        "e2e_request_latency_seconds": (1, 3.0),
        "request_queue_time_seconds": (1, 0.5),
        "request_prefill_time_seconds": (1, 1.5),
        "request_decode_time_seconds": (1, 1.0),
        "request_inference_time_seconds": (1, 2.5),
        "request_prompt_tokens": (1, 30),
        "request_generation_tokens": (1, 3),
    }
    for name, (count, total) in sums.items():
        assert told[f"vllm:{name}_count"] == count, name
        assert told[f"vllm:{name}_sum"] == total, name
    assert told["vllm:request_success_total,finished_reason=length"] == 1
    assert told["vllm:request_success_total,finished_reason=stop"] == 0


def test_a_bucket_holds_what_is_at_its_bound_or_below() -> None:
    metrics = Metrics("m", lambda: [Stats()])
    for seconds in (0.25, 0.26, 3000.0):
        metrics.answer(1, arrived=0.0).token(seconds, queued_s=0.0)
    told = scrape(metrics)
    bucket = "vllm:time_to_first_token_seconds_bucket,le="
    assert [told[bucket + bound] for bound in ("0.1", "0.25", "0.5", "2560.0", "+Inf")] == [
        0,
        1,
        2,
        2,
        3,
    ]


def test_an_aborted_answer_is_counted_and_not_timed() -> None:
    metrics = Metrics("m", lambda: [Stats()])
    times = metrics.answer(1, arrived=0.0)
    times.token(1.0, queued_s=0.0)
    times.ended("abort")
    metrics.answer(1, arrived=0.0).ended("error")
    told = scrape(metrics)
    assert told["vllm:request_success_total,finished_reason=abort"] == 1
    assert told["vllm:request_success_total,finished_reason=error"] == 1
    assert told["vllm:e2e_request_latency_seconds_count"] == 0


def test_each_transfer_is_told_of_once() -> None:
    moved = [Transferred(0.5, 0.125, 4096, 12), Transferred(0.25, 0.125, 2048, 6)]

    def transfers() -> list[Transferred]:
        taken, moved[:] = list(moved), []
        return taken

    metrics = Metrics("m", lambda: [Stats()], transfers)
    told = [scrape(metrics), scrape(metrics)][1]
    assert (told["vllm:nixl_xfer_time_seconds_count"], told["vllm:nixl_xfer_time_seconds_sum"]) == (
        2,
        0.75,
    )
    assert told["vllm:nixl_post_time_seconds_sum"] == 0.25
    assert told["vllm:nixl_bytes_transferred_sum"] == 6144
    assert told["vllm:nixl_bytes_transferred_bucket,le=2048.0"] == 1
    assert told["vllm:nixl_num_descriptors_sum"] == 18


def test_faults_that_struck_are_told_by_their_kind() -> None:
    told = scrape(Metrics("m", lambda: [Stats()], fired=lambda: {"refuse": 3, "hang": 0}))
    assert told["pd_engine_faults_fired_total,kind=refuse"] == 3
    assert told["pd_engine_faults_fired_total,kind=hang"] == 0


def test_engines_of_one_process_have_books_of_their_own() -> None:
    one, other = Metrics("m", lambda: [NOW]), Metrics("m", lambda: [replace(NOW, running=9)])
    assert scrape(one)["vllm:num_requests_running"] == 3
    assert scrape(other)["vllm:num_requests_running"] == 9
