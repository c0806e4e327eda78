"""vLLM's configuration of the engine that a worker belongs to, with KV caches as a clause wants
them. In a child only."""

from __future__ import annotations

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
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    MLAAttentionSpec,
)

from pd_testkit.contract import WorkerSpec
from pd_testkit.targets.vllm.connectors import Connector
from pd_testkit.targets.vllm.pair_model import MAX_TOKENS, ROPE_DIM
from pd_testkit.targets.vllm.pair_seat import Seat

LAYOUTS = {"": "LBHNC", "HND": "LBHNC", "NHD": "LBNHC"}
"""vLLM's name for each of the contract's layouts; its connectors ask for the first."""
_DTYPES = {2: torch.float16, 4: torch.float32}


def vllm_config(seat: Seat, connector: Connector) -> VllmConfig:
    """As ``vllm serve --kv-transfer-config`` would make it for this worker's engine.

    Raises:
        ValueError: vLLM refuses the combination.
    """
    spec = seat.spec
    dtype, kind = _dtype(spec), "cuda" if seat.on_gpu else "cpu"
    model = ModelConfig(
        model=seat.model,
        tokenizer=seat.model,
        skip_tokenizer_init=True,
        hf_overrides=_overrides(spec),
        dtype=dtype,
        max_model_len=MAX_TOKENS,
        seed=0,
    )
    caching = CacheConfig(
        block_size=spec.block_size, enable_prefix_caching=False, cache_dtype="auto"
    )
    caching.num_gpu_blocks = spec.num_blocks
    caching.kv_cache_layout = LAYOUTS[spec.layout]
    scheduler = SchedulerConfig(
        max_num_seqs=64,
        max_num_batched_tokens=MAX_TOKENS,
        max_model_len=MAX_TOKENS,
        enable_chunked_prefill=True,
        is_encoder_decoder=False,
    )
    transfer = KVTransferConfig(
        kv_connector=connector.kv_connector,
        kv_role=connector.roles[seat.role],
        engine_id=seat.engine_id,
        kv_buffer_device=kind,
        kv_connector_extra_config={**connector.extra, **seat.extra},
    )
    made = VllmConfig(
        model_config=model,
        cache_config=caching,
        scheduler_config=scheduler,
        parallel_config=ParallelConfig(tensor_parallel_size=spec.tp_size, rank=seat.tp_rank),
        kv_transfer_config=transfer,
        device_config=DeviceConfig(kind),
    )
    if made.cache_config.block_size != spec.block_size:
        raise ValueError(f"block size {spec.block_size}: vLLM takes {caching.block_size} here")
    return made


def rank_heads(spec: WorkerSpec) -> int:
    """KV heads of one TP rank."""
    return 1 if spec.mla else max(1, spec.kv_heads // spec.tp_size)


def layer_names(spec: WorkerSpec) -> list[str]:
    return [f"model.layers.{layer}.self_attn.attn" for layer in range(spec.layers)]


def kv_cache_config(spec: WorkerSpec) -> KVCacheConfig:
    """One group of all layers, with this many blocks."""
    attention: Any
    if spec.mla:
        attention = MLAAttentionSpec(
            block_size=spec.block_size,
            num_kv_heads=1,
            head_size=spec.head_dim,
            dtype=_dtype(spec),
        )
    else:
        attention = FullAttentionSpec(
            block_size=spec.block_size,
            num_kv_heads=rank_heads(spec),
            head_size=spec.head_dim,
            dtype=_dtype(spec),
        )
    return KVCacheConfig(
        num_blocks=spec.num_blocks,
        kv_cache_tensors=[],
        kv_cache_groups=[KVCacheGroupSpec(layer_names(spec), attention)],
        kv_cache_layout=LAYOUTS[spec.layout],
    )


def layer_cache(spec: WorkerSpec, raw: torch.Tensor) -> torch.Tensor:
    """vLLM's view of one layer's bytes: (block, head, token, content), K before V in the content.

    In memory the heads of a block come before its tokens (LBHNC), or after (LBNHC).
    """
    content = spec.head_dim * (1 if spec.mla else 2)
    typed = raw.view(_dtype(spec))
    heads, tokens = rank_heads(spec), spec.block_size
    if LAYOUTS[spec.layout] == "LBNHC":
        return typed.view(spec.num_blocks, tokens, heads, content).permute(0, 2, 1, 3)
    return typed.view(spec.num_blocks, heads, tokens, content)


def _overrides(spec: WorkerSpec) -> dict[str, Any]:
    """What of the model's ``config.json`` is otherwise here."""
    layers = {"num_hidden_layers": spec.layers}
    if spec.mla:
        return layers | {"kv_lora_rank": spec.head_dim - ROPE_DIM}
    return layers | {"num_key_value_heads": spec.kv_heads, "head_dim": spec.head_dim}


def _dtype(spec: WorkerSpec) -> torch.dtype:
    if spec.itemsize not in _DTYPES:
        raise ValueError(f"{spec.itemsize} bytes per element: vLLM's KV has 2 or 4 on a CPU")
    return _DTYPES[spec.itemsize]
