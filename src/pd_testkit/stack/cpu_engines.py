"""The command lines of the kit's own engine."""

from __future__ import annotations

from pd_testkit.stack.machine import Machine
from pd_testkit.stack.plan import Probe, Process, Readiness
from pd_testkit.stack.seats import RouterSeat, Seat
from pd_testkit.stack.settings import Leg, Settings

HEADS = {"tiny": 8, "tiny-gqa": 8, "tiny-mla": 8, "small": 8, "medium": 16}
"""Query heads of the models that the engine has."""

CONNECTORS = ("nixl", "p2p_nccl", "moriio")
"""Whose protocols it speaks."""

_MODULES = {"nixl": "nixl", "mooncake": "mooncake"}
"""What a transport imports and the kit alone does not bring; extras have the same names."""


def process(
    settings: Settings, leg: Leg, seat: Seat, router: RouterSeat, machine: Machine
) -> Process:
    """``pd-testkit engine`` at this seat."""
    argv = [machine.python, "-m", "pd_testkit", "engine", "--role", leg.role]
    argv += ["--host", seat.host, "--port", str(seat.port)]
    argv += ["--side-channel-port", str(seat.side_port)]
    argv += ["--model", settings.model_id]
    if settings.served_model_name:
        argv += ["--served-model-name", settings.served_model_name]
    argv += ["--seed", str(settings.seed), "--dtype", settings.dtype]
    argv += ["--tp", str(leg.tp), "--dp", str(leg.dp)]
    argv += ["--block-size", str(leg.block_size), "--layout", leg.kv_layout]
    argv += ["--transport", settings.transport, "--mode", settings.transfer_mode]
    if settings.kv_digest:
        argv += ["--kv-digest"]
    argv += ["--protocol", settings.connector]
    if settings.registers:
        argv += ["--register", f"tcp://{router.discovery_host}:{router.discovery_port}"]
    return Process(
        name=seat.name,
        role=leg.role,
        argv=(*argv, *leg.args),
        url=seat.url,
        ready=ready(settings, leg, seat),
        # Several engines on a laptop's cores: more threads each would be in each other's way.
        env={"OMP_NUM_THREADS": "1"},
        ports=seat.ports,
    )


def ready(settings: Settings, leg: Leg, seat: Seat) -> Readiness:
    """An engine serves when it is well and has the model. vLLM's as well as ours."""
    return Readiness(
        (
            Probe(f"{seat.url}/health"),
            Probe(f"{seat.url}/v1/models", "data[].id", (settings.model_name,)),
        ),
        leg.wait,
    )


def problems(settings: Settings, machine: Machine) -> list[str]:
    """What the engine cannot do, or not on this machine."""
    found = []
    model = settings.model_id
    heads = HEADS.get(model)
    if heads is None:
        if machine.has_folder(model):
            config = machine.model_config(model) or {}
            heads = config.get("num_attention_heads")
        else:
            found.append(
                f"--model {model} (MODEL_NAMES, MODEL): the cpu engine has {', '.join(HEADS)}, or "
                "takes a model's folder; --engine vllm serves others"
            )
    found += tp_problems(settings, heads)
    if settings.connector not in CONNECTORS:
        found.append(
            f"--connector {settings.connector}: the cpu engine speaks {', '.join(CONNECTORS)}"
        )
    module = _MODULES.get(settings.transport)
    if module and not machine.has_module(module):
        found.append(
            f"--transport {settings.transport}: {module} is not installed; "
            f"pip install 'pd-testkit[{settings.transport}]'"
        )
    return found


def tp_problems(settings: Settings, heads: int | None) -> list[str]:
    """Ranks that would not hold equal numbers of heads; None: it is not known how many."""
    return [
        f"--{leg.role}-tp {leg.tp} ({variable}): {settings.model_id} has {heads} attention heads, "
        f"which {leg.tp} ranks cannot share"
        for leg, variable in (
            (settings.leg("prefill"), "PREFILLER_TP_SIZE"),
            (settings.leg("decode"), "DECODER_TP_SIZE"),
        )
        if heads and heads % leg.tp
    ]
