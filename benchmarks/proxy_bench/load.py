"""Asks a proxy for completions as fast as it answers, over connections that are kept.

    python -m proxy_bench.load URL [--concurrency 32] [--seconds 2] [--events N]

Prints a JSON object: ``requests``, ``events`` within ``seconds``, ``p50_ms``; ``all_requests`` and
``all_events`` with those before and after, which share the processor time. Exit code 1 when an
answer is not a whole 200.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from time import perf_counter
from urllib.parse import urlsplit

import httptools
import uvloop

PROMPT = "All work and no play makes a dull benchmark. " * 11  # 495 bytes
WARM_UP_S = 0.3


class Load:
    """The clients' common book."""

    def __init__(self, request: bytes, events: int) -> None:
        self.request = request
        self.events = events
        self.counting = False
        self.stopping = False
        self.latencies: list[float] = []
        self.seen = 0
        self.all_requests = self.all_events = 0
        self.wrong = ""


class Client(asyncio.Protocol):
    """One connection: the next request goes out when the last answer is whole."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.parser = httptools.HttpResponseParser(self)
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        self.count = 0
        self.asked_at = perf_counter()
        self.transport.write(self.load.request)

    def data_received(self, data: bytes) -> None:
        if self.load.events:
            count = data.count(b"data: ")
            self.count += count
            self.load.all_events += count
            if self.load.counting:
                self.load.seen += count
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        load = self.load
        status = self.parser.get_status_code()
        if status != 200 or (load.events and self.count != load.events + 1):
            load.wrong = f"status {status} with {self.count} events"
            load.stopping = True
        load.all_requests += 1
        if load.counting:
            load.latencies.append(perf_counter() - self.asked_at)
        if load.stopping:
            self.transport.close()
        else:
            self.ask()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.load.stopping:
            self.load.wrong = f"the connection broke: {error}"
        self.ended.set_result(None)


async def run(url: str, concurrency: int, seconds: float, events: int) -> dict[str, float]:
    parts = urlsplit(url)
    wanted = {"model": "m", "prompt": PROMPT, "max_tokens": events or 16, "stream": events > 0}
    body = json.dumps(wanted).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    load = Load(head.encode() + body, events)
    loop = asyncio.get_running_loop()
    clients = []
    for _ in range(concurrency):
        _, client = await loop.create_connection(lambda: Client(load), parts.hostname, parts.port)
        clients.append(client)
    await asyncio.sleep(WARM_UP_S)
    load.counting, start = True, perf_counter()
    await asyncio.sleep(seconds)
    load.counting, took = False, perf_counter() - start
    load.stopping = True
    await asyncio.wait_for(asyncio.gather(*(client.ended for client in clients)), 30)
    if load.wrong or not load.latencies:
        raise SystemExit(f"{url}: {load.wrong or 'no answer'}")
    return {
        "requests": len(load.latencies),
        "events": load.seen,
        "all_requests": load.all_requests,
        "all_events": load.all_events,
        "seconds": took,
        "p50_ms": statistics.median(load.latencies) * 1e3,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--events", type=int, default=0, help="stream so many per request")
    options = parser.parse_args()
    json.dump(uvloop.run(run(**vars(options))), sys.stdout)


if __name__ == "__main__":
    main()
