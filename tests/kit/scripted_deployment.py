"""A router and the engines behind it, all at one URL: answers at once, and counts as it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODES = ("pd", "ppd")


@dataclass
class Deployment:
    """Attributes:
    bytes_per_token, bytes_per_second: of its transfers, as it counts them. None: it counts none.
    hits: tokens of each prompt that D has itself.
    status: of completions.
    modes: that it was switched to, the first one at its beginning.
    prompts: that it was asked.
    """

    bytes_per_token: int | None = None
    bytes_per_second: float = 1e9
    hits: int = 0
    status: int = 200
    model: str = "tiny"
    modes: list[str] = field(default_factory=lambda: ["pd"])
    prompts: list[str] = field(default_factory=list)
    url: str = ""

    def get(self, path: str) -> tuple[int, Any]:
        if path == "/v1/models":
            return 200, {"data": [{"id": self.model}]}
        if path == "/mode":
            return 200, {"mode": self.modes[-1]}
        if path == "/metrics":
            return 200, self._metrics()
        return 404, {}

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        if path.startswith("/mode/"):
            mode = path.removeprefix("/mode/")
            if mode not in MODES:
                return 404, {"error": {"message": "there are pd and ppd"}}
            self.modes.append(mode)
            return 200, {"mode": mode}
        if path == "/tokenize":
            return 200, {"count": len(body["prompt"].split())}
        if path == "/v1/completions" and self.status == 200:
            self.prompts.append(body["prompt"])
            return 200, _stream(body)
        return self.status, {"error": {"message": "no engine"}}

    def _metrics(self) -> str:
        tokens = sum(len(prompt.split()) for prompt in self.prompts)
        told = {
            "vllm:prompt_tokens_total": tokens,
            "vllm:prefix_cache_hits_total": self.hits * len(self.prompts),
        }
        if self.bytes_per_token is not None:
            moved = tokens * self.bytes_per_token
            told["vllm:nixl_bytes_transferred_sum"] = moved
            told["vllm:nixl_xfer_time_seconds_sum"] = moved / self.bytes_per_second
        return "".join(f"{name} {value}\n" for name, value in told.items())


def _stream(body: Any) -> str:
    prompt, tokens = len(body["prompt"].split()), body["max_tokens"]
    events: list[Any] = [{"choices": [{"index": 0, "text": "x"}]} for _ in range(tokens)]
    usage = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
    end = {"choices": [{"index": 0, "text": "", "finish_reason": "length"}], "usage": usage}
    said = [json.dumps(event) for event in (*events, end)]
    return "".join(f"data: {each}\n\n" for each in (*said, "[DONE]"))


@contextmanager
def serving(deployment: Deployment) -> Iterator[Deployment]:
    """At its URL, for as long as this lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(*deployment.get(self.path))

        def do_POST(self) -> None:
            said = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._answer(*deployment.post(self.path, json.loads(said or b"null")))

        def _answer(self, status: int, said: Any) -> None:
            body = said.encode() if isinstance(said, str) else json.dumps(said).encode()
            self.send_response(status)
            stream = body.startswith(b"data:")
            self.send_header("Content-Type", "text/event-stream" if stream else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing is said."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = False
        deployment.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield deployment
        finally:
            server.shutdown()
            thread.join()
