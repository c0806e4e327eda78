"""Planted bugs that the router clauses catch."""

from __future__ import annotations

from .mutant import Mutant


def _mutant(clauses: str, module: str, old: str, new: str, bug: str) -> Mutant:
    ids = tuple(f"RTR-{number}" for number in clauses.split())
    return Mutant(ids, f"proxy.{module}", old, new, bug)


_TRIES = (
    _mutant(
        "001 002 003",
        "route",
        "if self._passing or self.retries == self._router",
        "if self._passing or self.retries > self._router",
        "there is one retry more than the flag says",
    ),
    _mutant(
        "001 002 007 008 009 010 011",
        "router",
        "self.settings = settings = settings or Settings()",
        'self.settings = settings = __import__("dataclasses").replace('
        "settings or Settings(), retries=0, breaker_threshold=1000)",
        "the flags for retries and breakers are read and not obeyed, as by vllm-router 0.1.17",
    ),
    _mutant(
        "001",
        "route",
        "            return self._retry(prefill, now) or self._end(answer)\n",
        "            return self._end(answer)\n",
        "a P's 503 is the client's, though there are other P",
    ),
    _mutant(
        "002",
        "route",
        "            retry = self._retry(decode, now)\n",
        "            retry = None\n",
        "a D's 503 is the client's, though there are other D",
    ),
    _mutant(
        "003",
        "route",
        "if self._passing or self.retries == self._router.settings.retries:",
        "if self._passing or self.retries == (self._router.settings.retries or 2):",
        "no retries are the default number of retries",
    ),
    _mutant(
        "004",
        "route",
        "        if 400 <= answer.status < 500:\n",
        "        if answer.status == 400:\n",
        "what P says of the request is taken for a fault of P's",
    ),
    _mutant(
        "004",
        "route",
        "        elif 400 <= status < 500:\n",
        "        elif status == 400:\n",
        "what D says of the request is taken for a fault of D's",
    ),
    _mutant(
        "005",
        "exchange",
        "            self._give_up(status, message, now)  # it was started: nothing is retried\n",
        "            self._route._passing, head = 0, self._head\n"
        "            self._follow(retry(now), now)\n"
        "            self._head = head\n",
        "a stream that broke is begun again on another D",
    ),
    _mutant(
        "006",
        "route",
        "        return self._retry(self._asked, now) or self._end(\n            error(502,",
        "        return self._elsewhere(now) or self._retry(self._asked, now) or self._end(\n"
        "            error(502,",
        "a D that died is replaced on the same KV: vllm-project/vllm-ascend#14980",
    ),
)

_BREAKERS = (
    _mutant(
        "011 016",
        "breaker",
        "        if self._failures >= self._threshold:\n",
        "        if self._failures > self._threshold:\n",
        "the breaker opens one failure late",
    ),
    _mutant(
        "012",
        "breaker",
        "        self._failures = 0\n        self.retry_at = self._probe = None\n\n    def failed",
        "        self.retry_at = self._probe = None\n\n    def failed",
        "failures are counted for good, not in a row",
    ),
    _mutant(
        "013",
        "route",
        "        if 400 <= answer.status < 500:\n            prefill.breaker.succeeded()\n",
        "        if 400 <= answer.status < 500:\n            prefill.breaker.failed(now)\n",
        "a client's mistakes open the breaker of P",
    ),
    _mutant(
        "013",
        "route",
        "        pinned = self.kind",
        "        self._attempt.decode.breaker.failed(now)\n        pinned = self.kind",
        "a client that leaves is a failure of D's",
    ),
    _mutant(
        "014",
        "breaker",
        "(now >= self.retry_at and self._probe is None)",
        "now >= self.retry_at",
        "an engine that may have come back gets all requests at once",
    ),
    _mutant(
        "014 015",
        "breaker",
        "return self.retry_at is None or (now >= self.retry_at and self._probe is None)",
        "return self.retry_at is None",
        "an engine that was left alone once is never tried again",
    ),
    _mutant(
        "015",
        "breaker",
        "            self.retry_at = now + self._cool_down_s\n",
        "            self.retry_at = self.retry_at or now + self._cool_down_s\n",
        "after the first cool-down there is none any more",
    ),
    _mutant(
        "016",
        "router",
        "            and instance.breaker.allows(now)\n",
        "            and (instance.breaker.allows(now) or leg == 'decode')\n",
        "the breaker of the only engine is passed over",
    ),
)

_INSTANCES = (
    _mutant(
        "017",
        "instances",
        "        instances[engine.url] = Instance(engine, protocol, breaker, now)\n",
        "        instances[engine.url] = Instance(engine, protocol, breaker, now)\n"
        '        other = "decode" if engine.leg == "prefill" else "prefill"\n'
        "        self._instances[other].pop(engine.url, None)\n",
        "engines are known by their URL alone, as by vllm-router 0.1.17",
    ),
    _mutant(
        "018",
        "instances",
        "        self._instances[leg].pop(url, None)\n",
        "        for each in self._instances.values():\n            each.pop(url, None)\n",
        "an engine that leaves as D is forgotten as P, too",
    ),
    _mutant(
        "018 019",
        "instances",
        "        self._instances[leg].pop(url, None)\n",
        "        self._instances[leg].get(url)\n",
        "an engine that has left gets requests",
    ),
    _mutant(
        "020",
        "instances",
        "            if not instance.engine.static and now - instance.seen_at > self._lifetime_s\n",
        "            if not instance.engine.static and now < instance.seen_at\n",
        "an engine whose heartbeats ceased is kept for ever",
    ),
    _mutant(
        "020",
        "instances",
        "        known = instances.get(engine.url)\n",
        "        known = instances.get(engine.url)\n"
        '        first = self.__dict__.setdefault("_first", {}).setdefault(engine.url, now)\n'
        "        if now - first > self._lifetime_s:\n"
        "            return False\n"
        "        now = first\n",
        "an engine that goes on beating is dropped all the same",
    ),
    _mutant(
        "021",
        "server",
        "        if self.router.registry.register(engine, self.now()):\n",
        '        seen = self.__dict__.setdefault("_seen", set())\n'
        "        there = {known.url for known in self.router.registry.engines(engine.leg)}\n"
        "        if engine.url in seen - there:\n"
        "            return\n"
        "        seen.add(engine.url)\n"
        "        if self.router.registry.register(engine, self.now()):\n",
        "an engine that was lost once is never taken in again",
    ),
)

_HEALTH = (
    _mutant(
        "022",
        "admin",
        'any(up.values()) if mode == "aggregated" else all(up.values())',
        "any(up.values())",
        "a P alone makes the proxy ready",
    ),
    _mutant(
        "022 023",
        "admin",
        '    "/liveness": _liveness,\n',
        '    "/liveness": _health,\n',
        "a proxy that waits for its engines is restarted",
    ),
    _mutant(
        "023",
        "admin",
        'instance["well"] and instance["breaker"]',
        'instance["breaker"]',
        "readiness knows of failed requests only",
    ),
    _mutant(
        "023 024 025",
        "health",
        "                instance.misses = 0 if lives else instance.misses + 1\n",
        "                instance.misses = 0\n",
        "engines are asked how they are, and nobody listens",
    ),
    _mutant(
        "024 025",
        "health",
        "                instance.misses = 0 if lives else instance.misses + 1\n",
        "                instance.misses += not lives\n",
        "an engine that was ill is ill for ever",
    ),
    _mutant(
        "025",
        "router",
        "            and self._well(instance)\n",
        "",
        "the health of an engine is shown and not minded",
    ),
    _mutant(
        "025",
        "health",
        "self._lives = head.status < 500",
        "self._lives = True",
        "an engine that says that it is not well is well, since it speaks: smg-project/smg#2382",
    ),
    _mutant(
        "026",
        "admin",
        "        if self._answers:\n",
        "        if self._answers > 1:\n",
        "one dead engine takes the models of all others along",
    ),
    _mutant(
        "026",
        "admin",
        'self._models.setdefault(model["id"], model)',
        "self._models.setdefault(str(len(self._models)), model)",
        "each engine's model is another one",
    ),
)

_CALLERS = (
    _mutant(
        "027",
        "router",
        "headers={name: headers[name] for name in _FORWARDED_HEADERS if name in headers}",
        'headers=self.__dict__.setdefault("_sent", {"authorization": '
        'headers.get("authorization", "")})',
        "the first client's key is used for everybody",
    ),
    _mutant(
        "027",
        "router",
        '_FORWARDED_HEADERS = ("authorization", "traceparent"',
        '_FORWARDED_HEADERS = ("traceparent"',
        "the client's key stays with the proxy, as with vllm-router 0.1.17",
    ),
    _mutant(
        "028",
        "server",
        "        refusal = admin.admit(request.path, request.method)\n",
        "        refusal = admin.admit(request.path, request.method)\n"
        "        if refusal is not None:\n"
        '            url = self.router.registry.engines("prefill")[0].url\n'
        "            sink = admin._ModelsCall(None)\n"
        "            sink.lost = lambda: None\n"
        "            self.pool.send(url, request.path, {}, None, sink, request.method)\n",
        "what the proxy does not know goes to an engine, as with vllm-router 0.1.17",
    ),
)

_HAND_OVERS = (
    _mutant(
        "029",
        "route",
        "            self._give_back(now)\n            retry = self._retry(decode, now)\n",
        "            retry = self._retry(decode, now)\n",
        "P is not told of a D that refused",
    ),
    _mutant(
        "030",
        "route",
        "        self._give_back(now)\n"
        "        return self._retry(self._asked, now) or self._end(\n            error(502,",
        "        return self._retry(self._asked, now) or self._end(\n            error(502,",
        "P is not told of a D that died",
    ),
    _mutant(
        "031",
        "route",
        "        self._give_back(now)\n"
        "        return self._retry(self._asked, now) or self._end(\n            error(504,",
        "        return self._retry(self._asked, now) or self._end(\n            error(504,",
        "P is not told of a D that was given up",
    ),
    _mutant(
        "032",
        "route",
        "            if not self._begun:\n",
        "            if False:\n",
        "a D's status is taken for the word that it has the KV",
    ),
    _mutant(
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

_STREAMS = (
    _mutant(
        "034",
        "exchange",
        "        if self._chunked:\n            data += framing.LAST_CHUNK\n",
        "        if self._chunked:\n"
        "            if not self._events.complete:\n"
        '                data += framing.chunk(b"data: [DONE]\\n\\n")\n'
        "            data += framing.LAST_CHUNK\n",
        "a stream that lacks its end gets one",
    ),
    _mutant(
        "035",
        "exchange",
        "        self._look_on(body)\n        return framing.chunk",
        "        self._look_on(body)\n"
        "        if self._events is not None and self._events._failed:\n"
        '            return b""\n'
        "        return framing.chunk",
        "an error in a stream is the end of it, without a word",
    ),
    _mutant(
        "044",
        "exchange",
        "        data = self._framed(body)\n",
        '        over = b"data: [DONE]" in self._events._tail\n'
        '        data = b"" if over else self._framed(body)\n',
        "a stream is over when [DONE] was seen, as in sglang-router 0.3.2",
    ),
    _mutant(
        "036",
        "completeness",
        "return not self._failed and self._tail",
        "return self._tail",
        "a stream with an error in it is a success",
    ),
    _mutant(
        "036",
        "completeness",
        "return not self._failed and self._tail.rstrip().endswith(_DONE)",
        "return not self._failed",
        "a stream without its end is a success",
    ),
    _mutant(
        "036",
        "exchange",
        'self._end("broken", self._head.status, now)',
        'self._end("ok", self._head.status, now)',
        "a stream that broke is a success, since its status was 200",
    ),
    _mutant(
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
    _mutant(
        "038",
        "exchange",
        "        self._passed += len(body)\n        self._look_on",
        '        body = body.replace(b"\\r\\n", b"\\n")\n'
        "        self._passed += len(body)\n        self._look_on",
        "the ends of lines are made alike",
    ),
    _mutant(
        "038",
        "exchange",
        "        self._passed += len(body)\n        self._look_on",
        '        body = body.replace(b": keep-alive\\n\\n", b"")\n'
        "        self._passed += len(body)\n        self._look_on",
        "comments, which keep the connection alive, are dropped",
    ),
)

_MASSES = (
    _mutant(
        "039",
        "server",
        "self.max_body_bytes = settings.max_body_bytes",
        "self.max_body_bytes = min(settings.max_body_bytes, 2**20)",
        "the limit is that of a server's default",
    ),
    _mutant(
        "040 041",
        "exchange",
        "            self._connection.pause()\n",
        "            self._connection.resume()\n",
        "whatever D says is kept until its client reads",
    ),
    _mutant(
        "042",
        "settings",
        "max_in_flight: int = 4096",
        "max_in_flight: int = 512",
        "a limit made for something else refuses half of the streams",
    ),
    _mutant(
        "043",
        "downstream",
        "    def pause_writing(self) -> None:\n",
        "    def eof_received(self) -> bool:\n        return True\n\n"
        "    def pause_writing(self) -> None:\n",
        "the connection of a client that has gone is kept until it was idle for long",
    ),
)

MUTANTS: tuple[Mutant, ...] = (
    *_TRIES,
    *_BREAKERS,
    *_INSTANCES,
    *_HEALTH,
    *_CALLERS,
    *_HAND_OVERS,
    *_STREAMS,
    *_MASSES,
)
