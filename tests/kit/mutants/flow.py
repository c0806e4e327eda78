"""Planted bugs that the flow clauses catch."""

from __future__ import annotations

from .mutant import Mutant


def _mutant(clauses: str, module: str, old: str, new: str, bug: str) -> Mutant:
    ids = tuple(f"FLOW-{number}" for number in clauses.split())
    return Mutant(ids, f"proxy.{module}", old, new, bug)


_LEGS = (
    _mutant(
        "001",
        "exchange",
        "        self._make(route.call, now)\n",
        "        self._make(route.call, now)\n"
        "        early, body = route._attempt.decode.engine.url, _encode(route.call.body)\n"
        "        server.pool.send(early, route.call.path, {}, body, Farewell(None))\n",
        "D is asked together with P",
    ),
    _mutant(
        "002",
        "protocols",
        "params = {**hand_off,",
        'params = {**{k: v for k, v in hand_off.items() if k[:2] != "x_"},',
        "what the proxy does not know of P's hand-off is dropped, as in ROCm/ATOM#253",
    ),
    _mutant(
        "002",
        "protocols",
        "params = {**hand_off,",
        'params = {**hand_off, "x_numbers": {**hand_off["x_numbers"], "address": float(2**64)},',
        "64-bit addresses go through floats",
    ),
    _mutant(
        "003",
        "protocols",
        '    body["max_tokens"] = 1\n',
        '    body["max_tokens"] = 1\n    body.pop("seed", None)\n',
        "P samples by another seed than D",
    ),
    _mutant(
        "003",
        "protocols",
        '    body["stream"] = False\n',
        "",
        "P streams when the client does: vllm-project/production-stack#971",
    ),
    _mutant(
        "004",
        "protocols",
        'return {**wanted, "kv_transfer_params"',
        'return {**wanted, "max_tokens": wanted["max_tokens"] - 1, "kv_transfer_params"',
        "the token that P has computed is taken off D's, as in ROCm/ATOM#253",
    ),
    _mutant(
        "005",
        "router",
        'Call("prefill", p, request.path,',
        'Call("prefill", p, PATHS[0],',
        "P is asked at the completions path whatever the client asked, as in ROCm/ATOM#253",
    ),
    _mutant(
        "006",
        "settings",
        "max_body_bytes: int = 32 * 2**20",
        "max_body_bytes: int = 2**16",
        "a body may have 64 KiB, a web framework's default",
    ),
    _mutant(
        "007",
        "protocols",
        'for name in ("max_completion_tokens", "n"):',
        'for name in ("max_completion_tokens",):',
        "P computes all choices: vllm-project/vllm#38900",
    ),
    _mutant(
        "008 011",
        "upstream",
        "if error is None and self._ends_with_connection():",
        "if False:",
        "an answer without a length is a broken one",
    ),
)

_STREAMS = (
    _mutant(
        "009",
        "exchange",
        "        elif not self._held():\n",
        "        elif False:\n",
        "the stream is collected, and sent when it is whole",
    ),
    _mutant(
        "010",
        "exchange",
        "data = self._framed(body)\n",
        'data = self._framed(body.replace(b"\\r\\n", b"\\n"))\n',
        "line ends are made uniform",
    ),
    _mutant(
        "012",
        "protocols",
        'return {**wanted, "kv_transfer_params"',
        'return {**wanted, "stream_options": None, "kv_transfer_params"',
        "D is not asked for the usage that the client wants",
    ),
    _mutant(
        "013",
        "exchange",
        "if name not in OWN_FIELDS and name not in own\n",
        'if name == "retry-after"\n',
        "D's header fields are lost, as in ROCm/ATOM#253",
    ),
    _mutant(
        "013",
        "exchange",
        " and name not in own\n",
        "\n",
        "what D's Connection field names is passed on",
    ),
    _mutant(
        "025",
        "exchange",
        ' and "content-length" not in self._head.headers:',
        ":",
        "an error event fills a broken answer up to its length",
    ),
    _mutant(
        "014",
        "router",
        '_FORWARDED_HEADERS = ("authorization",',
        '_FORWARDED_HEADERS = ("accept-encoding", "authorization",',
        "P is told that the client takes gzip, and its packed answer is no JSON",
    ),
    _mutant(
        "015",
        "exchange",
        "            self._connection.pause()\n",
        "            self.abandon()\n",
        "a client that reads slowly is cut off",
    ),
)

_FAILURES = (
    _mutant(
        "016",
        "route",
        "            prefill.breaker.succeeded()\n            return self._end(answer)\n",
        '            return self._end(error(500, "prefill failed"))\n',
        "every error of P is an internal one: vllm-project/vllm-ascend#8893",
    ),
    _mutant(
        "016",
        "exchange",
        'b"".join(self._body),\n            head.headers.get("content-type", ""),',
        'b"".join(self._body),\n            "application/json",',
        "every answer is called JSON, as in ROCm/ATOM#253",
    ),
    _mutant(
        "017",
        "exchange",
        "            head.status,\n            head.headers.get(",
        "            200,\n            head.headers.get(",
        "D's failure is a 200: vllm-project/vllm-ascend#12166",
    ),
    _mutant(
        "018 019",
        "route",
        'error(502, f"the {self.call.leg} engine is gone")',
        "Response(200)",
        "a dead engine is an empty 200",
    ),
    _mutant(
        "020 021",
        "upstream",
        "waited > self._pool.read_timeout_s",
        "waited > 6 * 6000 * 6000",
        "the proxy waits 60 000 hours for an engine, as in ROCm/ATOM#253",
    ),
    _mutant(
        "020 021",
        "route",
        'error(504, f"the {self.call.leg} engine does not answer")',
        'error(500, f"the {self.call.leg} engine does not answer")',
        "a timeout is an internal error",
    ),
    _mutant(
        "023",
        "upstream",
        "        self._since = monotonic()\n        self._heard = True\n",
        "        self._heard = True\n",
        "the read timeout is one for the whole answer",
    ),
    _mutant(
        "024",
        "upstream",
        "waited > self._pool.connect_timeout_s",
        "waited > 3600",
        "a connect has the operating system's patience",
    ),
    _mutant(
        "026",
        "exchange",
        "            self._give_up(status, message, now)  # it was started",
        "            self._send_whole(now)  # it was started",
        "what came before the connection broke is taken for the answer",
    ),
    _mutant(
        "027",
        "exchange",
        "        self._broken(502, ",
        "        [each.abandon() for each in tuple(self._server._exchanges)]\n"
        "        self._broken(502, ",
        "a broken connection takes down all exchanges",
    ),
    _mutant(
        "028",
        "route",
        "self._retry(prefill, now) or self._end(answer)",
        "self._end(Response(200))",
        "a failed prefill is an empty 200",
    ),
    _mutant(
        "029",
        "route",
        "return self._elsewhere(now) or self.lost(now)",
        "return self._retry(self._asked, now) or self.lost(now)",
        "where a D refuses, all begins anew, and P is not told of the blocks that it keeps",
    ),
    _mutant(
        "030 031",
        "upstream",
        "            self._origins.pop(origin.url, None)\n",
        "            origin.port = 0\n",
        "an engine that has closed its last connection is taken for gone: sgl-project/sglang#9926",
    ),
    _mutant(
        "022 025",
        "exchange",
        "framing.event(refusal.body)",
        'b"data: [DONE]\\n\\n"',
        "a stream that broke ends as a whole one",
    ),
)

_DEPARTURES = (
    _mutant(
        "032",
        "exchange",
        "            else:\n                connection.cancel()\n",
        "",
        "D is not told that the client has left",
    ),
    _mutant(
        "033",
        "exchange",
        "hand_over(Farewell(connection), now + ",
        "hand_over(Farewell(connection), now + 3600.0 + ",
        "D computes its answer for a client that has left",
    ),
    _mutant(
        "034",
        "exchange",
        "            else:\n                connection.cancel()\n",
        "            else:\n                self._see_off(connection, now + 3600)\n",
        "P's answer to a client that has left is thrown away: ai-dynamo/dynamo#13855",
    ),
    _mutant(
        "035",
        "exchange",
        'if self._call.leg == "prefill" and self._head is not None:',
        "if False:",
        "P is hung up on while it hands its blocks over: ai-dynamo/dynamo#7489",
    ),
    _mutant(
        "036",
        "downstream",
        "            self._body.append(body)\n",
        "            self._body.append(body)\n            self.on_message_complete()\n",
        "the first piece of a body is taken for all of it",
    ),
)

_MISTAKES = (
    _mutant(
        "037",
        "messages",
        "    headers = {} if retry_after is None else",
        "    headers = {} if True else",
        "a 503 does not say when to come again",
    ),
    _mutant(
        "038",
        "router",
        'error(400, "the body is no JSON object")',
        'error(500, "the body is no JSON object")',
        "the client's mistake is an internal error, as in ROCm/ATOM#253",
    ),
    _mutant(
        "039",
        "downstream",
        "        if self._size > self._server.max_body_bytes:\n",
        "        if False:\n",
        "a body whose length is not told has no limit",
    ),
    _mutant(
        "039",
        "downstream",
        "        self._closing_at = self._server.now() + LINGER_S\n",
        "        self.abort()\n        return\n",
        "a refusal resets the connection before the client has read it",
    ),
    _mutant(
        "040",
        "admin",
        "        return error(404, ",
        '        return Response(404, b"<h1>Not Found</h1>", "text/html") or (',
        "a page of HTML, as in ROCm/ATOM#253",
    ),
    _mutant(
        "041",
        "admin",
        'headers={"allow": allowed}',
        "headers={}",
        "a 405 does not say what is allowed",
    ),
    _mutant(
        "042",
        "downstream",
        'self._refuse(error(400, "this is no valid HTTP request"))',
        'self._server.draining = self._refuse(error(400, "")) is None',
        "a port scan stops the proxy",
    ),
)

_CONNECTIONS = (
    _mutant(
        "043",
        "downstream",
        "request.keep_alive = self._parser.should_keep_alive()",
        "request.keep_alive = False",
        "each request takes a connection of its own",
    ),
    _mutant(
        "044",
        "downstream",
        "        if refusal is not None:\n",
        '        if self._fields.get("transfer-encoding"):\n'
        '            refusal = error(411, "how long is it?")\n'
        "        if refusal is not None:\n",
        "a body needs a length",
    ),
    _mutant(
        "045",
        "framing",
        "HTTP/1.1 100 Continue\\r\\n",
        "HTTP/1.1 417 Expectation Failed\\r\\n",
        "the expectation is refused",
    ),
    _mutant(
        "046",
        "router",
        '_FORWARDED_HEADERS = ("authorization",',
        "_FORWARDED_HEADERS = (",
        "the client's credentials are dropped: vllm-project/vllm-ascend#15250",
    ),
    _mutant(
        "046",
        "router",
        'client_id=headers.get("x-request-id", "")',
        'client_id=""',
        "the client's request id is dropped",
    ),
    _mutant(
        "047",
        "router",
        "headers={name: headers[name] for name in _FORWARDED_HEADERS if name in headers}",
        'headers={k: v for k, v in headers.items() if k[:7] != "content"}',
        "all of the client's headers are passed on",
    ),
)

_CROWD = (
    _mutant(
        "048",
        "route",
        "body = decode_body(self._request.body, pair, hand_off)",
        "first = vars(self._router).setdefault('first', self._request.body)\n"
        "            body = decode_body(first, pair, hand_off)",
        "the first request's body is kept where all requests find it",
    ),
    _mutant(
        "049 050",
        "policies",
        "        return min(candidates, key=_turn)\n",
        "        return candidates[0]\n",
        "the first engine serves every request",
    ),
    _mutant(
        "051",
        "router",
        "            for instance in self.registry.instances(leg)\n            if",
        "            for instance in vars(self).setdefault(leg, self.registry.instances(leg))\n"
        "            if",
        "the list of engines is read once",
    ),
)

MUTANTS: tuple[Mutant, ...] = (
    *_LEGS,
    *_STREAMS,
    *_FAILURES,
    *_DEPARTURES,
    *_MISTAKES,
    *_CONNECTIONS,
    *_CROWD,
)
