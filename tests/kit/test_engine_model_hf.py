"""A Hugging Face model from a folder, over paged caches, says what transformers says."""

from __future__ import annotations

import importlib.util
import random
import warnings
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="not applicable: the extra torch is not installed")

from pd_testkit.engine.hf import FolderModel, FolderTokenizer, load  # noqa: E402
from pd_testkit.engine.model import Batch  # noqa: E402

from .engine_texts import new_caches, one_thread  # noqa: E402

# Imported by the tests that run, in one worker, as it takes seconds.
pytestmark = [
    pytest.mark.xdist_group("test_engine_model_hf"),
    pytest.mark.skipif(
        importlib.util.find_spec("transformers") is None,
        reason="not applicable: the extra hf is not installed",
    ),
]

single = pytest.fixture(autouse=True)(one_thread)

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with random weights and a tokenizer of bytes."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    path = tmp_path_factory.mktemp("model") / "little-llama"
    config = transformers.LlamaConfig(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.5,
        bos_token_id=None,
        eos_token_id=256,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.LlamaForCausalLM(config).save_pretrained(path)
    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<end>"]
    words = Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(alphabet)}, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def loaded(folder: Path) -> tuple[FolderModel, FolderTokenizer]:
    return load(str(folder))


def transformers_answer(folder: Path, prompt: tuple[int, ...], tokens: int) -> list[int]:
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder).double()
    answer = model.generate(
        torch.tensor([prompt]), max_new_tokens=tokens, do_sample=False, eos_token_id=None
    )
    return answer[0, len(prompt) :].tolist()


@pytest.mark.parametrize(("layout", "block_size"), [("NHD", 4), ("HND", 3), ("NHD", 1)])
def test_greedy_tokens_are_transformers_own(folder: Path, layout: str, block_size: int) -> None:
    model, tokenizer = load(str(folder), layout=layout)
    rng = random.Random(f"{layout} {block_size}")
    prompts = [tokenizer.encode(text) for text in ("The first one", "Another, longer prompt é")]
    blocks = [-(-(len(prompt) + 12) // block_size) for prompt in prompts]
    ids = rng.sample(range(sum(blocks)), sum(blocks))
    tables = [ids[: blocks[0]], ids[blocks[0] :]]
    caches = new_caches(model.shape, sum(blocks), block_size, tp=1, layout=layout, dtype="float64")
    texts = [list(prompt) for prompt in prompts]
    done = [0, 0]
    for count in (5, 6):  # two chunks, whose logits nobody wants
        chunks = [text[at : at + count] for text, at in zip(texts, done, strict=True)]
        assert model.forward(Batch(chunks, done, tables, [False] * 2), caches).shape == (0, 257)
        done = [at + count for at in done]
    for _ in range(12):
        chunks = [text[at:] for text, at in zip(texts, done, strict=True)]
        logits = model.forward(Batch(chunks, done, tables, [True] * 2), caches)
        done = [len(text) for text in texts]
        for text, row in zip(texts, logits, strict=True):
            text.append(int(row.argmax()))
    for text, prompt in zip(texts, prompts, strict=True):
        assert text[len(prompt) :] == transformers_answer(folder, prompt, 12)


def test_the_caches_follow_of_the_folder(loaded: tuple[FolderModel, FolderTokenizer]) -> None:
    shape = loaded[0].shape
    assert (shape.name, shape.layers, shape.kv_heads, shape.cache_dim) == ("little-llama", 2, 2, 8)
    assert (shape.vocabulary, shape.max_tokens) == (257, 256)


def test_text_comes_as_its_characters_are_complete(
    loaded: tuple[FolderModel, FolderTokenizer],
) -> None:
    tokenizer = loaded[1]
    detokenizer = tokenizer.detokenizer()
    pieces = [detokenizer.push(token) for token in tokenizer.encode("aé€b")]
    assert pieces == ["a", "", "é", "", "", "€", "b"]
    detokenizer.push(tokenizer.encode("é")[0])
    assert detokenizer.flush() == "\ufffd"
    assert tokenizer.decode((*tokenizer.encode("hi"), 256)) == "hi"
    assert tokenizer.ends == {256}


def test_a_chat_is_written_by_the_folders_template(
    loaded: tuple[FolderModel, FolderTokenizer],
) -> None:
    tokenizer = loaded[1]
    asked = tokenizer.chat([{"role": "user", "content": "Hi"}])
    assert tokenizer.decode(asked) == "<user>Hi<assistant>"


def refusal(folder: Path, **ways: Any) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError) as refused:
            load(str(folder), **ways)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_what_cannot_be_served_is_said_in_one_line(folder: Path, tmp_path: Path) -> None:
    assert refusal(folder, tp_size=2) == "a Hugging Face model runs at TP 1, not 2"
    assert "no config.json" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert refusal(tmp_path).startswith(str(tmp_path))


def test_layers_that_see_a_part_of_the_context_are_refused(tmp_path: Path) -> None:
    import transformers

    config = transformers.Qwen2Config(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        layer_types=["full_attention", "sliding_attention"],
        use_sliding_window=True,
        sliding_window=4,
    )
    model = transformers.Qwen2ForCausalLM(config)
    with pytest.raises(
        ValueError, match="mixed: layers of full_attention, sliding_attention; only full_attention"
    ):
        FolderModel(model, transformers.DynamicCache, name="mixed", layout="NHD")
