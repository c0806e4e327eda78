"""Proxy, prefill and decode of real vLLM and real ATOM: three processes, and an oracle beside."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e import running
from tests.gpu import serving
from tests.gpu.places import l3

MODEL = os.environ.get("PD_L3_MODEL", "Qwen/Qwen3-0.6B")
ATOM_SOURCE = "PD_ATOM_SOURCE"
"""Names a checkout of ATOM."""
CHECKS = ("tokens", "block-edges", "at-once")
"""Of ``pd-testkit accuracy``: by the oracle's tokens, of single requests and of many at once."""
NAMES = {"p2p_nccl": "P2pNcclConnector"}
"""vLLM's, of connectors that a release may lack: it has been removed since."""
ROUTERS = {"mooncake": "vllm-router"}
"""Where the kit's own cannot hand KV over."""
ORACLE_SHARE = 0.3
"""Of the memory of the GPU on which P is too."""

CONNECTORS = [
    pytest.param("nixl", marks=(*l3(2), pytest.mark.requires_package("nixl"))),
    pytest.param("p2p_nccl", marks=l3(2)),
    pytest.param(
        "mooncake",
        marks=(
            *l3(2),
            pytest.mark.requires_package("mooncake"),
            pytest.mark.requires_package("vllm-router"),
        ),
    ),
    pytest.param("moriio", marks=(*l3(2), pytest.mark.rdma, pytest.mark.requires_package("mori"))),
]
ON_ATOM = [
    pytest.param(
        3,
        marks=(
            *(*l3(3), pytest.mark.rdma, pytest.mark.gpu_memory(16)),
            pytest.mark.requires_package("mori"),
            pytest.mark.requires_package("aiter"),
        ),
        id="three-gpus",
    )
]
KILLS = "FLOW-018 FLOW-019 PAIR-065 PAIR-067 PAIR-068"
"""Clauses that a killed engine which starts again is about."""
LEGS = ("prefill", "decode")
RESTARTS = {
    "moriio": "PAIR-068: D keeps its sessions with a P's earlier life: docs/targets-vllm.md",
    "atom": "PAIR-057, PAIR-066: a dead peer ends D, or its load is never reported: "
    "docs/targets-atom.md",
}
"""What is known to be broken there, by connector or engine."""
PATIENCE_S = 180.0
"""For a request to end: longer than P keeps KV for a D that is gone, and a transfer's timeout."""

pytestmark = [pytest.mark.timeout(3600), pytest.mark.requires_package("rich")]


def has_connector(name: str) -> bool:
    """Whether the vLLM that is installed registers it; nothing is imported."""
    found = importlib.util.find_spec("vllm")
    assert found is not None
    assert found.origin is not None
    factory = Path(found.origin).parent / "distributed/kv_transfer/kv_connector/factory.py"
    return f'"{name}"' in factory.read_text("utf-8")


def of_vllm(connector: str) -> tuple[str, ...]:
    """P on the first GPU, D on the second."""
    return (
        *("--engine", "vllm", "--connector", connector, "--model", MODEL),
        *("--router", ROUTERS.get(connector, "pd-testkit")),
        *("--prefill-gpus", "0", "--decode-gpus", "1", "--enforce-eager"),
        *("--gpu-memory-utilization", "0.5", "--prefill-wait", "600", "--decode-wait", "600"),
    )


def up(connector: str, folder: Path) -> list[str]:
    """The command, with the ports of every day."""
    place = ("--name", f"l3-{connector}", "--log-dir", str(folder / "logs"))
    return [*running.KIT, "up", *of_vllm(connector), *place]


def with_connector(connector: str) -> None:
    """Skip where vLLM has none of that name."""
    if connector in NAMES and not has_connector(NAMES[connector]):
        from importlib.metadata import version

        pytest.skip(f"not applicable: vLLM {version('vllm')} has no {NAMES[connector]}")


def kept(file: Path) -> set[str]:
    checks = json.loads(file.read_text())["checks"]
    assert "failed" not in {check["outcome"] for check in checks}, checks
    return {check["name"] for check in checks if check["outcome"] == "kept"}


@pytest.mark.pd_l2
@pytest.mark.requires_package("pydantic")
@pytest.mark.parametrize("connector", ["nixl", "p2p_nccl", "mooncake", "moriio"])
def test_vllm_s_deployments_can_be_planned(connector: str, tmp_path: Path) -> None:
    """Without a GPU too: a night is not to end at a wrong option."""
    ended = subprocess.run(
        [*up(connector, tmp_path), "--dry-run"],
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=running.PATIENCE_S,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count(f"vllm serve {MODEL} ") == 2
    assert "--gpu-memory-utilization 0.5" in " ".join(ended.stdout.split())


@pytest.mark.requires_package("vllm")
@pytest.mark.parametrize("connector", CONNECTORS)
@pytest.mark.gpu_memory(16)
def test_vllm_s_prefill_and_decode_are_accurate(connector: str, tmp_path: Path) -> None:
    """Real vLLM behind the router; the command's checks of tokens and of the KV's way."""
    with_connector(connector)
    seen = tmp_path / "seen.json"
    with serving.vllm_alone(tmp_path, MODEL, 0, ORACLE_SHARE) as oracle:
        accuracy = f"{' '.join(running.KIT)} accuracy --oracle {oracle} --json {seen}"
        ended = subprocess.run(
            [*up(connector, tmp_path), "--then", accuracy],
            env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=2400,
        )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert {"tokens", "at-once"} <= kept(seen)


@pytest.mark.requires_package("vllm")
@pytest.mark.parametrize("connector", CONNECTORS)
@pytest.mark.gpu_memory(16)
def test_vllm_s_prefill_and_decode_may_be_killed_under_load_and_start_again(
    connector: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property,
) -> None:
    """As the kit's engines in `tests/e2e/test_stack_kills.py`, with one P and one D."""
    with_connector(connector)
    from tests.e2e import kills

    if connector in RESTARTS:
        request.applymarker(pytest.mark.xfail(reason=RESTARTS[connector], strict=False))
    record_property("clauses", KILLS)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("VLLM_MOONCAKE_ABORT_REQUEST_TIMEOUT", "30")  # 480 s by default
    blocks = [w for leg in LEGS for w in (f"--{leg}-block-size", str(kills.BLOCK))]
    with (
        serving.vllm_alone(tmp_path, MODEL, 0, ORACLE_SHARE) as oracle,
        running.stack(tmp_path, *of_vllm(connector), *blocks) as starting,
    ):
        bed = kills.of_stack(
            starting.ready(),
            oracle,
            tmp_path,
            start_s=serving.START_S,
            request_s=PATIENCE_S,
            kits=False,
        )
        kills.kill_one_after_the_other(bed, "prefill-0", "decode-0")


class Atom(NamedTuple):
    """P, D and an oracle, each on a GPU of its own, and the kit's proxy before P and D."""

    router: str
    prefill: serving.Served
    decode: serving.Served
    oracle: str


@contextmanager
def atom(folder: Path, gpus: int) -> Iterator[Atom]:
    """Of the checkout that the variable names."""
    source = os.environ.get(ATOM_SOURCE)
    if not source:
        pytest.skip(f"not applicable: {ATOM_SOURCE} names no checkout of ATOM")
    # Engines of #253 register at the proxy; those of main are named to it.
    registers = (Path(source) / "atom/kv_transfer/disaggregation/kv_transfer_engine.py").exists()
    discovery, ports = serving.free_port(), [serving.free_port() for _ in range(gpus)]
    with ExitStack() as processes:

        def engine(name: str, gpu: int, **transfer: object) -> serving.Served:
            its = serving.atom(folder, source, MODEL, name, gpu, ports[gpu], transfer)
            return processes.enter_context(its)

        def leg(name: str, role: str, gpu: int) -> serving.Served:
            return engine(
                name,
                gpu,
                kv_role=role,
                kv_connector="moriio",
                http_port=ports[gpu],
                handshake_port=serving.free_port(),
                proxy_ip="127.0.0.1",
                proxy_ping_port=discovery,
            )

        arguments: tuple[str, ...] = ("--discovery", f"tcp://127.0.0.1:{discovery}")
        if registers:
            router = processes.enter_context(serving.proxy(folder, *arguments))
        prefill, decode = leg("prefill", "kv_producer", 0), leg("decode", "kv_consumer", 1)
        if not registers:
            arguments = ("--prefill", f"{prefill.url},protocol=moriio")
            arguments += ("--decode", f"{decode.url},protocol=moriio")
            router = processes.enter_context(serving.proxy(folder, *arguments))
        serving.until(f"{router}/readiness")
        yield Atom(router, prefill, decode, engine("oracle", 2).url)


@pytest.mark.parametrize("gpus", ON_ATOM)
def test_atom_s_prefill_and_decode_are_accurate(gpus: int, tmp_path: Path) -> None:
    """Real ATOM over real mori, behind the kit's proxy; an ATOM that does both is the oracle."""
    seen = tmp_path / "seen.json"
    with atom(tmp_path, gpus) as bed:
        ended = subprocess.run(
            [
                *(*running.KIT, "accuracy", "--endpoint", bed.router, "--oracle", bed.oracle),
                *("--prefill-endpoint", bed.prefill.url, "--decode-endpoint", bed.decode.url),
                *(word for name in CHECKS for word in ("--check", name)),
                *("--no-kv-check", "--json", str(seen)),
            ],
            capture_output=True,
            text=True,
            timeout=1200,
        )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert {"tokens", "at-once"} <= kept(seen)


@pytest.mark.parametrize("gpus", ON_ATOM)
@pytest.mark.xfail(reason=RESTARTS["atom"], strict=False)
def test_atom_s_prefill_and_decode_may_be_killed_under_load_and_start_again(
    gpus: int, tmp_path: Path, record_property
) -> None:
    """As vLLM's; ATOM counts no KV that moves."""
    from tests.e2e import kills

    record_property("clauses", KILLS)
    with atom(tmp_path, gpus) as its:
        servers = {
            role: kills.Server(role, *engine)
            for role, engine in (("prefill", its.prefill), ("decode", its.decode))
        }
        bed = kills.Bed(
            its.router,
            servers,
            its.oracle,
            tmp_path,
            model=MODEL,
            start_s=serving.START_S,
            request_s=PATIENCE_S,
            kits=False,
            counts=False,
        )
        kills.kill_one_after_the_other(bed, *servers)
