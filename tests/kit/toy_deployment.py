"""A P/D deployment that only seems to be one: what an accuracy test can be shown, right or wrong.

The model continues a prompt with letters that depend on all of it. Tokens are bytes. D's cache
holds whole blocks. `DEFECTS` are the ways in which the router may be wrong.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

MODEL = "toy"
MAX_TOKENS = 4000
BLOCK = 16
BYTES_PER_TOKEN = 64
ADMIN_KEY = "toy-key"
LETTERS = "abcdefghijklmnopqrstuvwxyzäöü"

DEFECTS = {
    "sick": "health",
    "nameless": "models",
    "usage-off-by-one": "completion",
    "no-finish-reason": "completion",
    "error-in-200": "completion",
    "no-done": "completion-stream",
    "two-finish-reasons": "completion-stream",
    "stream-at-once": "completion-stream",
    "stream-loses-a-piece": "completion-stream",
    "no-usage-at-the-end": "completion-stream",
    "chat-of-a-user": "chat",
    "stream-without-role": "chat-stream",
    "two-tokens": "max-tokens-1",
    "torn-characters": "unicode",
    "logprobs-above-zero": "logprobs",
    "no-logprobs": "logprobs",
    "n-ignored": "n",
    "seed-ignored": "seed",
    "one-draw": "seed",
    "500-for-wrong": "errors",
    "refuses-without-a-word": "errors",
    "text-for-json": "completion",
    "serves-too-long": "errors",
    "a-wrong-token": "tokens",
    "one-answer": "tokens",
    "wrong-at-the-edge": "block-edges",
    "wrong-when-cached": "prefix-hit-full",
    "wrong-when-begun": "prefix-hit-partial",
    "no-cache": "prefix-hit-full",
    "first-turn-only": "multi-turn",
    "stops-late": "stop-strings",
    "reads-ascii": "unicode-tokens",
    "mixes-up": "at-once",
    "recomputes": "kv-moved",
    "recomputes-some": "kv-moved",
    "moves-nothing": "kv-moved",
    "moves-too-much": "kv-moved",
    "uncounted": "kv-moved",
    "keeps-a-hold": "nothing-left",
    "bytes-do-not-matter": "detector",
    "faults-never-strike": "detector",
    "faults-are-not-taken": "detector",
}
"""By name, and the check that notices at the latest."""


def continuation(prompt: str, tokens: int, seed: int | None = None) -> str:
    """What the model says."""
    digest = hashlib.sha512(f"{prompt}/{seed}".encode()).digest()
    return "".join(LETTERS[digest[place % 64] % len(LETTERS)] for place in range(tokens))


@dataclass
class Toy:
    """Attributes:
    defect: of `DEFECTS`; empty: none.
    bytes_only: D counts the bytes that moved, and no external hits.
    prompts, hits, external, moved: D's counters: tokens of prompts, of them cached and come
        from P; and bytes.
    asked: requests so far.
    running: requests now.
    cached: what D has: prompts' begins, block by block.
    corrupting, struck: whether bytes are flipped on their way, and how often one was.
    """

    defect: str = ""
    bytes_only: bool = False
    prompts: int = 0
    hits: int = 0
    external: int = 0
    moved: int = 0
    asked: int = 0
    running: int = 0
    cached: set[str] = field(default_factory=set)
    corrupting: bool = False
    struck: int = 0
    ids: Any = field(default_factory=itertools.count)

    def router(self) -> web.Application:
        app = self._application()
        app.router.add_post("/v1/completions", self._answer)
        app.router.add_post("/v1/chat/completions", self._answer)
        return app

    def engine(self, role: str) -> web.Application:
        app = self._application()

        async def metrics(_: web.Request) -> web.Response:
            return web.Response(text=self._metrics(role))

        async def faults(http: web.Request) -> web.Response:
            if http.headers.get("Authorization") != f"Bearer {ADMIN_KEY}":
                return web.Response(status=401)
            if http.method == "POST" and self.defect == "faults-are-not-taken":
                return web.json_response({"error": {"message": "unknown fault"}}, status=400)
            if role == "decode" and http.method != "GET":
                self.corrupting = http.method == "POST"
            fired = self.struck if role == "decode" else 0
            return web.json_response({"faults": [], "fired": {"kv-corrupt": fired}})

        app.router.add_get("/metrics", metrics)
        app.router.add_route("*", "/admin/faults", faults)
        return app

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=1 << 26)

        async def health(_: web.Request) -> web.Response:
            return web.Response(status=503 if self.defect == "sick" else 200)

        async def models(_: web.Request) -> web.Response:
            name = "other" if self.defect == "nameless" else MODEL
            listed = [{"id": name, "object": "model", "max_model_len": MAX_TOKENS}]
            return web.json_response({"object": "list", "data": listed})

        app.router.add_get("/health", health)
        app.router.add_get("/v1/models", models)
        return app

    def _metrics(self, role: str) -> str:
        told = {"vllm:num_requests_running": self.running if role == "decode" else 0}
        told["pd_engine_held_requests"] = int(self.defect == "keeps-a-hold" and role == "prefill")
        if role == "decode":
            told["vllm:prefix_cache_queries_total"] = self.prompts
            told["vllm:prefix_cache_hits_total"] = self.hits
            if self.defect != "uncounted":
                told["vllm:nixl_bytes_transferred_sum"] = self.moved
                if not self.bytes_only:
                    told["vllm:external_prefix_cache_hits_total"] = self.external
        lines = [f'{name}{{engine="0"}} {value}' for name, value in told.items()]
        return "\n".join([f'vllm:cache_config_info{{block_size="{BLOCK}"}} 1.0', *lines, ""])

    # Answers

    async def _answer(self, http: web.Request) -> web.StreamResponse:
        body = await http.json()
        try:
            prompt = self._prompt(body)
        except ValueError as problem:
            status = 500 if self.defect == "500-for-wrong" else 400
            if self.defect == "refuses-without-a-word":
                return web.Response(status=400)
            return web.json_response({"error": {"message": str(problem)}}, status=status)
        self.running += 1
        self.asked += 1
        try:
            if self.defect == "error-in-200":
                return web.json_response({"error": {"message": "no engine"}})
            tokens = len(prompt.encode())
            self._move(prompt, tokens)
            texts = self._texts(prompt, body)
            if body.get("stream"):
                return await self._stream(http, body, texts, tokens)
            kind = "text/plain" if self.defect == "text-for-json" else "application/json"
            return web.json_response(self._whole(body, texts, tokens), content_type=kind)
        finally:
            self.running -= 1

    def _prompt(self, body: dict[str, Any]) -> str:
        if "prompt" not in body and not body.get("messages"):
            raise ValueError("no prompt")
        if "messages" in body:
            said = body["messages"][:1] if self.defect == "first-turn-only" else body["messages"]
            prompt = "".join(f"<{each['role']}>{each['content']}" for each in said)
        else:
            prompt = body["prompt"]
        if not prompt or body.get("max_tokens", 1) < 1:
            raise ValueError("an empty prompt, or no tokens")
        if len(prompt) > MAX_TOKENS and self.defect != "serves-too-long":
            raise ValueError("too long")
        return prompt

    def _move(self, prompt: str, tokens: int) -> None:
        """D takes what it lacks from P, in whole blocks; counts what it says it did."""
        blocks = [prompt.encode()[: n * BLOCK].hex() for n in range(1, tokens // BLOCK + 1)]
        had = 0 if self.defect == "no-cache" else sum(b in self.cached for b in blocks)
        self.cached.update(blocks)
        self.begun = 0 < had < len(blocks)
        self.full = 0 < had == len(blocks)
        self.prompts += tokens
        self.hits += had * BLOCK
        external = tokens - had * BLOCK
        if self.defect == "recomputes" or (self.defect == "recomputes-some" and self.asked % 2):
            external = 0
        if self.defect == "moves-too-much":
            external *= 2
        self.external += external
        self.moved += 0 if self.defect == "moves-nothing" else external * BYTES_PER_TOKEN

    def _texts(self, prompt: str, body: dict[str, Any]) -> list[str]:
        limit = body.get("max_completion_tokens", body.get("max_tokens", 16))
        warm = body.get("temperature", 1) > 0
        seed = body.get("seed") if warm else None
        match self.defect:
            case "seed-ignored" if warm:
                seed = next(self.ids)
            case "one-draw":
                seed = None
            case "two-tokens" if limit == 1:
                limit = 2
            case "one-answer":
                prompt = ""
            case "reads-ascii":
                prompt = prompt.encode("ascii", "ignore").decode()
        text = continuation(prompt, limit, seed)
        if self._wrong(prompt):
            text = text[:-1] + "?"
        if stop := body.get("stop"):
            places = [text.index(each) for each in stop if each in text]
            if places:
                cut = min(places) + (1 if self.defect == "stops-late" else 0)
                return [text[:cut]]
        return [text] * (1 if self.defect == "n-ignored" else body.get("n", 1))

    def _wrong(self, prompt: str) -> bool:
        if self.corrupting and self.defect != "faults-never-strike":
            self.struck += 1
            return self.defect != "bytes-do-not-matter"
        return {
            "a-wrong-token": True,
            "wrong-at-the-edge": len(prompt) == BLOCK + 1,
            "wrong-when-cached": self.full,
            "wrong-when-begun": self.begun,
            "mixes-up": self.running > 8,
        }.get(self.defect, False)

    def _choice(self, body: dict[str, Any], index: int, text: str, end: bool) -> dict[str, Any]:
        """One token of an answer, or all of it."""
        limit = body.get("max_completion_tokens", body.get("max_tokens", 16))
        reason = ("length" if len(text) >= limit else "stop") if end else None
        choice: dict[str, Any] = {"index": index, "finish_reason": reason}
        if self.defect == "no-finish-reason":
            choice["finish_reason"] = None
        likely = 0.5 if self.defect == "logprobs-above-zero" else -0.5
        if body.get("logprobs") and self.defect != "no-logprobs":
            if "messages" in body:
                top = [{"token": "a", "logprob": likely}]
                content = [{"token": t, "logprob": likely, "top_logprobs": top} for t in text]
                choice["logprobs"] = {"content": content}
            else:
                choice["logprobs"] = {
                    "tokens": list(text),
                    "token_logprobs": [likely] * len(text),
                    "top_logprobs": [{"a": likely}] * len(text),
                }
        return choice

    def _usage(self, tokens: int, texts: list[str]) -> dict[str, int]:
        generated = sum(map(len, texts))
        total = tokens + generated + (self.defect == "usage-off-by-one")
        return {"prompt_tokens": tokens, "completion_tokens": generated, "total_tokens": total}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": f"toy-{next(self.ids)}", "object": kind, "created": 1, "model": MODEL}

    def _whole(self, body: dict[str, Any], texts: list[str], tokens: int) -> dict[str, Any]:
        chat = "messages" in body
        role = "user" if self.defect == "chat-of-a-user" else "assistant"
        choices = [
            self._choice(body, index, text, end=True)
            | ({"message": {"role": role, "content": text}} if chat else {"text": text})
            for index, text in enumerate(texts)
        ]
        head = self._head("chat.completion" if chat else "text_completion")
        return head | {"choices": choices, "usage": self._usage(tokens, texts)}

    async def _stream(
        self, http: web.Request, body: dict[str, Any], texts: list[str], tokens: int
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(http)
        chat = "messages" in body
        head = self._head("chat.completion.chunk" if chat else "text_completion")
        for event in self._events(body, texts, chat):
            await response.write(_event(head | {"choices": [event]}))
            await asyncio.sleep(0)
        usage = self._usage(tokens, texts)
        if self.defect != "no-usage-at-the-end":
            await response.write(_event(head | {"choices": [], "usage": usage}))
        if self.defect != "no-done":
            await response.write(b"data: [DONE]\n\n")
        return response

    def _events(
        self, body: dict[str, Any], texts: list[str], chat: bool
    ) -> Iterable[dict[str, Any]]:
        for index, text in enumerate(texts):
            pieces = [text] if self.defect == "stream-at-once" else list(text)
            if self.defect == "stream-loses-a-piece":
                pieces.pop(0)
            if self.defect == "torn-characters":
                pieces = [piece if piece.isascii() else "\ufffd" for piece in pieces]
            for place, piece in enumerate(pieces):
                end = place == len(pieces) - 1
                event = self._choice(body, index, piece, end=False)
                if end:
                    event["finish_reason"] = self._choice(body, index, text, True)["finish_reason"]
                if self.defect == "two-finish-reasons" and place == len(pieces) - 2:
                    event["finish_reason"] = "stop"
                role = {"role": "assistant"} if place == 0 else {}
                if self.defect == "stream-without-role":
                    role = {}
                yield event | ({"delta": role | {"content": piece}} if chat else {"text": piece})


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


@asynccontextmanager
async def served(*applications: web.Application) -> AsyncIterator[list[str]]:
    """Their URLs."""
    runners = [web.AppRunner(app, access_log=None) for app in applications]
    try:
        for runner in runners:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield [f"http://127.0.0.1:{runner.addresses[0][1]}" for runner in runners]
    finally:
        for runner in runners:
            await runner.cleanup()
