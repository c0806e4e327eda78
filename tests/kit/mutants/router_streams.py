"""Planted bugs in how answers, and the hand-overs before them, are carried."""

from __future__ import annotations

from .mutant import Mutant


def router_mutant(clauses: str, module: str, old: str, new: str, bug: str) -> Mutant:
    ids = tuple(f"RTR-{number}" for number in clauses.split())
    return Mutant(ids, f"proxy.{module}", old, new, bug)


HAND_OVERS = (
    router_mutant(
        "029",
        "route",
        "            self._give_back(now)\n            retry = self._retry(decode, now)\n",
        "            retry = self._retry(decode, now)\n",
        "P is not told of a D that refused",
    ),
    router_mutant(
        "030",
        "route",
        "        self._give_back(now)\n"
        "        return self._retry(self._asked, now) or self._end(\n            error(502,",
        "        return self._retry(self._asked, now) or self._end(\n            error(502,",
        "P is not told of a D that died",
    ),
    router_mutant(
        "031",
        "route",
        "        self._give_back(now)\n"
        "        return self._retry(self._asked, now) or self._end(\n            error(504,",
        "        return self._retry(self._asked, now) or self._end(\n            error(504,",
        "P is not told of a D that was given up",
    ),
    router_mutant(
        "032",
        "route",
        "            if not self._begun:\n",
        "            if False:\n",
        "a D's status is taken for the word that it has the KV",
    ),
    router_mutant(
        "033",
        "route",
        "            prefill.breaker.succeeded()\n            return self._end(answer)\n",
        "            self._release(prefill)\n"
        "            wanted, decode = self._request, attempt.decode.engine\n"
        '            self.call = Call("decode", decode, wanted.path, {}, wanted.body)\n'
        "            return self.call\n",
        "D is asked for what P refused, and waits for its KV: sgl-project/sglang#36108",
    ),
)

STREAMS = (
    router_mutant(
        "034",
        "exchange",
        "        if self._chunked:\n            data += framing.LAST_CHUNK\n",
        "        if self._chunked:\n"
        "            if not self._events.complete:\n"
        '                data += framing.chunk(b"data: [DONE]\\n\\n")\n'
        "            data += framing.LAST_CHUNK\n",
        "a stream that lacks its end gets one",
    ),
    router_mutant(
        "035",
        "exchange",
        "        self._look_on(body)\n        return framing.chunk",
        "        self._look_on(body)\n"
        "        if self._events is not None and self._events._failed:\n"
        '            return b""\n'
        "        return framing.chunk",
        "an error in a stream is the end of it, without a word",
    ),
    router_mutant(
        "044",
        "exchange",
        "        data = self._framed(body)\n",
        '        over = b"data: [DONE]" in self._events._tail\n'
        '        data = b"" if over else self._framed(body)\n',
        "a stream is over when [DONE] was seen, as in sglang-router 0.3.2",
    ),
    router_mutant(
        "036",
        "completeness",
        "return not self._failed and self._tail",
        "return self._tail",
        "a stream with an error in it is a success",
    ),
    router_mutant(
        "036",
        "completeness",
        "return not self._failed and self._tail.rstrip().endswith(_DONE)",
        "return not self._failed",
        "a stream without its end is a success",
    ),
    router_mutant(
        "036",
        "exchange",
        'self._end("broken", self._head.status, now)',
        'self._end("ok", self._head.status, now)',
        "a stream that broke is a success, since its status was 200",
    ),
    router_mutant(
        "037",
        "exchange",
        "        if not done:\n            self._client.send(data)\n",
        "        if not done:\n"
        "            self._body.append(data)\n"
        "            if len(self._body) > self._server.in_flight // 10:\n"
        '                self._client.send(b"".join(self._body))\n'
        "                self._body.clear()\n",
        "chunks are gathered when there are many streams",
    ),
    router_mutant(
        "038",
        "exchange",
        "        self._passed += len(body)\n        self._look_on",
        '        body = body.replace(b"\\r\\n", b"\\n")\n'
        "        self._passed += len(body)\n        self._look_on",
        "the ends of lines are made alike",
    ),
    router_mutant(
        "038",
        "exchange",
        "        self._passed += len(body)\n        self._look_on",
        '        body = body.replace(b": keep-alive\\n\\n", b"")\n'
        "        self._passed += len(body)\n        self._look_on",
        "comments, which keep the connection alive, are dropped",
    ),
)

MASSES = (
    router_mutant(
        "039",
        "server",
        "self.max_body_bytes = settings.max_body_bytes",
        "self.max_body_bytes = min(settings.max_body_bytes, 2**20)",
        "the limit is that of a server's default",
    ),
    router_mutant(
        "040 041",
        "exchange",
        "            self._connection.pause()\n",
        "            self._connection.resume()\n",
        "whatever D says is kept until its client reads",
    ),
    router_mutant(
        "042",
        "settings",
        "max_in_flight: int = 4096",
        "max_in_flight: int = 512",
        "a limit made for something else refuses half of the streams",
    ),
    router_mutant(
        "043",
        "downstream",
        "    def pause_writing(self) -> None:\n",
        "    def eof_received(self) -> bool:\n        return True\n\n"
        "    def pause_writing(self) -> None:\n",
        "the connection of a client that has gone is kept until it was idle for long",
    ),
)
