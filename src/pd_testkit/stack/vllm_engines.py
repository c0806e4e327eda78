"""The command lines of ``vllm serve``, as vLLM 0.33.0 takes them."""

from __future__ import annotations

import json

from pd_testkit.hardware.visible import VARIABLES
from pd_testkit.stack import connectors, cpu_engines
from pd_testkit.stack.machine import Machine
from pd_testkit.stack.plan import Process
from pd_testkit.stack.seats import RouterSeat, Seat
from pd_testkit.stack.settings import Leg, Settings


def process(settings: Settings, leg: Leg, seat: Seat, router: RouterSeat) -> Process:
    """``vllm serve`` at this seat."""
    argv = ["vllm", "serve", settings.model_id, "--host", seat.host, "--port", str(seat.port)]
    if settings.served_model_name:
        argv += ["--served-model-name", settings.served_model_name]
    argv += ["--tensor-parallel-size", str(leg.tp)]
    if leg.dp > 1:
        argv += ["--data-parallel-size", str(leg.dp)]
    argv += ["--block-size", str(leg.block_size)]
    argv += ["--gpu-memory-utilization", f"{leg.gpu_memory_utilization:g}"]
    if settings.enforce_eager:
        argv += ["--enforce-eager"]
    if settings.flashinfer:
        argv += ["--attention-backend", "FLASHINFER"]
    if settings.cache_dir:
        argv += ["--download-dir", settings.cache_dir]
    argv += connectors.serve_arguments(settings)
    config = connectors.transfer_config(settings, leg, seat, router)
    argv += ["--kv-transfer-config", json.dumps(config, separators=(",", ":"))]
    # MoRI-IO is AMD's, of whose two variables vLLM wants that they are equal.
    platform = "rocm" if settings.connector == "moriio" else "cuda"
    return Process(
        name=seat.name,
        role=leg.role,
        argv=(*argv, *leg.args),
        url=seat.url,
        ready=cpu_engines.ready(settings, leg, seat),
        env={
            **dict.fromkeys(VARIABLES[platform], ",".join(seat.gpus)),
            "VLLM_HOST_IP": seat.host,
            **connectors.environment(settings, leg, seat),
        },
        gpus=seat.gpus,
        ports=seat.ports,
    )


def problems(settings: Settings, machine: Machine) -> list[str]:
    """What vLLM cannot do, or not on this machine."""
    found = []
    heads = None
    if settings.model_id.startswith((".", "/", "~")):
        if machine.has_folder(settings.model_id):
            config = machine.model_config(settings.model_id) or {}
            heads = config.get("num_attention_heads")
        else:
            found.append(f"--model {settings.model_id} (MODEL_NAMES, MODEL): no such folder")
    found += cpu_engines.tp_problems(settings, heads)
    found += connectors.problems(settings)
    if settings.runner == "local" and not machine.has_program("vllm"):
        found.append("there is no program vllm on the path: install vLLM, or use --runner docker")
    if settings.offload_dir and not machine.has_folder(settings.offload_dir):
        found.append(f"--offload-dir {settings.offload_dir} (PD_OFFLOAD_DIR): no such folder")
    return found
