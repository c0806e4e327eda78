"""No GPU has two engines, and none is named that the machine does not have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_testkit.stack.gpus import assign
from pd_testkit.stack.sources import read
from tests.kit.stack_machine import SERVER, planned, problems


def gpus(total: int = 8, **settings: Any) -> list[tuple[int, ...]]:
    told = read(settings, {})
    assigned, wrong = assign(told.leg("prefill"), told.leg("decode"), total)
    assert not wrong
    return assigned


def wrong(total: int = 8, **settings: Any) -> list[str]:
    told = read(settings, {})
    assigned, lines = assign(told.leg("prefill"), told.leg("decode"), total)
    assert not assigned
    return lines


def test_prefill_engines_come_first_and_decode_engines_follow() -> None:
    assert gpus(prefill_tp=2, decode_tp=2) == [(0, 1), (2, 3)]
    assert gpus(prefill=2, decode=3, decode_tp=2) == [(0,), (1,), (2, 3), (4, 5), (6, 7)]
    assert gpus(prefill_dp=2, decode=2) == [(0, 1), (2,), (3,)]


def test_a_leg_has_the_gpus_that_it_is_given() -> None:
    assert gpus(prefill_gpus="1", decode_gpus="2") == [(1,), (2,)]
    assert gpus(prefill=2, prefill_tp=2, prefill_gpus="7,5,3,1") == [(7, 5), (3, 1), (0,)]
    assert gpus(decode_gpus="0", prefill=2) == [(1,), (2,), (0,)]


def test_engines_run_on_gpus_that_are_visible_and_on_no_others() -> None:
    shared = replace(SERVER, gpu_names=("4", "GPU-2c3d", "5"))
    for settings, names in (({}, ["4", "GPU-2c3d"]), ({"prefill_gpus": "2"}, ["5", "4"])):
        engines = planned(shared, engine="vllm", **settings).processes[:2]
        assert [engine.env["CUDA_VISIBLE_DEVICES"] for engine in engines] == names
    assert problems(shared, engine="vllm", decode_gpus="4") == (
        "--decode-gpus (CONS_GPU) 4: 3 GPUs are visible, from 0",
    )


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"prefill": 2, "decode_tp": 4}, "2 prefill engines with TP 1 and 1 decode engine with "
         "TP 4 need 6 GPUs; 4 are visible"),
        ({"decode_dp": 4}, "1 prefill engine with TP 1 and 1 decode engine with TP 1 and DP 4 "
         "need 5 GPUs; 4 are visible"),
        ({"prefill_gpus": "0", "prefill": 2}, "--prefill-gpus (PROD_GPU) 0: 2 prefill engines "
         "with TP 1 need 2 GPUs"),
        ({"decode_gpus": "4"}, "--decode-gpus (CONS_GPU) 4: 4 GPUs are visible, from 0"),
        ({"decode_gpus": "1,1", "decode": 2}, "--decode-gpus (CONS_GPU) 1,1: a GPU is there "
         "twice"),
        ({"prefill_gpus": "1", "decode_gpus": "1"}, "--prefill-gpus and --decode-gpus (PROD_GPU, "
         "CONS_GPU) both have 1"),
    ],
)  # fmt: skip
def test_too_few_and_impossible_gpus_are_said(settings: dict[str, Any], line: str) -> None:
    assert wrong(4, **settings) == [line]


def test_the_plan_says_it_too_and_cpu_engines_take_none() -> None:
    assert (
        "need 16 GPUs; 8 are visible"
        in problems(SERVER, engine="vllm", prefill_tp=8, decode_tp=8)[0]
    )
    assert all(not process.gpus for process in planned(prefill_tp=8, decode_tp=8).processes)


ranks = st.integers(1, 3)
chosen = st.none() | st.lists(st.integers(0, 12), max_size=9).map(tuple)


@given(total=st.integers(0, 12), counts=st.tuples(*[ranks] * 6), chosen=st.tuples(chosen, chosen))
def test_gpus_never_overlap_and_are_the_machines(
    total: int, counts: tuple[int, ...], chosen: tuple[tuple[int, ...] | None, ...]
) -> None:
    names = ("prefill", "decode", "prefill_tp", "decode_tp", "prefill_dp", "decode_dp")
    flags: dict[str, Any] = dict(zip(names, counts, strict=True))
    for name, some in zip(("prefill_gpus", "decode_gpus"), chosen, strict=True):
        if some is not None:
            flags[name] = some
    settings = read(flags, {})
    assigned, lines = assign(settings.leg("prefill"), settings.leg("decode"), total)
    assert bool(assigned) != bool(lines)
    used = [gpu for group in assigned for gpu in group]
    assert len(set(used)) == len(used)
    assert all(0 <= gpu < total for gpu in used)
    if assigned:
        wanted = [flags["prefill_tp"] * flags["prefill_dp"]] * flags["prefill"]
        wanted += [flags["decode_tp"] * flags["decode_dp"]] * flags["decode"]
        assert [len(group) for group in assigned] == wanted
    elif chosen == (None, None):
        assert total < sum(
            flags[leg] * flags[f"{leg}_tp"] * flags[f"{leg}_dp"] for leg in ("prefill", "decode")
        )
