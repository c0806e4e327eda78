"""The command lines of real vLLM.

The configs are recorded: each was parsed by vLLM 0.33.0's own command line and `KVTransferConfig`,
and each connector but P2pNcclConnector, which that release no longer has, found in its registry.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pd_testkit.stack.plan import Plan
from tests.kit.stack_machine import SERVER, planned, problems

MACHINE = replace(SERVER, folders={"/kv": None})

NIXL = '"kv_connector":"NixlConnector"'
OFFLOADING = '"kv_connector":"OffloadingConnector","kv_role":"kv_both"'

CONFIGS: dict[str, tuple[dict[str, str], str, str]] = {
    "nixl": (
        {},
        f'{{{NIXL},"kv_role":"kv_producer","kv_buffer_device":"cuda"}}',
        f'{{{NIXL},"kv_role":"kv_consumer","kv_buffer_device":"cuda"}}',
    ),
    "nixl, D in NHD, through the host": (
        {"connector": "nixl", "decode_kv_layout": "NHD", "kv_buffer_device": "cpu"},
        f'{{{NIXL},"kv_role":"kv_producer","kv_buffer_device":"cpu"}}',
        f'{{{NIXL},"kv_role":"kv_consumer","kv_buffer_device":"cpu",'
        '"enable_permute_local_kv":true}',
    ),
    "p2p_nccl": (
        {},
        '{"kv_connector":"P2pNcclConnector","kv_role":"kv_producer","kv_port":14580,'
        '"kv_connector_extra_config":{"proxy_ip":"127.0.0.1","proxy_port":30002,'
        '"http_port":8100,"send_type":"PUT_ASYNC"}}',
        '{"kv_connector":"P2pNcclConnector","kv_role":"kv_consumer","kv_port":15580,'
        '"kv_connector_extra_config":{"proxy_ip":"127.0.0.1","proxy_port":30002,'
        '"http_port":8200,"send_type":"PUT_ASYNC"}}',
    ),
    "moriio": (
        {"prefill_tp": "2"},
        '{"kv_connector":"MoRIIOConnector","kv_role":"kv_producer","kv_connector_extra_config":'
        '{"host_ip":"127.0.0.1","proxy_ip":"127.0.0.1","proxy_ping_port":30002,"http_port":8100,'
        '"handshake_port":14580,"notify_port":14582,"read_mode":true}}',
        '{"kv_connector":"MoRIIOConnector","kv_role":"kv_consumer","kv_connector_extra_config":'
        '{"host_ip":"127.0.0.1","proxy_ip":"127.0.0.1","proxy_ping_port":30002,"http_port":8200,'
        '"handshake_port":15580,"notify_port":15581,"read_mode":true}}',
    ),
    "moriio, P writes": (
        {"connector": "moriio", "transfer_mode": "write"},
        '{"kv_connector":"MoRIIOConnector","kv_role":"kv_producer","kv_connector_extra_config":'
        '{"host_ip":"127.0.0.1","proxy_ip":"127.0.0.1","proxy_ping_port":30002,"http_port":8100,'
        '"handshake_port":14580,"notify_port":14581,"read_mode":false}}',
        '{"kv_connector":"MoRIIOConnector","kv_role":"kv_consumer","kv_connector_extra_config":'
        '{"host_ip":"127.0.0.1","proxy_ip":"127.0.0.1","proxy_ping_port":30002,"http_port":8200,'
        '"handshake_port":15580,"notify_port":15581,"read_mode":false}}',
    ),
    "mooncake": (
        {"router": "vllm-router"},
        '{"kv_connector":"MooncakeConnector","kv_role":"kv_producer"}',
        '{"kv_connector":"MooncakeConnector","kv_role":"kv_consumer"}',
    ),
    "lmcache": (
        {"lmcache_url": "lm://127.0.0.1:65432"},
        '{"kv_connector":"LMCacheConnectorV1","kv_role":"kv_producer","kv_connector_extra_config":'
        '{"discard_partial_chunks":false,"lmcache_rpc_port":"prefill-0"}}',
        '{"kv_connector":"LMCacheConnectorV1","kv_role":"kv_consumer","kv_connector_extra_config":'
        '{"discard_partial_chunks":false,"lmcache_rpc_port":"decode-0"}}',
    ),
    "offloading": (
        {"offload_dir": "/kv", "offload_gib": "2"},
        *[
            f'{{{OFFLOADING},"kv_connector_extra_config":{{"cpu_bytes_to_use":2147483648,'
            '"spec_name":"TieringOffloadingSpec",'
            '"secondary_tiers":[{"type":"fs","root_dir":"/kv"}]}}'
        ]
        * 2,
    ),
    "multi": (
        {"offload_gib": "0.5"},
        '{"kv_connector":"MultiConnector","kv_role":"kv_producer","kv_connector_extra_config":'
        f'{{"connectors":[{{{NIXL},"kv_role":"kv_producer","kv_buffer_device":"cuda"}},'
        f'{{{OFFLOADING},"kv_connector_extra_config":{{"cpu_bytes_to_use":536870912}}}}]}}}}',
        '{"kv_connector":"MultiConnector","kv_role":"kv_consumer","kv_connector_extra_config":'
        f'{{"connectors":[{{{NIXL},"kv_role":"kv_consumer","kv_buffer_device":"cuda"}},'
        f'{{{OFFLOADING},"kv_connector_extra_config":{{"cpu_bytes_to_use":536870912}}}}]}}}}',
    ),
}
"""Settings, P's config and D's."""


def vllm(**settings: Any) -> Plan:
    return planned(MACHINE, engine="vllm", **settings)


def value(argv: tuple[str, ...], option: str) -> str:
    return argv[argv.index(option) + 1]


@pytest.mark.parametrize("name", CONFIGS)
def test_each_connector_is_told_what_it_wants(name: str) -> None:
    settings, prefill, decode = CONFIGS[name]
    plan = vllm(**{"connector": name.split(",")[0], **settings})
    told = [value(process.argv, "--kv-transfer-config") for process in plan.processes[:2]]
    assert told == [prefill, decode]


def test_nixl_has_its_side_channel_and_layout_in_the_environment() -> None:
    p, d, _ = vllm(decode_kv_layout="NHD", prefill_dp=2).processes
    assert p.env == {
        "CUDA_VISIBLE_DEVICES": "0,1",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_KV_CACHE_LAYOUT": "HND",
        "VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1",
        "VLLM_NIXL_SIDE_CHANNEL_PORT": "14580",
    }
    assert p.ports == (8100, 14580, 14581)  # one per DP rank
    assert d.env["VLLM_KV_CACHE_LAYOUT"] == "NHD"
    assert d.ports == (8200, 15580)


def test_what_turns_layouts_needs_one_kind_of_cache() -> None:
    assert "--disable-hybrid-kv-cache-manager" in vllm(decode_kv_layout="NHD").processes[1].argv
    assert "--disable-hybrid-kv-cache-manager" not in vllm().processes[1].argv


def test_mooncakes_bootstrap_server_is_ps() -> None:
    p, d, router = vllm(connector="mooncake", router="vllm-router", prefill_tp=2).processes
    assert p.env["VLLM_MOONCAKE_BOOTSTRAP_PORT"] == "14580"
    assert p.ports == (8100, 14580)
    assert "VLLM_MOONCAKE_BOOTSTRAP_PORT" not in d.env
    assert d.ports == (8200,)
    assert value(router.argv, "--kv-connector") == "mooncake"
    at = router.argv.index("--prefill")
    assert router.argv[at : at + 3] == ("--prefill", "http://127.0.0.1:8100", "14580")


def test_lmcaches_engines_meet_in_a_store() -> None:
    url = "lm://127.0.0.1:65432"
    p, d, _ = vllm(connector="lmcache", lmcache_url=url).processes
    assert p.env["LMCACHE_REMOTE_URL"] == d.env["LMCACHE_REMOTE_URL"] == url
    assert p.env["PYTHONHASHSEED"] == d.env["PYTHONHASHSEED"]


def test_moriios_ranks_have_two_ports_each() -> None:
    p, _, router = vllm(connector="moriio", prefill_tp=2, router="vllm-router").processes
    assert p.ports == (8100, 14580, 14581, 14582, 14583)
    assert p.env["HIP_VISIBLE_DEVICES"] == p.env["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert value(router.argv, "--kv-connector") == "moriio"
    assert value(router.argv, "--vllm-discovery-address") == "127.0.0.1:30002"
    assert "--prefill" not in router.argv


def test_p2p_nccls_ranks_have_a_port_each() -> None:
    p, _, router = vllm(connector="p2p_nccl", prefill_tp=2, prefill=2).processes[1:]
    assert p.name == "prefill-1"
    assert p.ports == (8101, 14582, 14583)
    assert value(router.argv, "--discovery") == "tcp://127.0.0.1:30002"


def test_vllm_gets_what_is_set() -> None:
    p, d, _ = vllm(
        model="facebook/opt-125m",
        served_model_name="opt",
        prefill_tp=2,
        decode_dp=2,
        decode_block_size=16,
        gpu_memory_utilization=0.4,
        decode_gpu_memory_utilization=0.8,
        flashinfer="1",
        enforce_eager="0",
        cache_dir="/kv",
        decode_args="--max-model-len 4096",
    ).processes
    assert p.argv[:3] == ("vllm", "serve", "facebook/opt-125m")
    assert value(p.argv, "--served-model-name") == "opt"
    assert value(p.argv, "--tensor-parallel-size") == "2"
    assert value(p.argv, "--block-size") == "128"
    assert value(p.argv, "--gpu-memory-utilization") == "0.4"
    assert value(p.argv, "--attention-backend") == "FLASHINFER"
    assert value(p.argv, "--download-dir") == "/kv"
    assert "--data-parallel-size" not in p.argv
    assert "--enforce-eager" not in p.argv
    assert value(d.argv, "--data-parallel-size") == "2"
    assert value(d.argv, "--block-size") == "16"
    assert value(d.argv, "--gpu-memory-utilization") == "0.8"
    assert d.argv[-2:] == ("--max-model-len", "4096")
    assert "--enforce-eager" in vllm().processes[0].argv


def test_vllm_router_counts_dp_ranks_as_engines() -> None:
    *_, router = vllm(router="vllm-router", prefill_dp=2, decode_dp=2).processes
    assert value(router.argv, "--intra-node-data-parallel-size") == "2"
    (workers,) = [probe for probe in router.ready.probes if probe.url.endswith("/workers")]
    assert workers.values == (
        "http://127.0.0.1:8100@0",
        "http://127.0.0.1:8100@1",
        "http://127.0.0.1:8200@0",
        "http://127.0.0.1:8200@1",
    )
    assert problems(MACHINE, engine="vllm", router="vllm-router", prefill_dp=2) == (
        "--prefill-dp 2 with --decode-dp 1: vllm-router has one number for both",
    )


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"prefill_kv_layout": "NHD"}, "--prefill-kv-layout NHD with --decode-kv-layout HND "
         "(DECODER_KV_LAYOUT): NixlConnector can turn KV from HND to NHD only"),
        ({"kv_buffer_device": "cpu", "decode_block_size": 64}, "--kv-buffer-device cpu "
         "(KV_BUFFER_DEVICE): NixlConnector needs blocks of one size for it, and P has 128 "
         "tokens, D 64"),
        ({"connector": "moriio", "decode_block_size": 64}, "--prefill-block-size 128 with "
         "--decode-block-size 64 (PREFILL_BLOCK_SIZE, DECODE_BLOCK_SIZE): MoRIIOConnector needs "
         "blocks of one size"),
        ({"connector": "p2p_nccl", "decode_kv_layout": "NHD"}, "--decode-kv-layout NHD: "
         "P2pNcclConnector has the attention backend's own choice"),
        ({"transfer_mode": "write"}, "--transfer-mode write: of vLLM's connectors MoRIIOConnector "
         "has it"),
        ({"connector": "lmcache"}, "--lmcache-url (LMCACHE_REMOTE_URL) is not given: "
         "LMCacheConnectorV1's P and D meet there; lmcache_server HOST PORT is one"),
        ({"connector": "offloading"}, "--offload-dir (PD_OFFLOAD_DIR) is not given: "
         "OffloadingConnector's P and D meet in that folder"),
        ({"model": "/models/none"}, "--model /models/none (MODEL_NAMES, MODEL): no such folder"),
        ({"connector": "offloading", "offload_dir": "/none"}, "--offload-dir /none "
         "(PD_OFFLOAD_DIR): no such folder"),
    ],
)  # fmt: skip
def test_what_vllm_cannot_do_is_said(settings: dict[str, Any], line: str) -> None:
    assert problems(MACHINE, engine="vllm", **settings) == (line,)


def test_vllm_must_be_there() -> None:
    assert problems(replace(MACHINE, programs=frozenset()), engine="vllm") == (
        "there is no program vllm on the path: install vLLM, or use --runner docker",
    )
