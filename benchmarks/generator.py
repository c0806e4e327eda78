"""What the load generator of ``pd-testkit bench`` can do, against a server that does nothing.

    python benchmarks/generator.py [--seconds 3]

The server, in a process of its own, answers from memory. What counts is the generator's CPU time,
which is the same on a busy machine: requests, and events of streams, per second of one core, with
all that ``bench`` does for each, its line in the result file included.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import uvloop

from pd_testkit.bench import results
from pd_testkit.bench.client import Client, Observed, Planned, completion
from pd_testkit.bench.load.generator import Monotonic, closed_loop
from pd_testkit.bench.results import Request, Writer

CONCURRENCY = 32
EVENTS = 128
GAP_S = 0.004
"""Between two events of a stream, so that the generator reads each by itself: several that come at
once are cheaper."""
PROMPT = " word" * 64

LENGTH = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)
USAGE = b'"usage":{"prompt_tokens":64,"completion_tokens":%d,"total_tokens":%d}'
CHOICE = b'{"index":0,"text":" word","logprobs":null,"finish_reason":%b}'
BODY = b'{"id":"cmpl-0","object":"text_completion","created":1,"model":"m","choices":[%b],%b}'
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(body: bytes) -> bytes:
    return chunk(b"data: " + body + b"\n\n")


TOKEN = event(BODY % (CHOICE % b"null", b'"usage":null'))
LAST = event(BODY % (CHOICE % b'"length"', b'"usage":null'))
END = event(BODY % (b"", USAGE % (EVENTS, 64 + EVENTS))) + event(b"[DONE]") + b"0\r\n\r\n"
WHOLE = BODY % (CHOICE % b'"length"', USAGE % (1, 65))
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (
    len(WHOLE)
)


class Server(asyncio.Protocol):
    """Answers any request; a stream's events one by one, each a packet of its own."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.unread = b""
        self.loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        self.unread += data
        while (end := self.unread.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(self.unread[: end + 2])
            size = end + 4 + (int(length[1]) if length else 0)
            if len(self.unread) < size:
                return
            asked, self.unread = self.unread[:size], self.unread[size:]
            if b'"stream": true' in asked:
                self.transport.write(HEAD)
                self.loop.call_later(GAP_S, self.stream, EVENTS)
            else:
                self.transport.write(ANSWER + WHOLE)

    def stream(self, left: int) -> None:
        if self.transport.is_closing():
            return
        self.transport.write(TOKEN if left > 1 else LAST)
        if left > 1:
            self.loop.call_later(GAP_S, self.stream, left - 1)
        else:
            self.transport.write(END)


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


async def load(
    url: str, *, stream: bool, seconds: float, file: Path
) -> tuple[list[Request], float]:
    """What was answered, and the CPU seconds that it took this process."""
    ask = completion("m", PROMPT, EVENTS if stream else 1, stream=stream)

    def plans() -> Iterator[Planned]:
        return (Planned(index, ask) for index in itertools.count())

    run = results.begin("bench", {}, {}, 0)
    clock = Monotonic()
    seen: list[Request] = []
    with Writer(file, run) as writer:

        def note(observed: Observed) -> None:
            seen.append(observed.request)
            writer.write(observed.request)

        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            client = Client(session, url, clock.now)
            used = time.process_time()
            await closed_loop(plans(), CONCURRENCY, client.carry_out, note, clock, seconds)
            used = time.process_time() - used
    if wrong := [request for request in seen if request.error]:
        raise SystemExit(f"{len(wrong)} requests failed: {wrong[0].error}: {wrong[0].detail}")
    return seen, used


async def measure(url: str, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for stream, title in ((False, "whole answers"), (True, f"streams of {EVENTS} events")):
            file = Path(folder) / f"{stream}.jsonl"
            seen, used = await load(url, stream=stream, seconds=seconds, file=file)
            wall = max(request.ended for request in seen)
            events = sum(len(request.pieces) for request in seen)
            print(
                f"{title}: {len(seen)} requests in {wall:.1f} s, {used:.1f} s of CPU: "
                f"{len(seen) / used:.0f} requests/s"
                + (f", {events / used:.0f} events/s" if events else "")
                + " per core"
            )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--seconds", type=float, default=3.0, help="for each kind of answer")
    options.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    told = options.parse_args()
    if told.serve:
        uvloop.run(serve())
        return
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            uvloop.run(measure(server.stdout.readline().strip(), told.seconds))
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
