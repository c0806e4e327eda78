"""The models of a pair: folders with a ``config.json``, without weights and tokenizer.

All engines that serve a model name one folder, as a connector may compare the names; what of a
clause's geometry is the model's own is overridden by the engine.
"""

from __future__ import annotations

import json
from pathlib import Path

from pd_testkit.contract import WorkerSpec

MAX_TOKENS = 1 << 20
"""Longest request."""
ROPE_DIM = 8
"""Elements of a latent vector that carry the position."""

_COMMON = {
    "hidden_size": 1024,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "vocab_size": 512,
    "max_position_embeddings": MAX_TOKENS,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "head_dim": 64}
_DEEPSEEK = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "model_type": "deepseek_v2",
    "kv_lora_rank": 512,
    "qk_rope_head_dim": ROPE_DIM,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "q_lora_rank": None,
    "first_k_dense_replace": 1000,
}


def model_folder(root: Path, spec: WorkerSpec) -> str:
    """The folder of the model that the spec names, in ``root``."""
    folder = root / ("latent" if spec.mla else "heads") / spec.model
    if not folder.exists():
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(
            json.dumps(_COMMON | (_DEEPSEEK if spec.mla else _LLAMA))
        )
    return str(folder)
