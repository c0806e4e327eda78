"""vLLM's own configuration objects, for a model that is two layers small. In a child only."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from vllm.config import (
    CacheConfig,
    DeviceConfig,
    KVTransferConfig,
    ModelConfig,
    ParallelConfig,
    SchedulerConfig,
    VllmConfig,
)
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

from pd_testkit.contract import EngineSpec
from pd_testkit.targets.vllm.connectors import Connector

LAYERS = 2
KV_HEADS = 4
HEAD_DIM = 8
MAX_TOKENS = 2048
"""Longest request."""
_NOTIFY_OFFSET = 100
"""From MoRIIO's handshake port to its port for notifications."""


@cache
def model_folder() -> str:
    """A folder with the ``config.json`` of a tiny Llama; there are no weights and no tokenizer."""
    folder = Path(tempfile.mkdtemp(prefix="pd-vllm-"))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 8,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "vocab_size": 512,
        "max_position_embeddings": MAX_TOKENS,
        "torch_dtype": "float16",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def vllm_config(spec: EngineSpec, connector: Connector, engine_id: str) -> VllmConfig:
    """As ``vllm serve --kv-transfer-config`` would make it for this engine.

    Raises:
        ValueError: vLLM refuses the combination.
    """
    # Without chunks, a step must have room for the longest request.
    longest = MAX_TOKENS if spec.chunked_prefill else min(MAX_TOKENS, spec.max_batch_tokens)
    model = ModelConfig(
        model=model_folder(),
        tokenizer=model_folder(),
        skip_tokenizer_init=True,
        dtype="float16",
        max_model_len=longest,
        seed=0,
    )
    cache = CacheConfig(
        block_size=spec.block_size, enable_prefix_caching=spec.prefix_caching, cache_dtype="auto"
    )
    cache.num_gpu_blocks = spec.num_blocks
    cache.kv_cache_layout = "LBHNC"
    scheduler = SchedulerConfig(
        # No more than there can be tokens for, which vLLM refuses.
        max_num_seqs=min(spec.max_running, spec.max_batch_tokens),
        max_num_batched_tokens=spec.max_batch_tokens,
        max_model_len=longest,
        enable_chunked_prefill=spec.chunked_prefill,
        is_encoder_decoder=False,
    )
    transfer = KVTransferConfig(
        kv_connector=connector.kv_connector,
        kv_role=connector.roles[spec.role],
        engine_id=engine_id,
        kv_buffer_device="cpu",
        kv_connector_extra_config=_extra_config(spec, connector),
        kv_load_failure_policy=spec.load_failure_policy or "fail",
    )
    return VllmConfig(
        model_config=model,
        cache_config=cache,
        scheduler_config=scheduler,
        parallel_config=ParallelConfig(
            tensor_parallel_size=spec.tp_size,
            data_parallel_size=spec.dp_size,
            data_parallel_size_local=spec.dp_size,
            data_parallel_rank=spec.dp_rank,
        ),
        kv_transfer_config=transfer,
        device_config=DeviceConfig("cpu"),
    )


def _extra_config(spec: EngineSpec, connector: Connector) -> dict[str, Any]:
    """Each connector takes what it knows: the addresses, a store's folder, connectors within."""
    extra = {
        "host_ip": "127.0.0.1",
        "handshake_port": spec.handshake_port,
        "notify_port": spec.handshake_port + _NOTIFY_OFFSET,
        "shared_storage_path": store_folder(),
        **connector.extra,
    }
    within = {"kv_role": connector.roles[spec.role], "kv_connector_extra_config": dict(extra)}
    if connector.within:
        extra["connectors"] = [{**within, **each} for each in connector.within]
    return extra


@cache
def store_folder() -> str:
    """Where the connectors that store KV in files keep them."""
    return tempfile.mkdtemp(prefix="pd-vllm-store-")


def kv_cache_config(spec: EngineSpec) -> KVCacheConfig:
    """One group of all layers, with this many blocks."""
    layers = [f"model.layers.{layer}.self_attn.attn" for layer in range(LAYERS)]
    attention: Any = FullAttentionSpec(
        block_size=spec.block_size, num_kv_heads=KV_HEADS, head_size=HEAD_DIM, dtype=torch.float16
    )
    return KVCacheConfig(
        num_blocks=spec.num_blocks,
        kv_cache_tensors=[],
        kv_cache_groups=[KVCacheGroupSpec(layers, attention)],
    )
