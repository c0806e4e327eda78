"""A plan says what runs, in which order, and when it is ready; or all that is wrong, beforehand."""

from __future__ import annotations

import json
import os
import shlex
import socket
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from pd_testkit.cli import main
from pd_testkit.engine.command import engine
from pd_testkit.engine.shape import SHAPES
from pd_testkit.proxy.command import proxy
from pd_testkit.stack import cpu_engines
from pd_testkit.stack.dry_run import describe
from pd_testkit.stack.machine import AnyMachine, ThisMachine
from pd_testkit.stack.plan import Plan, Probe, Process
from pd_testkit.stack.planner import make_plan
from pd_testkit.stack.sources import read
from tests.kit.stack_machine import SERVER, Laptop, planned, problems

TEXTS = Path(__file__).with_name("stack_dry_runs")

DRY_RUNS: dict[str, dict[str, str]] = {
    "cpu-2p-2d": {"NUM_PREFILL_INSTANCES": "2", "NUM_DECODE_INSTANCES": "2"},
    "cpu-vllm-router-discovery": {"PD_ROUTER": "vllm-router", "PD_CONNECTOR": "p2p_nccl"},
    "cpu-sglang-router": {"PD_ROUTER": "sglang-router", "NUM_PREFILL_INSTANCES": "2"},
    "docker-tp2": {
        "PD_ENGINE": "vllm",
        "PD_RUNNER": "docker",
        "PD_ROUTER": "vllm-router",
        "VLLM_DOCKER_IMAGE": "vllm/vllm-openai:v0.33.0",
        "PREFILLER_TP_SIZE": "2",
        "DECODER_TP_SIZE": "2",
        "CACHE_DIR": "/var/cache/vllm",
        "TEST_FLASHINFER": "1",
    },
    "testbed": {
        "PD_ENGINE": "vllm",
        "PD_CONNECTOR": "P2pNcclConnector",
        "SRV_IP": "172.16.0.7",
        "MODEL": "Qwen/Qwen2.5-7B-Instruct",
        "PROXY_HTTP_PORT": "10001",
        "PROXY_ZMQ_PORT": "30002",
        "CONS_HTTP_PORT": "8200",
        "CONS_ZMQ_PORT": "14579",
        "PROD_HTTP_PORT": "8100",
        "PROD_ZMQ_PORT": "14580",
        "CONS_GPU": "2",
        "PROD_GPU": "1",
        "CONS_UTIL": "0.8",
        "PROD_UTIL": "0.8",
    },
}
"""What the variables make of an unset deployment; the texts lie in `TEXTS`."""


def one(plan: Plan, name: str) -> Process:
    return next(process for process in plan.processes if process.name == name)


@pytest.mark.parametrize("name", DRY_RUNS)
def test_a_dry_run_prints_what_would_run(name: str) -> None:
    plan = make_plan(read({}, DRY_RUNS[name]), AnyMachine("python"))
    assert describe(plan) + "\n" == (TEXTS / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", DRY_RUNS)
def test_a_shell_takes_the_text_for_what_would_run(name: str) -> None:
    plan = make_plan(read({}, DRY_RUNS[name]), AnyMachine("python"))
    text = describe(plan).replace("\\\n", "")
    commands = [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]
    expected = [list(step.argv) for step in plan.steps]
    for process in plan.processes:
        environment = [f"{name}={value}" for name, value in process.env.items()]
        environment += [f"{name}=${name}" for name in process.secrets]
        expected.append([*environment, *process.argv, ">", process.log, "2>&1", "&"])
    for process in reversed(plan.processes):
        expected += map(list, process.clean_up)
    expected += [list(step.undo) for step in reversed(plan.steps) if step.undo]
    assert commands == expected


def test_the_command_prints_it_with_its_own_interpreter_and_without_secrets() -> None:
    environ = {**DRY_RUNS["docker-tp2"], "OPENAI_API_KEY": "sk-of-mine"}
    ran = CliRunner().invoke(main, ["up", "--dry-run"], env=environ)
    assert ran.output == describe(make_plan(read({}, environ), AnyMachine())) + "\n"
    assert "sk-of-mine" not in ran.output
    assert 'OPENAI_API_KEY="$OPENAI_API_KEY"' in ran.output


def test_the_key_gets_to_the_router_that_sends_it_and_to_clients() -> None:
    plan = planned(SERVER, router="vllm-router", api_key="sk-of-mine")
    assert plan.client_secrets == {"OPENAI_API_KEY": "sk-of-mine"}
    assert one(plan, "router").secrets == {"OPENAI_API_KEY": "sk-of-mine"}
    assert "sk-of-mine" not in repr(plan)


def test_the_router_starts_when_all_engines_are_ready() -> None:
    plan = planned(prefill=2, decode=3)
    engines = ["prefill-0", "prefill-1", "decode-0", "decode-1", "decode-2"]
    assert [process.name for process in plan.processes] == [*engines, "router"]
    assert [process.depends for process in plan.processes] == [()] * 5 + [tuple(engines)]


@pytest.mark.parametrize("router", ["pd-testkit", "vllm-router", "sglang-router"])
def test_the_router_is_ready_when_it_lists_each_engine(router: str) -> None:
    plan = planned(SERVER, router=router, prefill=2, decode=2)
    listed = {
        "pd-testkit": {"instances": [{"url": one(plan, "prefill-0").url}]},
        "vllm-router": {"workers": [{"url": one(plan, "prefill-0").url}]},
        "sglang-router": {"workers": [{"url": one(plan, "prefill-0").url}]},
    }[router]
    (kind,) = listed
    knows = [probe for probe in one(plan, "router").ready.probes if probe.field.startswith(kind)]
    urls = [process.url for process in plan.processes[:-1]]
    assert len(knows) == 1
    assert knows[0].missing(200, json.dumps(listed).encode()) == (
        f"{knows[0].url} does not list {', '.join(urls[1:])}"
    )
    listed[kind] = [{"url": url} for url in urls]
    assert knows[0].missing(200, json.dumps(listed).encode()) is None


def test_an_engine_is_ready_when_it_is_well_and_has_the_model() -> None:
    well, has = one(planned(served_model_name="m"), "decode-0").ready.probes
    assert well.url == "http://127.0.0.1:8200/health"
    assert well.missing(503, b"") == "http://127.0.0.1:8200/health answers 503"
    assert has.missing(200, b'{"data": [{"id": "n"}, {"id": "m"}]}') is None
    assert has.missing(200, b'{"data": [{"id": "n"}]}') == f"{has.url} does not list m"
    assert has.missing(404, b'{"data": [{"id": "m"}]}') == f"{has.url} answers 404"


@pytest.mark.parametrize("body", [b"", b"[]", b'{"data": 3}', b'{"data": [1]}', b'{"x": []}'])
def test_an_answer_of_another_shape_is_not_ready(body: bytes) -> None:
    assert Probe("http://h:1/v1/models", "data[].id", ("m",)).missing(200, body) == (
        "http://h:1/v1/models has no data[].id"
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"connector": "moriio"},
        {"connector": "p2p_nccl"},
        {"prefill_dp": 2},
        {"connector": "offloading", "engine": "vllm", "offload_dir": "/kv"},
        {"router_args": "--seed 3"},
    ],
)
def test_our_proxy_takes_the_command_line(settings: dict[str, Any]) -> None:
    plan = make_plan(read(settings, {}), AnyMachine("python"))
    argv = one(plan, "router").argv
    assert argv[:4] == ("python", "-m", "pd_testkit", "proxy")
    context = proxy.make_context("proxy", list(argv[4:]))
    engines = (*context.params["prefillers"], *context.params["decoders"])
    registers = settings.get("connector") in ("moriio", "p2p_nccl")
    urls = [] if registers else ["http://127.0.0.1:8100", "http://127.0.0.1:8200"]
    assert [engine.url for engine in engines] == urls
    assert [engine.dp_size for engine in engines] == [settings.get("prefill_dp", 1), 1][: len(urls)]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"connector": "moriio", "transfer_mode": "write"},
        {"transport": "zmq", "kv_digest": "1", "served_model_name": "m", "dtype": "float32"},
        {"prefill_args": "--fault refuse --hold 5"},
    ],
)
def test_our_engine_takes_the_command_line(settings: dict[str, Any]) -> None:
    plan = make_plan(read(settings, {}), AnyMachine("python"))
    p, d = one(plan, "prefill-0").argv, one(plan, "decode-0").argv
    assert p[:4] == d[:4] == ("python", "-m", "pd_testkit", "engine")
    roles = [engine.make_context("engine", list(argv[4:])).params["role"] for argv in (p, d)]
    assert roles == ["prefill", "decode"]


def test_engines_get_what_is_set_for_their_leg() -> None:
    plan = planned(
        prefill_tp=2,
        decode_tp=4,
        prefill_block_size=8,
        decode_block_size=32,
        decode_kv_layout="NHD",
        prefill_args="--fault 'hang=1 s'",
        kv_digest="1",
    )
    p, d = one(plan, "prefill-0").argv, one(plan, "decode-0").argv
    assert [argv[argv.index("--tp") + 1] for argv in (p, d)] == ["2", "4"]
    assert [argv[argv.index("--block-size") + 1] for argv in (p, d)] == ["8", "32"]
    assert [argv[argv.index("--layout") + 1] for argv in (p, d)] == ["HND", "NHD"]
    assert p[-2:] == ("--fault", "hang=1 s")
    assert "--fault" not in d
    assert "--kv-digest" in p
    assert "--kv-digest" in d


def test_each_engine_has_ports_of_its_own() -> None:
    plan = planned(prefill=2, decode=2, prefill_tp=2, prefill_dp=2)
    assert one(plan, "prefill-0").ports == (8100, 14580, 14581, 14582, 14583)
    assert one(plan, "prefill-1").ports == (8101, 14584, 14585, 14586, 14587)
    assert one(plan, "decode-1").ports == (8201, 15581)


@given(
    engines=st.tuples(*[st.integers(1, 4)] * 6),
    bases=st.lists(st.integers(20000, 20040), min_size=5, max_size=5),
)
def test_no_two_processes_of_a_plan_have_a_port_in_common(
    engines: tuple[int, ...], bases: list[int]
) -> None:
    sizes = ("prefill", "decode", "prefill_tp", "decode_tp", "prefill_dp", "decode_dp")
    ports = ("prefill_port", "decode_port", "prefill_side_port", "decode_side_port", "router_port")
    settings = {**dict(zip(sizes, engines, strict=True)), **dict(zip(ports, bases, strict=True))}
    if said := problems(**settings):
        shared = [line for line in said if "would both have it" in line]
        heads = [line for line in said if "ranks cannot share" in line]
        assert len(shared) + len(heads) == len(said)
        assert (3 in engines[2:4]) == bool(heads)
        return
    plan = planned(**settings)
    bound = [port for process in plan.processes for port in process.ports]
    assert len(set(bound)) == len(bound)
    p, d, p_tp, d_tp, p_dp, d_dp = engines
    assert len(bound) == p * (1 + p_tp * p_dp) + d * (1 + d_tp * d_dp) + 1


def test_a_port_that_is_0_is_one_that_is_free() -> None:
    plan = planned(
        Laptop(next_port=30000),
        prefill=2,
        prefill_tp=2,
        prefill_port=0,
        prefill_side_port=0,
        router_port=0,
    )
    assert plan.url == "http://127.0.0.1:30000"
    assert one(plan, "prefill-0").ports == (30001, 30002, 30003)
    assert one(plan, "prefill-1").ports == (30004, 30005, 30006)


def test_a_taken_port_is_said() -> None:
    assert problems(Laptop(taken=frozenset({8101, 10001})), prefill=2) == (
        "port 8101 of prefill-1 is taken by another process; move --prefill-port "
        "(PREFILL_BASE_PORT)",
        "port 10001 of router is taken by another process; move --router-port (ROUTER_PORT)",
    )


def test_overlapping_ports_are_said() -> None:
    assert problems(prefill=2, decode_port=8101) == (
        "port 8101: prefill-1 and decode-0 would both have it; move --decode-port "
        "(DECODE_BASE_PORT)",
    )
    assert problems(prefill_tp=2, prefill_side_port=15579) == (
        "port 15580: prefill-0 and decode-0 would both have it; move --decode-side-port "
        "(CONS_ZMQ_PORT)",
    )


def test_ports_end() -> None:
    assert problems(decode=2, decode_port=65535) == ("port 65536 of decode-1: ports end at 65535",)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"prefill_tp": 3}, "--prefill-tp 3 (PREFILLER_TP_SIZE): tiny has 8 attention heads, which "
         "3 ranks cannot share"),
        ({"model": "gpt-2"}, "--model gpt-2 (MODEL_NAMES, MODEL): the cpu engine has tiny, "
         "tiny-gqa, tiny-mla, small, medium, or takes a model's folder; --engine vllm serves "
         "others"),
        ({"transport": "nixl"}, "--transport nixl: nixl is not installed; "
         "pip install 'pd-testkit[nixl]'"),
        ({"router": "vllm-router"}, "there is no program vllm-router on the path: "
         "pip install vllm-router"),
        ({"host": "10.9.8.7"}, "--host 10.9.8.7 (SRV_IP): this machine has no such address"),
        ({"runner": "docker"}, "--runner docker: of vllm engines only; cpu engines need no image"),
    ],
)  # fmt: skip
def test_what_the_machine_or_the_engine_lacks_is_said(settings: dict[str, Any], line: str) -> None:
    assert problems(Laptop(), **settings) == (line,)


def test_a_connector_that_the_engine_or_the_router_does_not_know_is_said() -> None:
    assert problems(connector="lmcache") == (
        "--router pd-testkit with --connector lmcache: of cpu engines it can do nixl, p2p_nccl, "
        "moriio",
        "--connector lmcache: the cpu engine speaks nixl, p2p_nccl, moriio",
    )
    assert problems(SERVER, engine="vllm", connector="mooncake") == (
        "--router pd-testkit with --connector mooncake: of vllm engines it can do nixl, p2p_nccl, "
        "moriio, lmcache, offloading, multi",
    )
    assert problems(SERVER, engine="vllm", router="sglang-router") == (
        "--router sglang-router with --connector nixl: of vllm engines it needs --engine cpu",
    )


def test_all_that_is_wrong_is_said_at_once() -> None:
    said = problems(
        Laptop(taken=frozenset({8100})), prefill_tp=3, transport="mooncake", router="vllm-router"
    )
    assert [line.split(":")[0] for line in said] == [
        "there is no program vllm-router on the path",
        "--prefill-tp 3 (PREFILLER_TP_SIZE)",
        "--transport mooncake",
        "port 8100 of prefill-0 is taken by another process; move --prefill-port "
        "(PREFILL_BASE_PORT)",
    ]


def test_a_models_folder_tells_its_heads() -> None:
    laptop = Laptop(folders={"/models/m": {"num_attention_heads": 6}, "/models/n": None})
    assert problems(laptop, model="/models/m", decode_tp=4) == (
        "--decode-tp 4 (DECODER_TP_SIZE): /models/m has 6 attention heads, which 4 ranks cannot "
        "share",
    )
    assert problems(laptop, model="/models/m", decode_tp=3) == ()
    assert problems(laptop, model="/models/n", decode_tp=4) == ()


def test_the_plan_knows_the_models_that_the_engine_has() -> None:
    assert {name: shape.heads for name, shape in SHAPES.items()} == cpu_engines.HEADS


def test_this_machine_tells_busy_ports_from_free_ones() -> None:
    machine = ThisMachine()
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert machine.busy("127.0.0.1", server.getsockname()[1])
    first = machine.free_ports("127.0.0.1", 3)
    second = machine.free_ports("127.0.0.1", 3)
    ports = [*range(first, first + 3), *range(second, second + 3)]
    assert len(set(ports)) == 6
    assert not any(machine.busy("127.0.0.1", port) for port in ports)


def test_this_machine_tells_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = ThisMachine()
    assert machine.has_address("127.0.0.1")
    assert not machine.has_address("192.0.2.1")  # of a range for documents
    assert machine.has_module("click")
    assert not machine.has_module("no_such_module")
    (tmp_path / "config.json").write_text('{"num_attention_heads": 6}')
    assert machine.has_folder(str(tmp_path))
    assert machine.model_config(str(tmp_path)) == {"num_attention_heads": 6}
    (tmp_path / "config.json").write_text("torn {")
    assert machine.model_config(str(tmp_path)) is None
    assert machine.model_config(str(tmp_path / "none")) is None
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA L4'\necho 'GPU 1: NVIDIA L4'\n")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert not machine.has_program("nvidia-smi")
    assert machine.gpus() == ()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    program.chmod(0o755)
    assert machine.has_program("nvidia-smi")
    assert machine.gpus() == ("0", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert machine.gpus() == ("1",)
