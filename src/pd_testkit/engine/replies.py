"""Replies of JSON, and errors in OpenAI's form, whatever raised them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from pd_testkit.engine import answers
from pd_testkit.engine.openai import Refused

REQUEST_ID = "X-Request-Id"

_log = logging.getLogger(__name__)

encode = msgspec.json.Encoder().encode


def json_reply(told: Any, status: int = 200) -> web.Response:
    """The body is ``told``."""
    return web.Response(body=encode(told), status=status, content_type="application/json")


def error_reply(status: int, message: str, param: str | None = None) -> web.Response:
    """An error; one that may pass says when to come again."""
    reply = json_reply(answers.error(status, message, param), status)
    if status == 503:
        reply.headers["Retry-After"] = "1"
    return reply


@web.middleware
async def errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Says what is wrong as JSON, and echoes the request's id."""
    reply: web.StreamResponse
    try:
        reply = await handler(request)
    except Refused as refused:
        reply = error_reply(refused.status, str(refused), refused.param)
    except web.HTTPException as error:
        reply = error_reply(error.status, f"{request.method} {request.path}: {error.reason}")
        if "Allow" in error.headers:
            reply.headers["Allow"] = error.headers["Allow"]
    except ConnectionError:  # the client is gone
        raise
    except Exception as error:
        _log.exception("a request failed")
        reply = error_reply(500, f"the engine failed: {type(error).__name__}")
    if not reply.prepared and REQUEST_ID in request.headers:
        reply.headers[REQUEST_ID] = request.headers[REQUEST_ID]
    return reply
