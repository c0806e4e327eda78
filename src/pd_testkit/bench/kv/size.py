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
from collections.abc import Mapping
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
    "gpt_oss": {"sliding_window_pattern": 2},
}
"""What these models' ``config.json`` leave to transformers' configuration classes."""


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
    text = next(
        (config[key] for key in ("text_config", "language_config", "llm_config") if key in config),
        config,
    )
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
    if latent := _first(text, "kv_lora_rank"):
        rope = _number(name, text, "qk_rope_head_dim")
        return KvShape(**common, latent_dim=int(latent), rope_dim=rope)
    heads = _first(text, "num_key_value_heads", "multi_query_group_num", "num_kv_heads")
    dim = _first(text, "head_dim", "kv_channels")
    if heads is None or dim is None:
        query_heads = _number(name, text, "num_attention_heads", "n_head")
        heads = heads or query_heads
        dim = dim or _number(name, text, "hidden_size", "n_embd") // query_heads
    return KvShape(**common, kv_heads=int(heads), head_dim=int(dim))


def _layers(name: str, text: Mapping[str, Any]) -> tuple[int, int, int, str]:
    """Layers with a KV cache, those of them with a window, its tokens, and a note."""
    layers = _number(name, text, "num_hidden_layers", "num_layers", "n_layer")
    kinds = text.get("layer_types")
    pattern = text.get("sliding_window_pattern")
    window = _first(text, "sliding_window", "attention_chunk_size") or 0
    if kinds:
        kept = [kind for kind in kinds if kind not in ("linear_attention", "mamba", "conv")]
        note = "" if len(kept) == layers else f"{layers - len(kept)} layers without a KV cache"
        near = sum(kind in ("sliding_attention", "chunked_attention") for kind in kept)
        return len(kept), near, int(window) if near else 0, note
    if not window or text.get("use_sliding_window") is False:
        return layers, 0, 0, ""
    if isinstance(pattern, int) and pattern > 0:
        return layers, layers - layers // pattern, int(window), ""
    return layers, layers, int(window), ""


def _first(config: Mapping[str, Any], *names: str) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), None)


def _number(name: str, config: Mapping[str, Any], *names: str) -> int:
    value = _first(config, *names)
    if type(value) is not int or value < 1:
        raise NoShape(f"{name}: {names[0]} is {value!r}")
    return value
