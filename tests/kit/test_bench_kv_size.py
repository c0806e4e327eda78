"""Bytes of KV per token, against numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pd_testkit.bench.kv import size as kv_size
from pd_testkit.bench.kv.size import KvShape, NoShape
from pd_testkit.bench.kv.size_command import kv_size as command
from pd_testkit.engine.shape import SHAPES


def ran(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


@pytest.mark.parametrize(
    ("name", "per_token"),
    [
        ("meta-llama/Llama-3.1-8B", 131072),  # 32 x 2 x 8 x 128 x 2
        ("Meta-Llama-3.1-8B-Instruct", 131072),
        ("Llama-2-7b-chat-hf", 524288),  # 32 x 2 x 32 x 128 x 2
        ("Llama-3.1-405B-Instruct-FP8", 516096),  # 126 x 2 x 8 x 128 x 2
        ("Llama-3.2-1B", 32768),  # 16 x 2 x 8 x 64 x 2
        ("Qwen/Qwen2.5-7B-Instruct", 57344),  # 28 x 2 x 4 x 128 x 2
        ("qwen3-30b-a3b-instruct-2507", 98304),  # 48 x 2 x 4 x 128 x 2
        ("DeepSeek-V2-Lite-Chat", 31104),  # 27 x (512 + 64) x 2
        ("DeepSeek-R1", 70272),  # 61 x (512 + 64) x 2
        ("gpt-oss-120b", 73728),  # 36 x 2 x 8 x 64 x 2
    ],
)
def test_well_known_models_are_built_in(name: str, per_token: int) -> None:
    assert kv_size.find(name).bytes_per_token() == per_token


@pytest.mark.parametrize("name", ["DeepSeek-R1-Distill-Qwen-7B", "Llama-3.1-9B", "llama", ""])
def test_a_model_that_only_sounds_like_one_is_not_taken_for_it(name: str) -> None:
    with pytest.raises(NoShape, match=r"give its config\.json"):
        kv_size.find(name)


def test_the_kits_own_models_are_as_its_engine_has_them() -> None:
    for name, shape in SHAPES.items():
        assert kv_size.find(name).bytes_per_token("float64") == shape.kv_bytes(8)
        assert kv_size.find(name).bytes_per_token("float32") == shape.kv_bytes(4)


def test_no_model_is_there_twice() -> None:
    names = [shape.name for shape in kv_size.models()]
    assert all(kv_size.find(name).name == name for name in names)


def test_the_elements_size_counts() -> None:
    llama = kv_size.find("Llama-3.1-8B")
    assert llama.bytes_per_token("fp8") == 65536
    assert llama.bytes_per_token("float32") == 262144


@pytest.mark.parametrize(
    ("shape", "tp", "per_rank"),
    [
        (KvShape("x", 10, 8, 64), 2, 10 * 2 * 4 * 64 * 2),
        (KvShape("x", 10, 8, 64), 8, 10 * 2 * 1 * 64 * 2),
        (KvShape("x", 10, 2, 64), 8, 10 * 2 * 1 * 64 * 2),  # each head is on four ranks
        (KvShape("x", 10, latent_dim=512, rope_dim=64), 8, 10 * 576 * 2),  # all of it on each
    ],
)
def test_ranks_share_heads_but_no_latent_vector(shape: KvShape, tp: int, per_rank: int) -> None:
    assert shape.bytes_per_token(tp=tp) == per_rank


def test_ranks_that_cannot_share_the_heads_are_refused() -> None:
    with pytest.raises(NoShape, match="3 ranks cannot share 8 KV heads"):
        KvShape("x", 10, 8, 64).bytes_per_token(tp=3)


def test_layers_with_a_window_hold_no_more_than_it() -> None:
    """6 layers of 1000 tokens; within windows 2 of 1000 and 4 of 100; 2 x 1 x 10 x 2 B each."""
    shape = KvShape("x", 6, 1, 10, window_layers=4, window=100)
    assert shape.kv_bytes(1000) == 6 * 1000 * 40
    assert shape.kv_bytes(1000, windowed=True) == (2 * 1000 + 4 * 100) * 40
    assert shape.kv_bytes(50, windowed=True) == shape.kv_bytes(50) == 6 * 50 * 40


# config.json

LLAMA = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "torch_dtype": "bfloat16",
}


@pytest.mark.parametrize(
    ("config", "per_token"),
    [
        (LLAMA, 32 * 2 * 8 * 128 * 2),
        ({**LLAMA, "head_dim": 64}, 32 * 2 * 8 * 64 * 2),
        ({**LLAMA, "num_key_value_heads": None}, 32 * 2 * 32 * 128 * 2),
        ({**LLAMA, "torch_dtype": "float32"}, 32 * 2 * 8 * 128 * 4),
        ({**LLAMA, "text_config": None}, 32 * 2 * 8 * 128 * 2),
        ({"text_config": {**LLAMA, "torch_dtype": None}, "dtype": "float32"}, 32 * 2 * 8 * 128 * 4),
        ({"n_layer": 12, "n_head": 12, "n_embd": 768}, 12 * 2 * 12 * 64 * 2),
        ({**LLAMA, "multi_query_group_num": 2, "num_key_value_heads": None}, 32 * 2 * 2 * 128 * 2),
        ({**LLAMA, "kv_lora_rank": 512, "qk_rope_head_dim": 64}, 32 * 576 * 2),
        ({**LLAMA, "kv_lora_rank": None, "qk_rope_head_dim": 64}, 32 * 2 * 8 * 128 * 2),
        # Every fourth layer has a KV cache.
        (
            {**LLAMA, "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 8},
            8 * 2 * 8 * 128 * 2,
        ),
        # Gemma 3's own leaves its head dimension to transformers; it is not 3840 / 16.
        (
            {
                "text_config": {
                    "model_type": "gemma3_text",
                    "num_hidden_layers": 48,
                    "num_attention_heads": 16,
                    "num_key_value_heads": 8,
                    "hidden_size": 3840,
                }
            },
            48 * 2 * 8 * 256 * 2,
        ),
    ],
)
def test_a_config_json_is_read(tmp_path: Path, config: dict[str, Any], per_token: int) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    assert kv_size.read(file).bytes_per_token() == per_token


QWEN3_NEXT = {
    "model_type": "qwen3_next",
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "hidden_size": 2048,
}


@pytest.mark.parametrize(
    ("config", "layers", "per_token"),
    [
        ({**QWEN3_NEXT, "full_attention_interval": 4}, 12, 12 * 2 * 2 * 256 * 2),
        (QWEN3_NEXT, 12, 24576),  # the class's interval is 4, too
        ({**QWEN3_NEXT, "num_hidden_layers": 47}, 11, 11 * 2 * 2 * 256 * 2),
        # Jamba: layers 4, 12, 20 and 28.
        (
            {**LLAMA, "model_type": "jamba", "attn_layer_period": 8, "attn_layer_offset": 4},
            4,
            4 * 2 * 8 * 128 * 2,
        ),
        ({**LLAMA, "model_type": "jamba", "num_hidden_layers": 29}, 4, 4 * 2 * 8 * 128 * 2),
        ({**LLAMA, "model_type": "jamba", "num_hidden_layers": 28}, 3, 3 * 2 * 8 * 128 * 2),
        ({**LLAMA, "attn_layer_period": 8, "attn_layer_offset": 0}, 4, 4 * 2 * 8 * 128 * 2),
        # Bamba-9B, and LFM2-1.2B with heads of 64.
        ({**LLAMA, "attn_layer_indices": [9, 18, 27]}, 3, 3 * 2 * 8 * 128 * 2),
        (
            {
                **LLAMA,
                "num_hidden_layers": 16,
                "hidden_size": 2048,
                "full_attn_idxs": [2, 5, 8, 10, 12, 14],
            },
            6,
            6 * 2 * 8 * 64 * 2,
        ),
        # Nemotron-H, whose heads are not the hidden size's: 3072 / 32 is 96.
        (
            {
                **LLAMA,
                "model_type": "nemotron_h",
                "hidden_size": 3072,
                "num_hidden_layers": 12,
                "hybrid_override_pattern": "M-M-M*EM-M*-",
            },
            2,
            2 * 2 * 8 * 128 * 2,
        ),
        (
            {
                **LLAMA,
                "num_hidden_layers": None,
                "layers_block_type": ["mamba", "moe", "attention"],
            },
            1,
            1 * 2 * 8 * 128 * 2,
        ),
        # MiniMax-Text-01's form, and MiniMax-M2's: 1 is softmax attention.
        ({**LLAMA, "attn_type_list": ([0] * 7 + [1]) * 4}, 4, 4 * 2 * 8 * 128 * 2),
        ({**LLAMA, "attn_type_list": [1] * 32}, 32, 131072),
        # The indexer's keys do not count.
        ({**LLAMA, "layer_types": ["indexed_attention"] * 32}, 32, 131072),
        # The last one predicts a token more.
        ({**LLAMA, "layer_types": ["full_attention"] * 33}, 32, 131072),
    ],
)
def test_only_layers_with_attention_count(
    config: dict[str, Any], layers: int, per_token: int
) -> None:
    shape = kv_size.of_config("x", config)
    assert (shape.layers, shape.bytes_per_token()) == (layers, per_token)


def test_layers_without_a_cache_are_noted() -> None:
    assert kv_size.of_config("x", QWEN3_NEXT).note == "36 layers without a KV cache"
    assert kv_size.of_config("x", LLAMA).note == ""


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"block_configs": [{"attention": {"no_op": True}}], "num_key_value_heads": None}, "block"),
        ({"num_kv_heads": [3, 4], "num_key_value_heads": None}, "num_kv_heads"),
        ({"num_key_value_heads_per_layer": [4, 2]}, "num_key_value_heads_per_layer"),
        ({"attn_layer_period": 6, "attn_layer_offset": 4, "attention_hidden_size": 1}, "hidden"),
        ({"layers_block_type": ["mamba", "hybrid"] * 16}, "hybrid"),
        ({"layer_types": ["compressed_sparse_attention"] * 32}, "compressed_sparse_attention"),
        ({"hybrid_override_pattern": "M?" * 16}, r"\?"),
        ({"linear_attn_config": {"full_attn_layers": [4]}}, "linear_attn_config"),
        ({"model_type": "gemma3n_text"}, "num_kv_shared_layers"),
        ({"block_types": ["recurrent", "recurrent", "attention"]}, "block_types"),
    ],
)
def test_layers_that_differ_in_another_way_are_refused(more: dict[str, Any], what: str) -> None:
    """And it is said what to give instead."""
    with pytest.raises(NoShape, match=rf"{what}.*, which is not understood; give kv-size"):
        kv_size.of_config("x", {**LLAMA, **more})


@pytest.mark.parametrize(
    ("more", "layers", "window"),
    [
        ({"sliding_window": 4096}, 32, 4096),
        ({"sliding_window": None}, 0, 0),
        ({"sliding_window": 4096, "use_sliding_window": False}, 0, 0),
        ({"sliding_window": 512, "sliding_window_pattern": 6}, 27, 512),
        (
            {
                "sliding_window": 128,
                "layer_types": ["sliding_attention", "full_attention"] * 16,
            },
            16,
            128,
        ),
    ],
)
def test_windows_are_noted(more: dict[str, Any], layers: int, window: int) -> None:
    shape = kv_size.of_config("x", {**LLAMA, **more})
    assert (shape.window_layers, shape.window) == (layers, window)
    assert shape.layers == 32


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "line 1"),
        ("[]", "no JSON object"),
        ("{}", "num_hidden_layers is None"),
        ('{"num_hidden_layers": 2}', "num_attention_heads is None"),
        (json.dumps({**LLAMA, "torch_dtype": "float3"}), "'float3' is not known"),
        (json.dumps({**LLAMA, "text_config": "x"}), "the text's configuration is 'x'"),
        (json.dumps({**LLAMA, "head_dim": "128"}), "head_dim is '128'"),
        (
            json.dumps({**LLAMA, "num_key_value_heads": [8, 4]}),
            "a num_key_value_heads each, which is not",
        ),
        (json.dumps({**LLAMA, "kv_lora_rank": "512"}), "kv_lora_rank is '512'"),
        (json.dumps({**LLAMA, "sliding_window": "far"}), "sliding_window is 'far'"),
        (json.dumps({**LLAMA, "full_attention_interval": 0}), "full_attention_interval is 0"),
        (json.dumps({**LLAMA, "attn_layer_period": 8}), "attn_layer_offset is None"),
        (json.dumps({**LLAMA, "attn_layer_indices": 3}), "attn_layer_indices is 3"),
        (json.dumps({**LLAMA, "attn_layer_indices": []}), "no layers"),
        (json.dumps({**LLAMA, "layer_types": [{}]}), "layer_types is [{}]"),
        (json.dumps({**LLAMA, "layer_types": ["attention"]}), "of 1 layers"),
    ],
)
def test_a_config_that_says_too_little_is_refused_in_one_line(
    tmp_path: Path, text: str, told: str
) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    result = ran("--config", str(file))
    assert result.exit_code == 2
    assert told in result.stderr
    assert result.stderr.count("\n") == 1


# The command


def test_the_seeds_arithmetic_is_shown_with_its_units() -> None:
    """The seed's table has MB for MiB: 91 tokens, 11.38; 485 tokens, 60.62."""
    output = ran("Llama-3.1-8B", "--tokens", "91", "485", "1000").stdout
    assert "32 layers x 2 x 8 heads x 128 x 2 B = 131072 B/token (128 KiB)" in output
    rows = [line.split() for line in output.splitlines()]
    assert ["91", "11927552", "11.38", "11.93"] in rows
    assert ["485", "63569920", "60.62", "63.57"] in rows
    assert ["1000", "131072000", "125.00", "131.07"] in rows
    assert "1 MiB = 1024 KiB; 1 MB = 1000000 B" in output


def test_numbers_after_an_option_are_its_own_in_any_form() -> None:
    apart = ran("--json", "--tokens", "10", "--tokens", "20", "tiny")
    together = ran("--json", "--tokens", "10", "20", "tiny")
    assert apart.stdout == together.stdout
    (told,) = json.loads(together.stdout)
    assert [(each["tokens"], each["bytes"]) for each in told["prompts"]] == [
        (10, 20480),
        (20, 40960),
    ]


def test_a_shape_of_ones_own_is_calculated() -> None:
    result = ran("--layers", "4", "--kv-heads", "2", "--head-dim", "10", "--dtype", "fp8")
    assert "= 160 B/token" in result.stdout


def test_without_a_model_all_are_listed() -> None:
    lines = ran().stdout.splitlines()
    assert len(lines) == 1 + len(kv_size.models())
    assert any(line.split()[:2] == ["meta-llama/Llama-3.1-8B", "131072"] for line in lines)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nosuch",), "'nosuch' is not built in"),
        (("--kv-heads", "2"), "needs --layers"),
        (("--layers", "2"), "neither KV heads nor a latent vector"),
        (("tiny", "--tokens", "0"), "0"),
    ],
)
def test_nonsense_is_refused_in_one_line(arguments: tuple[str, ...], told: str) -> None:
    result = ran(*arguments)
    assert result.exit_code == 2
    assert told in result.stderr
    assert result.stderr.count("\n") == 1
