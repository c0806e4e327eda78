"""``/admin/faults``: plan faults, look at them, withdraw them. For who has the key."""

from __future__ import annotations

import hmac

import msgspec
from aiohttp import web

from pd_testkit.engine import openai
from pd_testkit.engine.faults import KINDS, Faults, parse
from pd_testkit.engine.openai import Refused
from pd_testkit.engine.replies import json_reply

PATH = "/admin/faults"


class _Plan(msgspec.Struct):
    fault: str


def add_faults_routes(router: web.UrlDispatcher, faults: Faults, key: str) -> None:
    """GET tells of all, POST plans ``{"fault": "KIND=ARG,count=N"}``, DELETE withdraws all, or
    those of ``?kind=KIND``."""
    expected = b"Bearer " + key.encode()

    def check(http: web.Request) -> None:
        given = http.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, expected):
            raise Refused(401, "faults are planned with the admin key as bearer token")

    def told() -> web.Response:
        return json_reply({"faults": faults.told(), "fired": faults.fired()})

    async def show(http: web.Request) -> web.Response:
        check(http)
        return told()

    async def plan(http: web.Request) -> web.Response:
        check(http)
        asked = openai.decode(await http.read(), _Plan)
        try:
            faults.add(parse(asked.fault))
        except ValueError as wrong:
            raise Refused(400, str(wrong), "fault") from None
        return told()

    async def withdraw(http: web.Request) -> web.Response:
        check(http)
        kind = http.query.get("kind")
        if kind is not None and kind not in KINDS:
            raise Refused(400, f"{kind!r} is no fault; choose of {', '.join(KINDS)}", "kind")
        faults.clear(kind)
        return told()

    router.add_get(PATH, show)
    router.add_post(PATH, plan)
    router.add_delete(PATH, withdraw)
