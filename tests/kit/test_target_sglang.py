"""The target ``sglang``: what is said without SGLang, and its engines where it is installed."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pd_testkit.contract import Role, RoomState, Target, TargetError, WorkerSpec
from pd_testkit.contract.clauses import CLAUSES
from pd_testkit.fabric.shared_memory import SharedMemory
from pd_testkit.targets import sglang
from pd_testkit.targets.choice import Choice
from pd_testkit.targets.neighbours import own
from pd_testkit.targets.process import ChildGone
from pd_testkit.targets.sglang.backends import BACKENDS
from pd_testkit.targets.sglang.known import known_failures
from pd_testkit.targets.sglang.memory import aux_views, cache_views, size
from pd_testkit.targets.sglang.pair import PairDriver
from pd_testkit.targets.sglang.rooms import RoomsDriver
from pd_testkit.targets.sglang.tries import Tries

GUIDE = Path(__file__).parents[2] / "docs" / "targets-sglang.md"
P, D = Role.PRODUCER, Role.CONSUMER


# -- without SGLang ----------------------------------------------------------------------------


def test_a_missing_sglang_is_said_with_the_package_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sglang, "find_spec", lambda name: None)
    with pytest.raises(TargetError, match=r"pip install --no-deps sglang==0\.5\.23"):
        sglang.target(Choice("sglang"))


def test_a_missing_transport_is_said_with_the_package_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sglang, "find_spec", lambda name: name == "sglang" or None)
    with pytest.raises(TargetError, match=r"sglang:nixl needs nixl: pip install .*nixl==1"):
        sglang.target(Choice("sglang", "nixl"))


def test_a_variant_that_there_is_none_of_is_said_with_those_there_are() -> None:
    with pytest.raises(TargetError, match="choose of mori, nixl, mooncake"):
        sglang.target(Choice("sglang", "mooncacke"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_known_failures_name_clauses_of_its_units_once(backend: str) -> None:
    clauses = [known.clause for known in known_failures(backend)]
    assert len(clauses) == len(set(clauses))
    assert {CLAUSES[clause].unit for clause in clauses} <= set(BACKENDS[backend].units)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_guide_lists_every_known_failure(backend: str) -> None:
    rows = [row for row in GUIDE.read_text().splitlines() if row.startswith("| ")]
    for known in known_failures(backend):
        where, _, does = known.reason.partition(" ")
        assert any(
            row.startswith((f"| {backend} ", "| all "))
            and f"`{where}` {does}" in row
            and known.clause in row
            for row in rows
        ), known


def test_only_the_kits_own_transport_takes_a_fabric() -> None:
    assert {name: backend.fabric for name, backend in BACKENDS.items()} == {
        "mori": True,
        "nixl": False,
        "mooncake": False,
    }


def test_pages_and_aux_slots_share_the_memory_without_overlap() -> None:
    spec = WorkerSpec(num_blocks=3, layers=2, kv_heads=2, head_dim=4, block_size=5)
    with SharedMemory(size(spec)) as memory:
        for array in (*aux_views(memory.array), *cache_views(memory.array, spec).values()):
            array[...] += 1
        aux = aux_views(memory.array)
        assert all((array == 1).all() for array in aux)
        caches = cache_views(memory.array, spec)
        assert list(caches) == ["0.k", "0.v", "1.k", "1.v"]
        assert all((array == 1).all() for array in caches.values())
        used = sum(array.nbytes for array in (*aux, *caches.values()))
        assert used == memory.size


def test_a_silent_server_is_tried_fifteen_times_one_second_apart() -> None:
    tries = Tries(patience_s=30.0)
    assert [tries.was_last("a", now) for now in range(15)] == 14 * [False] + [True]
    assert tries.due("a", 14.0), "the count begins anew"


def test_tries_at_one_server_do_not_hold_up_another() -> None:
    tries = Tries(patience_s=30.0)
    assert not tries.was_last("a", 0.0)
    assert not tries.due("a", 0.9)
    assert tries.due("a", 1.0)
    assert tries.due("b", 0.0)


def test_all_tries_fit_into_the_patience() -> None:
    tries = Tries(patience_s=1.5)
    assert not tries.was_last("a", 0.0)
    assert not tries.due("a", 0.09)
    assert tries.due("a", 0.11)


def test_a_server_that_has_answered_is_asked_at_once() -> None:
    tries = Tries(patience_s=30.0)
    assert not tries.was_last("a", 0.0)
    tries.forget("a")
    assert tries.due("a", 0.0)


def forked(started: list[int]) -> Any:
    """Processes whose engines listen where they are told to, and do nothing else."""

    def make(*_: object, port: int, **__: object) -> Any:
        started.append(port)
        return SimpleNamespace(bootstrap=lambda: f"127.0.0.1:{port}")

    nothing = {"kill": lambda: None, "close": lambda: None}
    return lambda name: SimpleNamespace(make=make, alive=True, **nothing)


def test_p_comes_back_at_its_port_which_no_client_of_the_system_takes_meanwhile() -> None:
    started: list[int] = []
    pair = PairDriver("mori", [WorkerSpec()], WorkerSpec(), "write", forked(started), None)
    pair.kill()
    pair.restart()
    pair.close()
    assert len(started) == 3, "P, D, and P again"
    assert len(set(started)) == 1
    rooms = RoomsDriver("mori", WorkerSpec(), WorkerSpec(), forked(started))
    rooms.restart(P)
    rooms.close()
    assert len(started) == 6
    assert len(set(started)) == 2
    assert set(started) <= set(own(os.environ))


# -- with SGLang ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mori() -> Iterator[Target]:
    if importlib.util.find_spec("sglang") is None:
        pytest.skip("not applicable: SGLang is not installed")
    target = sglang.target(Choice("sglang", "mori"))
    target.open()
    yield target
    target.close()


@pytest.mark.timeout(300)
def test_a_killed_engine_is_gone_and_comes_back(mori: Target) -> None:
    spec = WorkerSpec(patience_s=30.0)
    rooms = mori.rooms(spec, spec)
    try:
        rooms.open(P, 1)
        assert rooms.poll(P, 1) is RoomState.BOOTSTRAPPING
        rooms.kill(P)
        with pytest.raises(ChildGone):
            rooms.poll(P, 1)
        rooms.restart(P)
        rooms.open(P, 1)
        assert rooms.poll(P, 1) is RoomState.BOOTSTRAPPING
    finally:
        rooms.close()  # type: ignore[attr-defined]
