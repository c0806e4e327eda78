"""The cheapest engine that a proxy can be measured with: fixed answers, no model, no parser.

    python -m proxy_bench.engine

Prints the two URLs that it listens on, for P and for D. It answers any GET with 200; a POST with
``do_remote_decode`` as P; one with ``stream`` by as many events as ``max_tokens`` says, each in a
write of its own; any other as D.
"""

from __future__ import annotations

import asyncio
import json
import re

import uvloop

HAND_OFF = {
    "do_remote_prefill": True,
    "do_remote_decode": False,
    "remote_engine_id": "b6c0f7d2-prefill-0",
    "remote_block_ids": list(range(1, 9)),
    "remote_host": "127.0.0.1",
    "remote_port": 5600,
    "tp_size": 1,
}
ANSWER = {
    "id": "cmpl-0",
    "object": "text_completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "text": " word" * 16, "finish_reason": "length", "logprobs": None}],
    "usage": {"prompt_tokens": 120, "completion_tokens": 16, "total_tokens": 136},
}
EVENT = {
    "id": "cmpl-0",
    "object": "text_completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "text": " word", "finish_reason": None, "logprobs": None}],
}

LENGTH = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)
MAX_TOKENS = re.compile(rb'"max_tokens": ?([0-9]+)')
REMOTE_DECODE = re.compile(rb'"do_remote_decode": ?true')
STREAM = re.compile(rb'"stream": ?true')


def whole(body: bytes, content_type: str = "application/json") -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


PREFILLED = whole(json.dumps({**ANSWER, "kv_transfer_params": HAND_OFF}).encode())
DECODED = whole(json.dumps(ANSWER).encode())
LISTED = whole(b'{"object": "list", "data": [{"id": "m", "object": "model"}]}')
MEASURED = whole(b"# HELP up Up.\n# TYPE up gauge\nup 1\n", "text/plain")
STREAMED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
EVENT_CHUNK = chunk(b"data: " + json.dumps(EVENT).encode() + b"\n\n")
END = chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class Engine(asyncio.Protocol):
    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.unread = b""
        self.loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        self.unread += data
        while (end := self.unread.find(b"\r\n\r\n")) >= 0:
            head = self.unread[: end + 2]
            if b"100-continue" in head:
                raise SystemExit("this engine knows no Expect")
            length = LENGTH.search(head)
            size = end + 4 + (int(length[1]) if length else 0)
            if len(self.unread) < size:
                return
            body, self.unread = self.unread[end + 4 : size], self.unread[size:]
            self.answer(head, body)

    def answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET"):
            self.transport.write(MEASURED if b" /metrics" in head else LISTED)
        elif REMOTE_DECODE.search(body):
            self.transport.write(PREFILLED)
        elif STREAM.search(body):
            count = MAX_TOKENS.search(body)
            self.transport.write(STREAMED)
            self.loop.call_soon(self.stream, int(count[1]) if count else 16)
        else:
            self.transport.write(DECODED)

    def stream(self, left: int) -> None:
        """One event per turn of the loop, so that each is a packet of its own."""
        if not left:
            self.transport.write(END)
        elif not self.transport.is_closing():
            self.transport.write(EVENT_CHUNK)
            self.loop.call_soon(self.stream, left - 1)


async def main() -> None:
    loop = asyncio.get_running_loop()
    urls = []
    for _ in ("prefill", "decode"):
        server = await loop.create_server(Engine, "127.0.0.1", 0)
        urls.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    print(*urls, flush=True)
    await loop.create_future()


if __name__ == "__main__":
    uvloop.run(main())
