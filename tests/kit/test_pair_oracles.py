"""The oracles of the pair clauses: what D knows of P's memory, and its part of a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from pd_testkit.contract import Capabilities, HandOff, MemoryRange, WorkerReport, WorkerSpec

np = pytest.importorskip("numpy", reason="not applicable: numpy is not installed")

from pd_testkit.fabric import Fabric  # noqa: E402
from pd_testkit.suites import pair_fabric  # noqa: E402
from pd_testkit.suites.pair_bytes import PromptKV, WorkerMemory  # noqa: E402
from pd_testkit.suites.peer_memory import check_known  # noqa: E402


def whole(array: Any) -> MemoryRange:
    return MemoryRange(array.__array_interface__["data"][0], array.nbytes)


def check(caches: Mapping[str, Any], known: Mapping[str, Sequence[MemoryRange]]) -> None:
    pair = SimpleNamespace(cache=lambda role, engine: caches, peer=lambda source: known)
    meeting: Any = SimpleNamespace(pair=pair)
    check_known(meeting, HandOff())


def side_by_side() -> tuple[Any, dict[str, Any]]:
    """A layer's memory, and its K and V, which take turns in it block by block."""
    layer = np.zeros((4, 2, 16, 2, 8), np.uint16)
    return layer, {"0.k": layer[:, 0], "0.v": layer[:, 1]}


def test_a_cache_may_be_known_in_parts() -> None:
    k, v = np.zeros((4, 16, 2, 8), np.uint16), np.zeros((4, 16, 2, 8), np.uint16)
    half = k.nbytes // 2
    start = whole(k).address
    parts = [MemoryRange(start + half, half), MemoryRange(start, half)]
    check({"0.k": k, "0.v": v}, {"0.k": parts, "0.v": [whole(v)]})


@pytest.mark.parametrize(
    "wrong",
    [
        lambda start, size: [MemoryRange(start, size - 1)],
        lambda start, size: [MemoryRange(start, size + 1)],
        lambda start, size: [MemoryRange(start + 64, size)],
        lambda start, size: [MemoryRange(start, size), MemoryRange(start, size)],
        lambda start, size: [MemoryRange(start, 64), MemoryRange(start + 128, size - 128)],
        lambda start, size: [],
    ],
    ids=["short", "long", "elsewhere", "twice", "gap", "nothing"],
)
def test_more_less_or_other_memory_is_noticed(wrong: Any) -> None:
    k, v = np.zeros((4, 16, 2, 8), np.uint16), np.zeros((4, 16, 2, 8), np.uint16)
    known = {"0.k": wrong(whole(k).address, k.nbytes), "0.v": [whole(v)]}
    with pytest.raises(AssertionError, match=r"0\.k"):
        check({"0.k": k, "0.v": v}, known)


def test_caches_that_lie_within_one_another_are_known_as_one() -> None:
    layer, caches = side_by_side()
    check(caches, {name: [whole(layer)] for name in caches})
    short = MemoryRange(whole(layer).address, layer.nbytes - 1)
    with pytest.raises(AssertionError, match=r"0\.k, 0\.v"):
        check(caches, {name: [short] for name in caches})


def test_names_that_are_missing_are_noticed() -> None:
    layer, caches = side_by_side()
    with pytest.raises(AssertionError, match="other caches"):
        check(caches, {"0.k": [whole(layer)]})


def test_the_end_of_a_prompt_is_what_its_last_blocks_hold() -> None:
    spec = WorkerSpec(block_size=4, num_blocks=8, layers=1, kv_heads=1)
    random = np.random.default_rng(1)
    memory = {name: np.zeros((8, 4, 1, 8), np.uint16) for name in ("0.k", "0.v")}
    worker = WorkerMemory(spec, 0, memory, random)
    kv = PromptKV(random, 10, 1, memory)
    worker.put([5, 2, 7], kv)
    rest = kv.after(4)
    assert rest.tokens == 6
    assert worker.wrong([2, 7], rest, 6) == ""
    assert "token 0" in worker.wrong([5, 2], rest, 6)
    assert worker.wrong([5, 2, 7], kv, 10) == "", "the whole is as it was"


@pytest.mark.parametrize(("reaction_s", "looks"), [(0.0, 3), (0.01, 3), (1.5, 76)])
def test_what_must_not_be_reported_is_looked_for_until_it_would_have_shown(
    reaction_s: float, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]  # seconds, which pass only as the run waits
    monkeypatch.setattr(pair_fabric, "monotonic", lambda: clock[0])
    spec = WorkerSpec(mla=True, kv_heads=1, head_dim=24, layers=1, num_blocks=2)
    pair: Any = SimpleNamespace(
        cache=lambda role, **which: {"0": np.zeros((2, 16, 1, 24), np.uint16)},
        poll=lambda role, engine: (WorkerReport(),),
        wait=lambda seconds: clock.__setitem__(0, round(clock[0] + seconds, 6)),
    )
    can = Capabilities(fabric=True)
    run = pair_fabric.FabricRun(pair, Fabric(), [spec], spec, can, 5.0, reaction_s)
    assert sum(1 for _ in run.looks()) == looks
    waited = (looks - 1) * 0.02 if reaction_s else 0.0
    assert clock == [pytest.approx(100.0 + waited)]
