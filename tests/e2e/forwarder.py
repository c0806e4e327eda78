"""A router in a few lines: P, then D. It may forget what P said of the KV."""

from __future__ import annotations

from typing import Any

import aiohttp
from aiohttp import web

_ASKED = {"do_remote_decode": True, "do_remote_prefill": False}
_PARAMS = "kv_transfer_params"


class Forwarder:
    """Forwards to one P and one D.

    Args:
        forgets: D is not told of P's hand-off, and computes the prompt again.
    """

    def __init__(
        self, session: aiohttp.ClientSession, prefill: str, decode: str, *, forgets: bool
    ) -> None:
        self._session = session
        self._prefill = prefill
        self._decode = decode
        self._forgets = forgets

    def application(self) -> web.Application:
        app = web.Application(client_max_size=1 << 26)
        for path in ("/v1/completions", "/v1/chat/completions"):
            app.router.add_post(path, self._forward)
        for path in ("/health", "/v1/models"):
            app.router.add_get(path, self._get)
        return app

    async def _get(self, http: web.Request) -> web.Response:
        async with self._session.get(self._decode + http.path) as answer:
            return web.Response(
                status=answer.status, body=await answer.read(), content_type=answer.content_type
            )

    async def _forward(self, http: web.Request) -> web.StreamResponse:
        body: dict[str, Any] = await http.json()
        first = {key: value for key, value in body.items() if key != "stream_options"}
        first |= {"max_tokens": 1, "stream": False, _PARAMS: _ASKED}
        async with self._session.post(self._prefill + http.path, json=first) as answer:
            if answer.status != 200:
                return web.Response(status=answer.status, body=await answer.read())
            params = (await answer.json())[_PARAMS]
        if not self._forgets:
            body |= {_PARAMS: params}
        async with self._session.post(self._decode + http.path, json=body) as answer:
            response = web.StreamResponse(
                status=answer.status, headers={"Content-Type": answer.headers["Content-Type"]}
            )
            await response.prepare(http)
            async for data in answer.content.iter_any():
                await response.write(data)
            await response.write_eof()
            return response
