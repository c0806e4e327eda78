"""Engines in containers: their own network, their own GPUs, and nothing left of them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from pd_testkit.stack.plan import Plan
from tests.kit.stack_machine import SERVER, planned, problems


def contained(**settings: Any) -> Plan:
    machine = replace(SERVER, folders={"/kv": None, "/models/m": None})
    return planned(machine, engine="vllm", runner="docker", **settings)


def options(plan: Plan, index: int, name: str) -> list[str]:
    """Of ``docker run``, ahead of the image."""
    argv = plan.processes[index].argv
    argv = argv[: argv.index("--entrypoint")]
    return [value for option, value in itertools.pairwise(argv) if option == name]


def test_each_container_is_named_and_removed_by_its_name() -> None:
    plan = contained(prefill=2, decode=1)
    names = ["vllm_prefill_0", "vllm_prefill_1", "vllm_decode_0"]
    assert [options(plan, i, "--name") for i in range(3)] == [[name] for name in names]
    assert [process.clean_up for process in plan.processes] == [
        *((("docker", "rm", "--force", name),) for name in names),
        (),
    ]


def test_the_network_is_made_first_and_removed() -> None:
    image, network = contained(docker_image="mine:1").steps
    assert image.argv == ("docker", "run", "--rm", "--entrypoint", "true", "mine:1")
    assert network.argv[:3] == ("docker", "network", "create")
    assert network.argv[-1] == "vllm_pd_test_network"
    assert network.undo == ("docker", "network", "rm", "vllm_pd_test_network")


def test_containers_have_addresses_of_their_own_in_the_network() -> None:
    plan = contained(prefill=2, decode=2, docker_subnet="10.1.2")
    addresses = [options(plan, i, "--ip")[0] for i in range(4)]
    assert addresses == ["10.1.2.10", "10.1.2.11", "10.1.2.110", "10.1.2.111"]
    assert plan.steps[1].argv[4] == "10.1.2.0/24"
    for i in range(4):
        argv = plan.processes[i].argv
        assert argv[argv.index("--host") + 1] == addresses[i]
        environment = options(plan, i, "--env")
        assert f"VLLM_NIXL_SIDE_CHANNEL_HOST={addresses[i]}" in environment
        assert options(plan, i, "--network") == ["vllm_pd_test_network"]


def test_the_router_finds_them_at_published_ports() -> None:
    plan = contained(prefill=2, decode=2)
    assert [options(plan, i, "--publish") for i in range(4)] == [
        [f"127.0.0.1:{port}:{port}"] for port in (8100, 8101, 8200, 8201)
    ]
    assert [process.ports for process in plan.processes] == [
        (8100,), (8101,), (8200,), (8201,), (10001,)
    ]  # fmt: skip
    router = plan.processes[-1]
    assert router.argv[0] == "python"
    assert "http://127.0.0.1:8201" in router.argv


def test_engines_that_register_find_the_router_at_their_gateway() -> None:
    plan = contained(connector="moriio")
    assert '"proxy_ip":"172.31.240.1"' in plan.processes[0].argv[-1]
    assert plan.processes[0].url == "http://172.31.240.10:8100"
    router = plan.processes[-1]
    assert "tcp://172.31.240.1:30002" in router.argv
    assert router.ready.probes[1].values == (
        "http://172.31.240.10:8100",
        "http://172.31.240.110:8200",
    )


def test_a_container_sees_its_own_gpus() -> None:
    plan = contained(prefill_tp=2, decode=2)
    assert [options(plan, i, "--gpus") for i in range(3)] == [
        ['"device=0,1"'],
        ['"device=2"'],
        ['"device=3"'],
    ]
    assert not any("CUDA_VISIBLE_DEVICES" in word for word in plan.processes[0].argv)


def test_a_container_sees_none_that_is_hidden_here() -> None:
    shared = replace(SERVER, gpu_names=("4", "GPU-2c3d"))
    plan = planned(shared, engine="vllm", runner="docker")
    assert [options(plan, i, "--gpus") for i in range(2)] == [
        ['"device=4"'],
        ['"device=GPU-2c3d"'],
    ]
    amd = planned(shared, engine="vllm", runner="docker", connector="moriio")
    assert "HIP_VISIBLE_DEVICES=GPU-2c3d" in options(amd, 1, "--env")
    assert "ROCR_VISIBLE_DEVICES" in options(amd, 1, "--env"), "with its value here, if it has one"


def test_amds_are_devices_and_a_variable() -> None:
    plan = contained(connector="moriio")
    assert options(plan, 1, "--device")[:2] == ["/dev/kfd", "/dev/dri"]
    assert "HIP_VISIBLE_DEVICES=1" in options(plan, 1, "--env")
    assert options(plan, 1, "--gpus") == []


def test_what_moves_by_rdma_has_its_devices_and_may_lock_memory() -> None:
    plan = contained(connector="moriio")
    for i in range(2):
        assert options(plan, i, "--device") == ["/dev/kfd", "/dev/dri", "/dev/infiniband"]
        assert options(plan, i, "--cap-add") == ["IPC_LOCK"]
        assert options(plan, i, "--ulimit") == ["memlock=-1"]
    assert not {"--device", "--cap-add", "--ulimit"}.intersection(contained().processes[0].argv)


def test_folders_are_at_the_same_paths() -> None:
    plan = contained(model="/models/m", cache_dir="/kv", docker_shm_size="32g")
    assert options(plan, 0, "--volume") == ["/kv:/kv", "/models/m:/models/m:ro"]
    assert options(plan, 0, "--shm-size") == ["32g"]


def test_the_image_serves_whatever_its_entry_point() -> None:
    argv = contained(docker_image="mine:1", model="m/n").processes[0].argv
    at = argv.index("--entrypoint")
    assert argv[at : at + 5] == ("--entrypoint", "vllm", "mine:1", "serve", "m/n")


def test_docker_tells_their_health() -> None:
    plan = contained()
    assert options(plan, 0, "--health-cmd") == ["curl -sf http://172.31.240.10:8100/health"]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"model": "./m"}, "--model ./m: give the whole path, which is the same in the containers"),
        ({"cache_dir": "kv"}, "--cache-dir kv: give the whole path, which is the same in the "
         "containers"),
    ],
)  # fmt: skip
def test_paths_are_whole(settings: dict[str, Any], line: str) -> None:
    machine = replace(SERVER, folders={"./m": None, "kv": None})
    assert problems(machine, engine="vllm", runner="docker", **settings) == (line,)


def test_docker_must_be_there() -> None:
    machine = replace(SERVER, programs=frozenset({"vllm"}))
    assert problems(machine, engine="vllm", runner="docker") == (
        "there is no program docker on the path: --runner local needs none",
    )
