"""A Hugging Face causal LM over the engine's own paged caches.

Each request runs by itself: its KV is gathered into transformers' cache, and what the model adds is
written into the request's blocks. A trained model's sums depend on their order in the last bits, so
that where two tokens are as good as equally likely, a prompt computed in other chunks may go on
differently; float64 makes it rare.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pd_testkit.engine.arrays import fetched
from pd_testkit.engine.attention import Batch, Rows
from pd_testkit.engine.model import Caches
from pd_testkit.engine.shape import ModelShape


def load(
    folder: str,
    *,
    tp_size: int = 1,
    dtype: str = "float64",
    device: str = "cpu",
    layout: str = "NHD",
) -> tuple[FolderModel, FolderTokenizer]:
    """The model in a local folder, as `transformers` saves it, and its tokenizer. Nothing is
    downloaded, and no code of the folder is run.

    Raises:
        ValueError: the folder or its model cannot be served; says why in one line.
    """
    if tp_size != 1:
        raise ValueError(f"a Hugging Face model runs at TP 1, not {tp_size}")
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"{folder}: no config.json, so no Hugging Face model's folder")
    transformers = _transformers()
    transformers.utils.logging.disable_progress_bar()
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: {str(error).strip().splitlines()[0]}") from error
    model = model.to(device=device, dtype=getattr(torch, dtype)).eval()
    served = FolderModel(model, transformers.DynamicCache, name=Path(folder).name, layout=layout)
    return served, FolderTokenizer(tokenizer, model.generation_config.eos_token_id)


class FolderModel:
    """A `pd_testkit.engine.model.Model`.

    Args:
        model: transformers', in the dtype of the caches.
        new_cache: gives an empty cache of transformers'.

    Raises:
        ValueError: some layer does not attend to all of the context.
    """

    tp_size = 1

    def __init__(self, model: Any, new_cache: Any, *, name: str, layout: str) -> None:
        config = model.config.get_text_config(decoder=True)
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"}:
            raise ValueError(f"{name}: layers of {', '.join(sorted(kinds))}; only full_attention")
        heads = config.num_attention_heads
        self.shape = ModelShape(
            name,
            layers=config.num_hidden_layers,
            width=config.hidden_size,
            heads=heads,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            hidden=config.intermediate_size,
            max_tokens=config.max_position_embeddings,
            vocabulary=config.vocab_size,
        )
        self.dtype: torch.dtype = model.dtype
        self._model = model
        self._new_cache = new_cache
        self._layout = layout

    @torch.inference_mode()
    def forward(self, batch: Batch, caches: Sequence[Caches]) -> npt.NDArray[Any]:
        """See `pd_testkit.engine.model.Model`."""
        (given,) = caches
        cache = {name: torch.as_tensor(each) for name, each in given.items()}
        found = [
            logits
            for tokens, start, table, wanted in zip(
                batch.tokens, batch.starts, batch.block_tables, batch.samples, strict=True
            )
            if (logits := self._request(tokens, start, table, cache)) is not None and wanted
        ]
        return np.stack(found) if found else np.empty((0, self.shape.vocabulary))

    def _request(
        self,
        tokens: Sequence[int],
        start: int,
        table: Sequence[int],
        caches: Mapping[str, torch.Tensor],
    ) -> npt.NDArray[Any]:
        """The last token's logits."""
        first, end = caches["0.k"], start + len(tokens)
        cells = Rows(self._layout, first.shape)
        rows = cells.of_texts([table], [end])[0]
        old = torch.from_numpy(rows[:, :start].ravel()).to(first.device)
        new = torch.from_numpy(rows[:, start:].T.ravel()).to(first.device)
        past = self._new_cache()
        if start:
            for layer in range(self.shape.layers):
                key, value = (cells.read(caches[f"{layer}.{kind}"], old, 1) for kind in "kv")
                past.update(key.unsqueeze(0), value.unsqueeze(0), layer)
        ids = torch.tensor([tokens], device=first.device)
        answer = self._model(input_ids=ids, past_key_values=past, use_cache=True, logits_to_keep=1)
        for layer, held in enumerate(past.layers):
            for kind, all_of in (("k", held.keys), ("v", held.values)):
                values = all_of[0, :, start:].transpose(0, 1)
                cells.write(caches[f"{layer}.{kind}"], new, values)
        return fetched(answer.logits[0, -1])


class FolderTokenizer:
    """A `pd_testkit.engine.tokenizer.Tokenizer` over transformers'.

    Args:
        ends: the model's own ids that end a text: none, one or several.
    """

    def __init__(self, tokenizer: Any, ends: int | Sequence[int] | None) -> None:
        self._tokenizer = tokenizer
        self.vocabulary = len(tokenizer)
        known = [ends] if isinstance(ends, int) else list(ends or ())
        if tokenizer.eos_token_id is not None:
            known.append(tokenizer.eos_token_id)
        self.ends = frozenset(known)

    def encode(self, text: str) -> tuple[int, ...]:
        """With the marks that the model expects around a prompt."""
        return tuple(self._tokenizer(text)["input_ids"])

    def decode(self, ids: Iterable[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def chat(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        """By the folder's chat template.

        Raises:
            ValueError: it has none, or it refuses the messages.
        """
        from jinja2 import TemplateError  # transformers' own means; the core needs none of it

        if not self._tokenizer.chat_template:
            raise ValueError("the model has no chat template")
        try:
            text = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise ValueError(f"the chat template refuses the messages: {error}") from error
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def detokenizer(self) -> FolderDetokenizer:
        return FolderDetokenizer(self)


class FolderDetokenizer:
    """Text of an answer by its tokens, where a token's text may depend on the one before it.

    What a token adds is what it adds to the text of those since the last complete character.
    """

    def __init__(self, tokenizer: FolderTokenizer) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []
        self._pending: list[int] = []

    def push(self, token: int) -> str:
        self._pending.append(token)
        text = self._added()
        if text.endswith("\ufffd"):
            return ""
        return self._take(text)

    def flush(self) -> str:
        return self._take(self._added())

    def _added(self) -> str:
        shown = self._tokenizer.decode(self._context)
        return self._tokenizer.decode([*self._context, *self._pending])[len(shown) :]

    def _take(self, text: str) -> str:
        if text:
            self._context, self._pending = self._pending, []
        return text


def _transformers() -> ModuleType:
    try:
        import transformers
    except ImportError as error:
        raise ValueError("a Hugging Face model needs the extra hf of pd-testkit") from error
    return transformers
