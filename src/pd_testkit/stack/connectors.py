"""vLLM's connectors: what each wants to be told, in ``--kv-transfer-config`` and the environment.

Read in vLLM 0.33.0, ``vllm/config/kv_transfer.py`` and ``vllm/distributed/kv_transfer``. Of
P2pNcclConnector, which vLLM removed in June 2026 (vllm-project/vllm#44854), as it was in 0.11.
"""

from __future__ import annotations

from typing import Any

from pd_testkit.stack.seats import RouterSeat, Seat
from pd_testkit.stack.settings import CONNECTORS, Leg, Settings


def transfer_config(settings: Settings, leg: Leg, seat: Seat, router: RouterSeat) -> dict[str, Any]:
    """``--kv-transfer-config`` of one engine."""
    config = {
        "kv_connector": CONNECTORS[settings.connector],
        "kv_role": "kv_producer" if leg.role == "prefill" else "kv_consumer",
    }
    if settings.connector == "nixl":
        return config | _nixl(settings, leg)
    if settings.connector == "p2p_nccl":
        return config | {
            "kv_port": seat.side_port,
            "kv_connector_extra_config": {
                "proxy_ip": router.discovery_host,
                "proxy_port": router.discovery_port,
                "http_port": seat.port,
                "send_type": "PUT_ASYNC",
            },
        }
    if settings.connector == "moriio":
        extra = {
            "host_ip": seat.host,
            "proxy_ip": router.discovery_host,
            "proxy_ping_port": router.discovery_port,
            "http_port": seat.port,
            "handshake_port": seat.side_port,
            "notify_port": seat.side_port + seat.side_ports // 2,
            "read_mode": settings.transfer_mode == "read",
        }
        return config | {"kv_connector_extra_config": extra}
    if settings.connector == "lmcache":
        extra = {"discard_partial_chunks": False, "lmcache_rpc_port": seat.name}
        return config | {"kv_connector_extra_config": extra}
    if settings.connector == "offloading":
        # Each engine puts its blocks into the folder, and takes the other's from there.
        meeting = {
            "spec_name": "TieringOffloadingSpec",
            "secondary_tiers": [{"type": "fs", "root_dir": settings.offload_dir}],
        }
        return _offloading(settings, meeting)
    if settings.connector == "multi":
        nixl = config | {"kv_connector": CONNECTORS["nixl"]} | _nixl(settings, leg)
        connectors = [nixl, _offloading(settings, {})]
        return config | {"kv_connector_extra_config": {"connectors": connectors}}
    return config


def environment(settings: Settings, leg: Leg, seat: Seat) -> dict[str, str]:
    """What the engine's connector reads there."""
    if settings.connector in ("nixl", "multi"):
        return {
            "VLLM_KV_CACHE_LAYOUT": leg.kv_layout,
            "VLLM_NIXL_SIDE_CHANNEL_HOST": seat.host,
            "VLLM_NIXL_SIDE_CHANNEL_PORT": str(seat.side_port),
        }
    if settings.connector == "mooncake" and leg.role == "prefill":
        return {"VLLM_MOONCAKE_BOOTSTRAP_PORT": str(seat.side_port)}
    if settings.connector == "lmcache":
        return {
            "LMCACHE_LOCAL_CPU": "False",
            "LMCACHE_REMOTE_SERDE": "naive",
            "LMCACHE_REMOTE_URL": settings.lmcache_url,
            "PYTHONHASHSEED": "0",  # both must hash tokens alike
        }
    return {}


def problems(settings: Settings) -> list[str]:
    """What a connector cannot do."""
    p, d = settings.leg("prefill"), settings.leg("decode")
    name = CONNECTORS[settings.connector]
    found = []
    if settings.connector in ("nixl", "multi"):
        if (p.kv_layout, d.kv_layout) == ("NHD", "HND"):
            found.append(
                f"--prefill-kv-layout NHD with --decode-kv-layout HND (DECODER_KV_LAYOUT): {name} "
                "can turn KV from HND to NHD only"
            )
        if settings.kv_buffer_device == "cpu" and p.block_size != d.block_size:
            found.append(
                f"--kv-buffer-device cpu (KV_BUFFER_DEVICE): {name} needs blocks of one size for "
                f"it, and P has {p.block_size} tokens, D {d.block_size}"
            )
    elif settings.connector != "lmcache" and p.block_size != d.block_size:
        found.append(
            f"--prefill-block-size {p.block_size} with --decode-block-size {d.block_size} "
            f"(PREFILL_BLOCK_SIZE, DECODE_BLOCK_SIZE): {name} needs blocks of one size"
        )
    if settings.connector not in ("nixl", "multi"):
        found += [
            f"--{leg.role}-kv-layout NHD: {name} has the attention backend's own choice"
            for leg in (p, d)
            if leg.kv_layout != "HND"
        ]
    if settings.transfer_mode == "write" and settings.connector != "moriio":
        found.append(f"--transfer-mode write: of vLLM's connectors {CONNECTORS['moriio']} has it")
    if settings.connector == "lmcache" and not settings.lmcache_url:
        found.append(
            f"--lmcache-url (LMCACHE_REMOTE_URL) is not given: {name}'s P and D meet there; "
            "lmcache_server HOST PORT is one"
        )
    if settings.connector == "offloading" and not settings.offload_dir:
        found.append(
            f"--offload-dir (PD_OFFLOAD_DIR) is not given: {name}'s P and D meet in that folder"
        )
    return found


def _nixl(settings: Settings, leg: Leg) -> dict[str, Any]:
    config: dict[str, Any] = {"kv_buffer_device": settings.kv_buffer_device}
    if leg.role == "decode" and _turns(settings):
        config["enable_permute_local_kv"] = True
    return config


def _turns(settings: Settings) -> bool:
    """D turns P's blocks into its own layout."""
    return (settings.prefill_kv_layout, settings.decode_kv_layout) == ("HND", "NHD")


def serve_arguments(settings: Settings) -> tuple[str, ...]:
    """What the connector wants of ``vllm serve`` besides its config."""
    # Turning blocks asserts that there are no groups of layers with caches of their own.
    turning = settings.connector in ("nixl", "multi") and _turns(settings)
    return ("--disable-hybrid-kv-cache-manager",) if turning else ()


def _offloading(settings: Settings, more: dict[str, Any]) -> dict[str, Any]:
    return {
        "kv_connector": CONNECTORS["offloading"],
        "kv_role": "kv_both",
        "kv_connector_extra_config": {
            "cpu_bytes_to_use": int(settings.offload_gib * 2**30),
            **more,
        },
    }
