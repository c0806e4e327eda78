"""Engines in containers: vLLM's image, on a network of their own."""

from __future__ import annotations

from dataclasses import replace

from pd_testkit.hardware.visible import BEFORE
from pd_testkit.stack.machine import Machine
from pd_testkit.stack.plan import Process, Step
from pd_testkit.stack.seats import Seat
from pd_testkit.stack.settings import Settings

NETWORK = "vllm_pd_test_network"
AMD = ("--device", "/dev/kfd", "--device", "/dev/dri", "--group-add", "video")
RDMA = ("--device", "/dev/infiniband", "--cap-add", "IPC_LOCK", "--ulimit", "memlock=-1")
"""The devices, and the right to lock the memory that is registered with them."""


def steps(settings: Settings) -> tuple[Step, ...]:
    """The image, if it is not there yet: to get it takes longer than an engine may take to start.
    And the network, whose addresses are known beforehand: NIXL binds an address, not a name."""
    return (
        Step(("docker", "run", "--rm", "--entrypoint", "true", settings.docker_image)),
        Step(
            ("docker", "network", "create", "--subnet", f"{settings.docker_subnet}.0/24", NETWORK),
            ("docker", "network", "rm", NETWORK),
        ),
    )


def contained(settings: Settings, seat: Seat, process: Process) -> Process:
    """A process of this machine as a container."""
    name = f"vllm_{seat.role}_{seat.index}"
    argv = ["docker", "run", "--rm", "--name", name]
    argv += ["--network", NETWORK, "--ip", seat.host]
    argv += ["--publish", f"{settings.host}:{seat.port}:{seat.port}"]
    if settings.connector == "moriio":
        argv += [*AMD, *RDMA]
    else:
        # Docker parts the value at commas, unless it is quoted.
        argv += ["--gpus", f'"device={",".join(seat.gpus)}"']
    argv += ["--shm-size", settings.docker_shm_size]
    argv += [word for folder in _folders(settings) for word in ("--volume", folder)]
    for variable, value in process.env.items():
        # A container sees its own GPUs only, from 0; of AMD's it sees all, and HIP's variable.
        if variable != "CUDA_VISIBLE_DEVICES":
            argv += ["--env", f"{variable}={value}"]
    if settings.connector == "moriio":
        argv += ["--env", BEFORE]  # where it is set here: HIP's has indices of what it leaves
    argv += ["--env", "HF_TOKEN"]
    argv += ["--health-cmd", f"curl -sf http://{seat.host}:{seat.port}/health"]
    argv += ["--entrypoint", process.argv[0], settings.docker_image, *process.argv[1:]]
    return replace(
        process,
        argv=tuple(argv),
        env={},
        ports=(seat.port,),
        clean_up=(("docker", "rm", "--force", name),),
    )


def _folders(settings: Settings) -> list[str]:
    """At the same paths, so that the command line has them as they are."""
    folders = [f"{path}:{path}" for path in (settings.cache_dir, settings.offload_dir) if path]
    if settings.model_id.startswith("/"):
        folders.append(f"{settings.model_id}:{settings.model_id}:ro")
    return folders


def problems(settings: Settings, machine: Machine) -> list[str]:
    """What containers cannot do, or not on this machine."""
    found = []
    if settings.engine == "cpu":
        found.append("--runner docker: of vllm engines only; cpu engines need no image")
    elif not machine.has_program("docker"):
        found.append("there is no program docker on the path: --runner local needs none")
    found += [
        f"--{name} {path}: give the whole path, which is the same in the containers"
        for name, path in (
            ("model", settings.model_id if settings.model_id[0] in ".~" else ""),
            ("cache-dir", settings.cache_dir),
            ("offload-dir", settings.offload_dir),
        )
        if path and not path.startswith("/")
    ]
    return found
