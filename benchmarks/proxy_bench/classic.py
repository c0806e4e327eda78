"""A P/D proxy of the classic kind, to compare with: Quart on hypercorn, aiohttp towards engines,
and a client session per request.

    python -m proxy_bench.classic PORT PREFILL DECODE

It does no more than it must: P for one token, then D with P's ``kv_transfer_params``, passed on as
it comes. No limits, no retries, no metrics, no log.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import uuid
from collections.abc import AsyncIterator

import aiohttp
from hypercorn.asyncio import serve
from hypercorn.config import Config
from quart import Quart, Response, request

REMOTE_DECODE = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}
FOREVER = aiohttp.ClientTimeout(total=6 * 3600)


def application(prefillers: list[str], decoders: list[str]) -> Quart:
    app = Quart(__name__)
    pairs = zip(itertools.cycle(prefillers), itertools.cycle(decoders), strict=False)

    @app.post("/v1/completions")
    async def completions() -> Response:
        asked = await request.get_json()
        prefill, decode = next(pairs)
        headers = {"X-Request-Id": uuid.uuid4().hex}
        one_token = {
            **asked,
            "max_tokens": 1,
            "stream": False,
            "kv_transfer_params": REMOTE_DECODE,
        }
        async with (
            aiohttp.ClientSession(timeout=FOREVER) as session,
            session.post(prefill + request.path, json=one_token, headers=headers) as answer,
        ):
            prefilled = await answer.json()
        wanted = {**asked, "kv_transfer_params": prefilled["kv_transfer_params"]}
        url = decode + request.path

        async def passed_on() -> AsyncIterator[bytes]:
            async with (
                aiohttp.ClientSession(timeout=FOREVER) as session,
                session.post(url, json=wanted, headers=headers) as answer,
            ):
                async for part in answer.content.iter_any():
                    yield part

        kind = "text/event-stream" if asked.get("stream") else "application/json"
        return Response(passed_on(), content_type=kind)

    return app


def main() -> None:
    port, prefill, decode = sys.argv[1:]
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.accesslog = None
    config.errorlog = "-"
    config.loglevel = "ERROR"
    asyncio.run(serve(application([prefill], [decode]), config))


if __name__ == "__main__":
    main()
