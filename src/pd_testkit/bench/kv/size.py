"""Bytes of KV that a model's shape makes of a token: what a transfer has to move.

With K and V of each head::

    layers x 2 x KV heads x head dim x bytes per element

and with multi-head latent attention (MLA; DeepSeek-V2, arXiv:2405.04434), whose one vector per
token and layer stands for all heads::

    layers x (kv_lora_rank + qk_rope_head_dim) x bytes per element
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

ITEM_BYTES = {
    "float64": 8,
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "fp8": 1,
    "fp8_e4m3": 1,
    "fp8_e5m2": 1,
    "int8": 1,
}
"""Of a KV cache's elements, by vLLM's ``--kv-cache-dtype`` and by torch's names."""

_VARIANTS = frozenset(
    (
        *("base", "chat", "hf", "instruct", "it", "meta", "pt", "thinking", "2507"),
        *("awq", "dynamic", "fp8", "gptq", "int4", "int8", "w4a16"),
    )
)
"""Words of a model's name that do not change the shape of its KV."""

_CLASS_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "gemma2": {"head_dim": 256, "sliding_window_pattern": 2},
    "gemma3_text": {
        "num_key_value_heads": 4,
        "head_dim": 256,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
    },
    "gemma3n_text": {"num_kv_shared_layers": 15},
    "gemma4_text": {"global_head_dim": 512},
    "gpt_oss": {"sliding_window_pattern": 2},
    "jamba": {"num_key_value_heads": 8, "attn_layer_period": 8, "attn_layer_offset": 4},
    "nemotron_h": {"num_key_value_heads": 8, "head_dim": 128},
    "qwen3_next": {"num_key_value_heads": 2, "head_dim": 256, "full_attention_interval": 4},
    "qwen3_5_text": {"num_key_value_heads": 4, "head_dim": 256, "full_attention_interval": 4},
    "qwen3_5_moe_text": {"num_key_value_heads": 2, "head_dim": 256, "full_attention_interval": 4},
}
"""What these models' ``config.json`` leave to transformers' configuration classes."""

_FULL, _NEAR, _NONE = "full_attention", "sliding_attention", "linear_attention"
_KINDS: Mapping[str | int, str] = {
    **dict.fromkeys(("full_attention", "attention", "*", 1), _FULL),
    **dict.fromkeys(("indexed_attention", "deepseek_sparse_attention"), _FULL),
    **dict.fromkeys(("linear_attention", "mamba", "conv", "moe", "mlp", "M", "E", "-", 0), _NONE),
    **dict.fromkeys(("sliding_attention", "chunked_attention"), _NEAR),
}
"""Of layers, by the names that transformers has and had, Nemotron-H's letters, and MiniMax's
numbers."""

_UNLIKE = (
    *("attention_hidden_size", "block_configs", "block_types", "compress_rates", "compress_ratios"),
    *("cross_attention_layers", "global_head_dim", "hybrid_layer_pattern", "layer_group_size"),
    *("linear_attn_config", "num_key_value_heads_per_layer", "num_kv_shared_layers"),
    *("per_layer_config", "swa_head_dim", "swa_num_key_value_heads"),
)
"""Where a ``config.json`` has one of these, layers differ in what is not calculated here: of some
the KV is another's or compressed, or has other heads."""


class NoShape(ValueError):
    """The shape of a model's KV is not known, or is none."""


@dataclass(frozen=True)
class KvShape:
    """Of one model's KV cache.

    Attributes:
        layers: with a KV cache.
        kv_heads, head_dim: 0 with MLA.
        latent_dim, rope_dim: MLA's ``kv_lora_rank`` and ``qk_rope_head_dim``; 0 without.
        dtype: of the elements, unless somebody says otherwise.
        window_layers: that many of the layers attend to the last `window` tokens only.
        window: in tokens.
        note: what else there is to know.
    """

    name: str
    layers: int
    kv_heads: int = 0
    head_dim: int = 0
    latent_dim: int = 0
    rope_dim: int = 0
    dtype: str = "bfloat16"
    window_layers: int = 0
    window: int = 0
    note: str = ""

    def __post_init__(self) -> None:
        if self.layers < 1 or (not self.mla and (self.kv_heads < 1 or self.head_dim < 1)):
            raise NoShape(f"{self.name}: no layers, or neither KV heads nor a latent vector")
        if self.dtype not in ITEM_BYTES:
            raise NoShape(f"{self.name}: the dtype {self.dtype!r} is not known")

    @property
    def mla(self) -> bool:
        return self.latent_dim > 0

    def arithmetic(self, dtype: str = "") -> str:
        """The product in words."""
        item = f"{ITEM_BYTES[dtype or self.dtype]} B"
        if self.mla:
            return f"{self.layers} layers x ({self.latent_dim} + {self.rope_dim}) x {item}"
        return f"{self.layers} layers x 2 x {self.kv_heads} heads x {self.head_dim} x {item}"

    def layer_bytes(self, dtype: str = "", tp: int = 1) -> int:
        """Of one token in one layer.

        Args:
            tp: of one of so many tensor-parallel ranks. They share the heads, and each has a whole
                one where there are fewer heads than ranks; MLA's vector is on each of them.

        Raises:
            NoShape: so many ranks cannot share the heads.
        """
        item = ITEM_BYTES[dtype or self.dtype]
        if self.mla:
            return (self.latent_dim + self.rope_dim) * item
        if self.kv_heads % tp and tp % self.kv_heads:
            raise NoShape(f"{self.name}: {tp} ranks cannot share {self.kv_heads} KV heads")
        return 2 * max(1, self.kv_heads // tp) * self.head_dim * item

    def bytes_per_token(self, dtype: str = "", tp: int = 1) -> int:
        """In all layers, those with a window among them: what a token takes while it is in it."""
        return self.layers * self.layer_bytes(dtype, tp)

    def kv_bytes(self, tokens: int, dtype: str = "", tp: int = 1, *, windowed: bool = False) -> int:
        """Of so many tokens.

        Args:
            windowed: what layers with a window do not attend to any more is left out, as an engine
                can that keeps those layers' blocks apart (vLLM's hybrid KV cache manager).
        """
        held = min(tokens, self.window) if windowed and self.window_layers else tokens
        full = self.layers - self.window_layers
        return self.layer_bytes(dtype, tp) * (full * tokens + self.window_layers * held)


@cache
def models() -> tuple[KvShape, ...]:
    """The built-in ones, in ``models.toml``."""
    text = resources.files(__package__).joinpath("models.toml").read_text("utf-8")
    return tuple(KvShape(**table) for table in tomllib.loads(text)["model"])


def find(name: str) -> KvShape:
    """The built-in model of that name: with or without its owner, in upper or lower case, and
    whichever variant of it was trained further or quantised.

    Raises:
        NoShape: there is none.
    """
    wanted = _plain(name)
    for shape in models():
        if _plain(shape.name) == wanted:
            return shape
    near = [shape.name for shape in models() if wanted.partition("-")[0] in shape.name.lower()]
    told = f"; there are {', '.join(near)}" if near else ""
    raise NoShape(f"the shape of {name!r} is not built in{told}; give its config.json")


def _plain(name: str) -> str:
    words = name.rstrip("/").rpartition("/")[2].lower().split("-")
    return "-".join(word for word in words if word not in _VARIANTS)


def read(file: Path) -> KvShape:
    """Of a Hugging Face model, by its ``config.json``.

    Raises:
        NoShape: it is none, or does not say enough.
    """
    try:
        config = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as problem:
        raise NoShape(f"{file}: {problem}") from None
    if type(config) is not dict:
        raise NoShape(f"{file}: no JSON object")
    name = str(config.get("_name_or_path") or "") or file.absolute().parent.name
    try:
        return of_config(name, config)
    except NoShape as problem:
        raise NoShape(f"{file}: {problem}") from None


def of_config(name: str, config: Mapping[str, Any]) -> KvShape:
    """
    Raises:
        NoShape: it does not say enough.
    """
    text = _first(config, "text_config", "language_config", "llm_config") or config
    if not isinstance(text, Mapping):
        raise NoShape(f"{name}: the text's configuration is {text!r}")
    text = {**_CLASS_DEFAULTS.get(str(text.get("model_type")), {}), **text}
    dtype = _first(text, "dtype", "torch_dtype") or _first(config, "dtype", "torch_dtype")
    layers, window_layers, window, note = _layers(name, text)
    common: dict[str, Any] = {
        "name": name,
        "layers": layers,
        "dtype": str(dtype or "bfloat16").removeprefix("torch."),
        "window_layers": window_layers,
        "window": window,
        "note": note,
    }
    if _first(text, "kv_lora_rank"):
        latent = _number(name, text, "kv_lora_rank")
        return KvShape(
            **common, latent_dim=latent, rope_dim=_number(name, text, "qk_rope_head_dim")
        )
    query_heads = ("num_attention_heads", "n_head")
    kv_heads = ("num_key_value_heads", "multi_query_group_num", "num_kv_heads")
    heads = _number(name, text, *(kv_heads if _first(text, *kv_heads) is not None else query_heads))
    if _first(text, "head_dim", "kv_channels") is not None:
        dim = _number(name, text, "head_dim", "kv_channels")
    else:
        dim = _number(name, text, "hidden_size", "n_embd") // _number(name, text, *query_heads)
    return KvShape(**common, kv_heads=heads, head_dim=dim)


def _layers(name: str, text: Mapping[str, Any]) -> tuple[int, int, int, str]:
    """Layers with a KV cache, those of them with a window, its tokens, and a note."""
    kinds = _kinds(name, text)
    kept = [kind for kind in kinds if kind != _NONE]
    without = len(kinds) - len(kept)
    note = f"{without} layers without a KV cache" if without else ""
    if not _first(text, *_WINDOW) or text.get("use_sliding_window") is False:
        return len(kept), 0, 0, note
    near = sum(kind != _FULL for kind in kept)
    return len(kept), near, _number(name, text, *_WINDOW) if near else 0, note


_LAYERS = ("num_hidden_layers", "num_layers", "n_layer")
_LISTS = ("layer_types", "layers_block_type", "hybrid_override_pattern", "attn_type_list")
_INDICES = ("attn_layer_indices", "full_attn_idxs")
_WINDOW = ("sliding_window", "attention_chunk_size")


def _kinds(name: str, text: Mapping[str, Any]) -> list[str]:
    """Of each layer, by the names that `_KINDS` leads to.

    Raises:
        NoShape: it is not said, or not understood.
    """
    for key in _UNLIKE:
        if text.get(key):
            raise _unlike(name, key)
    if _first(text, *_LISTS) is not None:
        return _listed(name, text)
    layers = _number(name, text, *_LAYERS)
    full: Collection[int] | None = None
    if text.get("full_attention_interval") is not None:  # Qwen3-Next: the last of each interval
        every = _number(name, text, "full_attention_interval")
        full = range(every - 1, layers, every)
    elif text.get("attn_layer_period") is not None:  # Jamba
        begin = _number(name, text, "attn_layer_offset", least=0)
        full = range(begin, layers, _number(name, text, "attn_layer_period"))
    elif _first(text, *_INDICES) is not None:  # Bamba, LFM2
        full = _list(name, text, *_INDICES)
    if full is not None:
        return [_FULL if layer in full else _NONE for layer in range(layers)]
    pattern = text.get("sliding_window_pattern")
    every = pattern if type(pattern) is int and pattern > 0 else layers + 1
    return [_NEAR if layer % every else _FULL for layer in range(1, layers + 1)]


def _listed(name: str, text: Mapping[str, Any]) -> list[str]:
    """The same, of a list of all layers; what follows on them predicts more tokens at once."""
    given = _list(name, text, *_LISTS)
    layers = len(given) if _first(text, *_LAYERS) is None else _number(name, text, *_LAYERS)
    if len(given) < layers:
        raise NoShape(f"{name}: it says of {len(given)} layers what they are, and has {layers}")
    if unknown := [kind for kind in given[:layers] if kind not in _KINDS]:
        raise _unlike(name, str(unknown[0]))
    return [_KINDS[kind] for kind in given[:layers]]


def _unlike(name: str, what: str) -> NoShape:
    return NoShape(
        f"{name}: its layers have {what}, which is not understood; "
        "give kv-size --layers, --kv-heads and --head-dim, or bandwidth --kv-bytes-per-token"
    )


def _list(name: str, config: Mapping[str, Any], *names: str) -> list[Any]:
    """The first of these that is there; letters are a list as well.

    Raises:
        NoShape: it is none.
    """
    key = next(each for each in names if config.get(each) is not None)
    value = config[key]
    if not isinstance(value, list | str) or not all(isinstance(each, str | int) for each in value):
        raise NoShape(f"{name}: {key} is {value!r}")
    return list(value)


def _number(name: str, config: Mapping[str, Any], *names: str, least: int = 1) -> int:
    """The first of these that is there.

    Raises:
        NoShape: it is no such number, or there is none.
    """
    key = next((each for each in names if config.get(each) is not None), names[0])
    value = config.get(key)
    if isinstance(value, list):
        raise _unlike(name, f"a {key} each")
    if type(value) is not int or value < least:
        raise NoShape(f"{name}: {key} is {value!r}")
    return value


def _first(config: Mapping[str, Any], *names: str) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), None)
