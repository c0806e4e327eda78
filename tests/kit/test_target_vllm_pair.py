"""Pairs of vLLM's workers: real processes and real bytes. Needs vLLM and NIXL."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from pd_testkit.contract import HandOff, NotApplicable, Pair, Role, Target, WorkerSpec
from pd_testkit.targets import load
from pd_testkit.targets.vllm.pair_params import DIALECTS, Place

needs_nixl = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None or importlib.util.find_spec("nixl") is None,
    reason="not applicable: vLLM is not installed",
)
D = Place("d", "127.0.0.2", 7000, 7001, 2)
P = Place("p", "127.0.0.1", 6000, 6001, 1)


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    made = load("vllm:nixl")
    made.open()
    yield made
    made.close()


@pytest.fixture
def pair(target: Target) -> Iterator[Pair]:
    made = target.pair([target.worker_spec], target.worker_spec)
    yield made
    made.close()  # type: ignore[attr-defined]


def test_mooncake_names_the_bootstrap_server_that_the_hand_off_leads_to() -> None:
    dialect = DIALECTS["mooncake"]
    answer = dialect.answer(dialect.prefill("r", D), None, P)
    source = dialect.hand_off(answer)
    assert (source.engine_id, source.host, source.handshake_port) == ("p", "127.0.0.1", 6000)
    assert source.block_ids is None
    led = dialect.decode(answer, source.with_(host="::1", handshake_port=9))
    assert led["remote_bootstrap_addr"] == "http://[::1]:9"
    assert led["transfer_id"] == answer["transfer_id"]


def test_nixl_passes_on_what_p_answered_with_what_the_clause_changed() -> None:
    dialect = DIALECTS["nixl"]
    answer = {
        "remote_engine_id": "p",
        "remote_host": "127.0.0.1",
        "remote_port": 6000,
        "remote_block_ids": [[5, 2]],
        "remote_request_id": "r",
        "tp_size": 1,
        "remote_num_tokens": 64,
    }
    source = dialect.hand_off(answer)
    assert source == HandOff("p", "127.0.0.1", None, 6000, (5, 2), "r", 1)
    passed = dialect.decode(answer, source.with_(block_ids=(7,)))
    assert passed == answer | {"remote_block_ids": [[7]]}


@needs_nixl
def test_a_version_or_an_element_that_cannot_be_had_is_not_applicable(target: Target) -> None:
    for spec in (WorkerSpec(version="2"), WorkerSpec(itemsize=1), WorkerSpec(dp_size=2)):
        with pytest.raises(NotApplicable):
            target.pair([spec], target.worker_spec)


@needs_nixl
def test_both_sides_see_the_memory_that_is_shared(pair: Pair) -> None:
    caches = pair.cache(Role.PRODUCER)
    assert list(caches) == ["0.k", "0.v", "1.k", "1.v"]
    assert caches["0.k"].shape == (16, 32, 4, 64)
    caches["0.k"][...] = 7
    assert not (caches["0.v"] == 7).any()
    again = pair.cache(Role.PRODUCER)["0.k"]
    assert (again == 7).all()


@needs_nixl
def test_a_killed_engine_is_gone_and_comes_back_at_its_port_with_new_memory(pair: Pair) -> None:
    before = pair.side_channel()
    pair.cache(Role.PRODUCER)["0.k"][...] = 7
    pair.kill()
    assert pair.poll(Role.PRODUCER) == (type(pair.poll(Role.CONSUMER)[0])(),)
    pair.restart()
    assert pair.side_channel() == before
    assert not (pair.cache(Role.PRODUCER)["0.k"] == 7).any()


@needs_nixl
def test_a_pair_leaves_no_folder(target: Target) -> None:
    made = target.pair([target.worker_spec], target.worker_spec)
    folder = Path(made._prefill[0]._folder)  # type: ignore[attr-defined]
    assert folder.is_dir()
    made.close()  # type: ignore[attr-defined]
    assert not folder.exists()
