"""Planted bugs that the router clauses catch."""

from __future__ import annotations

from .mutant import Mutant
from .router_streams import HAND_OVERS, MASSES, STREAMS, router_mutant

_TRIES = (
    router_mutant(
        "001 002 003",
        "route",
        "if self._passing or self.retries == self._router",
        "if self._passing or self.retries > self._router",
        "there is one retry more than the flag says",
    ),
    router_mutant(
        "001 002 007 008 009 010 011",
        "router",
        "self.settings = settings = settings or Settings()",
        'self.settings = settings = __import__("dataclasses").replace('
        "settings or Settings(), retries=0, breaker_threshold=1000)",
        "the flags for retries and breakers are read and not obeyed, as by vllm-router 0.1.17",
    ),
    router_mutant(
        "001",
        "route",
        "            return self._retry(prefill, now) or self._end(answer)\n",
        "            return self._end(answer)\n",
        "a P's 503 is the client's, though there are other P",
    ),
    router_mutant(
        "002",
        "route",
        "            retry = self._retry(decode, now)\n",
        "            retry = None\n",
        "a D's 503 is the client's, though there are other D",
    ),
    router_mutant(
        "003",
        "route",
        "if self._passing or self.retries == self._router.settings.retries:",
        "if self._passing or self.retries == (self._router.settings.retries or 2):",
        "no retries are the default number of retries",
    ),
    router_mutant(
        "004",
        "route",
        "        if 400 <= answer.status < 500:\n",
        "        if answer.status == 400:\n",
        "what P says of the request is taken for a fault of P's",
    ),
    router_mutant(
        "004",
        "route",
        "        elif 400 <= status < 500:\n",
        "        elif status == 400:\n",
        "what D says of the request is taken for a fault of D's",
    ),
    router_mutant(
        "005",
        "exchange",
        "            self._give_up(status, message, now)  # it was started: nothing is retried\n",
        "            self._route._passing, head = 0, self._head\n"
        "            self._follow(retry(now), now)\n"
        "            self._head = head\n",
        "a stream that broke is begun again on another D",
    ),
    router_mutant(
        "006",
        "route",
        "        return self._retry(self._asked, now) or self._end(\n            error(502,",
        "        return self._elsewhere(now) or self._retry(self._asked, now) or self._end(\n"
        "            error(502,",
        "a D that died is replaced on the same KV: vllm-project/vllm-ascend#14980",
    ),
)

_BREAKERS = (
    router_mutant(
        "011 016",
        "breaker",
        "        if self._failures >= self._threshold:\n",
        "        if self._failures > self._threshold:\n",
        "the breaker opens one failure late",
    ),
    router_mutant(
        "012",
        "breaker",
        "        self._failures = 0\n        self.retry_at = self._probe = None\n\n    def failed",
        "        self.retry_at = self._probe = None\n\n    def failed",
        "failures are counted for good, not in a row",
    ),
    router_mutant(
        "013",
        "route",
        "        if 400 <= answer.status < 500:\n            prefill.breaker.succeeded()\n",
        "        if 400 <= answer.status < 500:\n            prefill.breaker.failed(now)\n",
        "a client's mistakes open the breaker of P",
    ),
    router_mutant(
        "013",
        "route",
        "        pinned = self.kind",
        "        self._attempt.decode.breaker.failed(now)\n        pinned = self.kind",
        "a client that leaves is a failure of D's",
    ),
    router_mutant(
        "014",
        "breaker",
        "(now >= self.retry_at and self._probe is None)",
        "now >= self.retry_at",
        "an engine that may have come back gets all requests at once",
    ),
    router_mutant(
        "014 015",
        "breaker",
        "return self.retry_at is None or (now >= self.retry_at and self._probe is None)",
        "return self.retry_at is None",
        "an engine that was left alone once is never tried again",
    ),
    router_mutant(
        "015",
        "breaker",
        "            self.retry_at = now + self._cool_down_s\n",
        "            self.retry_at = self.retry_at or now + self._cool_down_s\n",
        "after the first cool-down there is none any more",
    ),
    router_mutant(
        "016",
        "router",
        "            and instance.breaker.allows(now)\n",
        "            and (instance.breaker.allows(now) or leg == 'decode')\n",
        "the breaker of the only engine is passed over",
    ),
)

_INSTANCES = (
    router_mutant(
        "017",
        "instances",
        "        instances[engine.url] = Instance(engine, protocol, breaker, now)\n",
        "        instances[engine.url] = Instance(engine, protocol, breaker, now)\n"
        '        other = "decode" if engine.leg == "prefill" else "prefill"\n'
        "        self._instances[other].pop(engine.url, None)\n",
        "engines are known by their URL alone, as by vllm-router 0.1.17",
    ),
    router_mutant(
        "018",
        "instances",
        "        self._instances[leg].pop(url, None)\n",
        "        for each in self._instances.values():\n            each.pop(url, None)\n",
        "an engine that leaves as D is forgotten as P, too",
    ),
    router_mutant(
        "018 019",
        "instances",
        "        self._instances[leg].pop(url, None)\n",
        "        self._instances[leg].get(url)\n",
        "an engine that has left gets requests",
    ),
    router_mutant(
        "020",
        "instances",
        "            if not instance.engine.static and now - instance.seen_at > self._lifetime_s\n",
        "            if not instance.engine.static and now < instance.seen_at\n",
        "an engine whose heartbeats ceased is kept for ever",
    ),
    router_mutant(
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
    router_mutant(
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
    router_mutant(
        "022",
        "admin",
        'any(up.values()) if mode == "aggregated" else all(up.values())',
        "any(up.values())",
        "a P alone makes the proxy ready",
    ),
    router_mutant(
        "022 023",
        "admin",
        '    "/liveness": _liveness,\n',
        '    "/liveness": _health,\n',
        "a proxy that waits for its engines is restarted",
    ),
    router_mutant(
        "023",
        "admin",
        'instance["well"] and instance["breaker"]',
        'instance["breaker"]',
        "readiness knows of failed requests only",
    ),
    router_mutant(
        "023 024 025",
        "health",
        "                instance.misses = 0 if lives else instance.misses + 1\n",
        "                instance.misses = 0\n",
        "engines are asked how they are, and nobody listens",
    ),
    router_mutant(
        "024 025",
        "health",
        "                instance.misses = 0 if lives else instance.misses + 1\n",
        "                instance.misses += not lives\n",
        "an engine that was ill is ill for ever",
    ),
    router_mutant(
        "025",
        "router",
        "            and self._well(instance)\n",
        "",
        "the health of an engine is shown and not minded",
    ),
    router_mutant(
        "025",
        "health",
        "self._lives = head.status < 500",
        "self._lives = True",
        "an engine that says that it is not well is well, since it speaks: smg-project/smg#2382",
    ),
    router_mutant(
        "026",
        "admin",
        "        if self._answers:\n",
        "        if self._answers > 1:\n",
        "one dead engine takes the models of all others along",
    ),
    router_mutant(
        "026",
        "admin",
        'self._models.setdefault(model["id"], model)',
        "self._models.setdefault(str(len(self._models)), model)",
        "each engine's model is another one",
    ),
)

_CALLERS = (
    router_mutant(
        "027",
        "router",
        "headers={name: headers[name] for name in _FORWARDED_HEADERS if name in headers}",
        'headers=self.__dict__.setdefault("_sent", {"authorization": '
        'headers.get("authorization", "")})',
        "the first client's key is used for everybody",
    ),
    router_mutant(
        "027",
        "router",
        '_FORWARDED_HEADERS = ("authorization", "traceparent"',
        '_FORWARDED_HEADERS = ("traceparent"',
        "the client's key stays with the proxy, as with vllm-router 0.1.17",
    ),
    router_mutant(
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

MUTANTS: tuple[Mutant, ...] = (
    *_TRIES,
    *_BREAKERS,
    *_INSTANCES,
    *_HEALTH,
    *_CALLERS,
    *HAND_OVERS,
    *STREAMS,
    *MASSES,
)
