"""Where vLLM's workers have their KV, and how a test's process sees it there."""

from __future__ import annotations

import numpy as np
import pytest

from pd_testkit.contract import TargetError, Unit
from pd_testkit.targets.vllm import ENVIRONMENT
from pd_testkit.targets.vllm.connectors import CONNECTORS
from pd_testkit.targets.vllm.places import Places, parse


@pytest.mark.parametrize(
    ("variant", "name", "places"),
    [
        ("", "", Places()),
        ("nixl", "nixl", Places()),
        ("nixl@cpu", "nixl", Places("cpu", "cpu")),
        ("mooncake@cuda:1", "mooncake", Places("cuda:1", "cuda:1")),
        ("@cuda:0,cuda:1", "", Places("cuda:0", "cuda:1")),
    ],
)
def test_devices_follow_the_connector_s_name(variant: str, name: str, places: Places) -> None:
    assert parse(variant) == (name, places)


@pytest.mark.parametrize("told", ["", "cuda", "gpu:0", "cuda:0,cuda:1,cuda:2", "cpu,", "cuda:-1"])
def test_what_is_no_device_is_refused(told: str) -> None:
    with pytest.raises(TargetError, match="one device or two"):
        parse(f"nixl@{told}")


@pytest.mark.parametrize("told", ["cpu,cuda:0", "cuda:0,cpu"])
def test_devices_of_two_kinds_are_refused(told: str) -> None:
    with pytest.raises(TargetError, match="one kind of device"):
        parse(f"nixl@{told}")


def test_a_plain_target_is_as_it_was() -> None:
    plain, nixl = Places(), CONNECTORS["nixl"]
    assert plain.connector(nixl) is nixl
    assert plain.capabilities(nixl.capabilities) is nixl.capabilities
    assert plain.environment(ENVIRONMENT) is ENVIRONMENT


def test_with_a_device_only_the_workers_are_asked() -> None:
    assert Places("cpu", "cpu").connector(CONNECTORS["nixl"]).units == (Unit.HANDSHAKE, Unit.PAIR)
    with pytest.raises(TargetError, match="no caches to be on a device"):
        Places("cpu", "cpu").connector(CONNECTORS["multi"])


def test_on_a_cpu_mori_is_stood_in_for_and_on_a_gpu_it_is_the_real_one() -> None:
    moriio, gpu = CONNECTORS["moriio"], Places("cuda:0", "cuda:1")
    assert Places("cpu", "cpu").connector(moriio).stubs == ("mori",)
    assert gpu.connector(moriio).stubs == ()
    assert "mori" in gpu.connector(moriio).packages
    assert not gpu.capabilities(moriio.capabilities).fabric
    assert moriio.capabilities.fabric


def test_on_a_gpu_vllm_looks_for_it_and_ucx_chooses_its_way() -> None:
    left = Places("cuda:0", "cuda:0").environment(ENVIRONMENT)
    assert left.keys() < ENVIRONMENT.keys()
    assert ENVIRONMENT.keys() - left.keys() == {
        "VLLM_TARGET_DEVICE",
        "UCX_NET_DEVICES",
        "UCX_TLS",
    }


def test_each_side_s_changes_reach_the_other_and_nothing_else_does() -> None:
    pytest.importorskip("torch")
    from pd_testkit.targets.vllm.mirror import Mirror

    shared = np.zeros(8, np.uint8)
    mirror = Mirror("cpu", shared)
    assert mirror.tensor.data_ptr() % 4096 == 0
    shared[1] = 11
    mirror.push()
    assert mirror.tensor.tolist() == [0, 11, 0, 0, 0, 0, 0, 0]
    mirror.tensor[6] = 66  # as a transfer that lands between two steps
    shared[2] = 22
    mirror.push()
    assert mirror.tensor.tolist() == [0, 11, 22, 0, 0, 0, 66, 0]
    assert shared[6] == 0
    shared[3] = 33  # while the step is under way
    mirror.pull()
    assert shared.tolist() == [0, 11, 22, 33, 0, 0, 66, 0]
    mirror.push()
    assert mirror.tensor.tolist() == [0, 11, 22, 33, 0, 0, 66, 0]
