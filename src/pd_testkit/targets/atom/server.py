"""ATOM's OpenAI server, its own FastAPI application, over a scripted engine core.

What turns a request into sequences (`InputOutputProcessor`, `Sequence`) is ATOM's as well; only the
engine core behind it is ours, and the tokenizer, whose tokens are the script's pieces.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from itertools import zip_longest
from types import SimpleNamespace
from typing import Any

from pd_testkit.contract import Generation, Served
from pd_testkit.targets.atom.asgi import ask
from pd_testkit.targets.loop_thread import LoopThread
from pd_testkit.targets.scripted_core import ScriptedCore

_SECONDS = 30.0
_BLOCK_SIZE = 16


class ServerDriver:
    """The module's globals are the server's state, so one driver is in use at a time."""

    def __init__(self) -> None:
        self._api: Any = import_module("atom.entrypoints.openai.api_server")
        self._script = ScriptedCore()
        tokenizer = _Tokenizer()
        self._core = _Core(self._script, tokenizer, getattr(self._api, "flush_stream_batch", None))
        self._serve(tokenizer)
        self._loop = LoopThread("pd-atom-server", _SECONDS)

    def close(self) -> None:
        self._core.close()
        self._loop.close()
        self._api.engine = self._api.tokenizer = None

    def ask(
        self,
        body: Mapping[str, Any] | bytes,
        *,
        path: str = "/v1/completions",
        generations: Sequence[Generation] = (Generation(),),
        headers: Mapping[str, str] | None = None,
    ) -> Served:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        with self._script.expecting(body, generations) as script:
            status, seen, content = self._loop.run(ask(self._api.app, path, headers or {}, raw))
        return Served(status, content, seen, tuple(script.params))

    def get(self, path: str) -> Served:
        status, seen, content = self._loop.run(ask(self._api.app, path, {}, b"", "GET"))
        return Served(status, content, seen)

    def _serve(self, tokenizer: _Tokenizer) -> None:
        """Set what the server's ``main`` sets."""
        config = SimpleNamespace(
            speculative_config=None,
            hf_config=SimpleNamespace(model_type="llama"),
            max_model_len=None,
        )
        processor = import_module("atom.model_engine.llm_engine").InputOutputProcessor
        self._api.engine = SimpleNamespace(
            io_processor=processor(config, tokenizer, _BLOCK_SIZE),
            core_mgr=self._core,
            config=config,
        )
        self._api.tokenizer = tokenizer
        self._api.model_name = "m"
        if hasattr(self._api, "StreamBatchDispatcher"):
            self._api._stream_batch_dispatcher = self._api.StreamBatchDispatcher(tokenizer)


class _Tokenizer:
    """Each word, each space and each of the script's pieces is a token."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: dict[str, int] = {}
        self._pieces: list[str] = []

    def number(self, piece: str) -> int:
        with self._lock:
            if piece not in self._numbers:
                self._numbers[piece] = len(self._pieces)
                self._pieces.append(piece)
            return self._numbers[piece]

    def encode(self, text: str, **_: Any) -> list[int]:
        return [self.number(piece) for piece in re.findall(r"\S+|\s+", text)]

    def decode(self, tokens: Iterable[int], **_: Any) -> str:
        return "".join(self._pieces[token] for token in tokens)

    def apply_chat_template(self, messages: Iterable[Mapping[str, Any]], **_: Any) -> str:
        return "\n".join(f"{message['role']}: {message['content']}" for message in messages)


class _Core:
    """ATOM's ``core_mgr`` as the server sees it: takes sequences in, and calls back per token."""

    def __init__(self, script: ScriptedCore, tokenizer: _Tokenizer, flush: Any) -> None:
        self._script = script
        self._tokenizer = tokenizer
        self._flush = flush
        self._steps = ThreadPoolExecutor(1, "pd-atom-core")

    def close(self) -> None:
        self._steps.shutdown()

    def add_request(self, sequences: Iterable[Any]) -> None:
        taken = []
        for sequence in sequences:
            prompt = self._tokenizer.decode(sequence.token_ids[: sequence.num_prompt_tokens])
            taken.append((sequence, self._script.begin(prompt, sequence.kv_transfer_params)))
        self._steps.submit(self._run, taken)

    def abort_request(self, number: int) -> None:
        """The server aborts what its client has left; the script is short, so it is over."""

    def _run(self, taken: list[tuple[Any, Generation]]) -> None:
        """One token of each sequence per step, as the engine's output thread delivers them."""
        output = import_module("atom.model_engine.request").RequestOutput
        for step in zip_longest(*(self._tokens(generation) for _, generation in taken)):
            for (sequence, generation), given in zip(taken, step, strict=True):
                if given is None:
                    continue
                token, last = given
                sequence.stream_callback(
                    output(
                        sequence.id,
                        [token],
                        last,
                        generation.finish_reason if last else None,
                        generation.params if last else None,
                    )
                )
            if self._flush is not None:
                self._flush()

    def _tokens(self, generation: Generation) -> list[tuple[int, bool]]:
        """Each piece's token, and whether it is the last."""
        tokens = [self._tokenizer.number(piece) for piece in generation.pieces]
        return [(token, place == len(tokens)) for place, token in enumerate(tokens, start=1)]
