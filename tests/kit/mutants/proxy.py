"""Planted bugs that the clauses of the unit `proxy` catch."""

from __future__ import annotations

from .mutant import Mutant


def _mutant(clauses: str, module: str, old: str, new: str, bug: str) -> Mutant:
    ids = tuple(f"PRX-{number}" for number in clauses.split())
    return Mutant(ids, f"proxy.{module}", old, new, bug)


_REGISTRY = (
    _mutant(
        "001 002",
        "instances",
        "            return False\n",
        "            return True\n",
        "every heartbeat is a new registration",
    ),
    _mutant(
        "002",
        "instances",
        "heartbeat: int = field(default=0, compare=False)",
        "heartbeat: int = 0",
        "the sequence number is part of the record",
    ),
    _mutant(
        "003",
        "instances",
        "instances[engine.url] = Instance(",
        'instances[f"{engine}"] = Instance(',
        "the whole record is the key, so a restarted engine is listed twice",
    ),
    _mutant(
        "004",
        "instances",
        "        known = instances.get(engine.url)\n",
        "        known = instances.pop(engine.url, None)\n"
        "        if known is not None:\n"
        "            instances[engine.url] = known\n",
        "a heartbeat moves the engine to the end of the rotation",
    ),
    _mutant(
        "005",
        "router",
        '        decoders = self._available("decode", tried, now)\n',
        '        decoders = prefillers + self._available("decode", tried, now)\n'
        "        prefillers = decoders\n",
        "one list of engines for both legs",
    ),
    _mutant(
        "006 007",
        "instances",
        "        if modes - {engine.transfer_mode}:\n",
        "        if False:\n",
        "the transfer mode is not compared",
    ),
    _mutant(
        "007",
        "instances",
        "        modes = {other",
        "        instances[engine.url] = Instance(\n"
        "            engine, protocol, Breaker(5, 10.0), now\n"
        "        )\n"
        "        modes = {other",
        "the engine is taken in before its transfer mode is compared, as in ROCm/ATOM#253",
    ),
    _mutant(
        "008 009 010",
        "router",
        "        return error(\n            503,\n",
        "        return error(\n            500,\n",
        "a proxy without engines calls it an internal error",
    ),
    _mutant(
        "009",
        "router",
        "        decode, prefill = self._pair(request, prefillers, decoders)\n",
        "        decode, prefill = self._pair(request, prefillers, decoders or prefillers)\n",
        "where there is no D, a P takes its part",
    ),
    _mutant(
        "010",
        "router",
        "        if prefill is None:\n            return self._nobody(prefillers, decoders, now)\n",
        "        if prefill is None:\n"
        '            return self._alone("direct", request, decode, turn)\n',
        "where there is no P, D computes the prompt",
    ),
)

_ROUTING = (
    _mutant(
        "011",
        "router",
        "self._policy.choose(partners, request.key)",
        "self._policy.choose(partners[: len(decoders)], request.key)",
        "the P index is taken modulo the number of D",
    ),
    _mutant(
        "012",
        "router",
        "        candidates = decoders.copy()\n",
        "        candidates = decoders[: len(prefillers)]\n",
        "the D index is taken modulo the number of P",
    ),
    _mutant(
        "011 012 013 014",
        "router",
        "        self._turn += 1\n",
        "",
        "the first engine serves every request",
    ),
    _mutant(
        "013",
        "instances",
        "        return list(self._instances[leg].values())\n",
        "        return list(self._instances[leg].values())[:2]\n",
        "the rotation was built at the start, and engines that join later are left out",
    ),
    _mutant(
        "014",
        "instances",
        "        self._instances[leg].pop(url, None)\n",
        "",
        "an engine that left stays in the rotation",
    ),
    _mutant(
        "015",
        "instances",
        "        rank = self.dp_turn % self.engine.dp_size\n",
        "        rank = self.turn % self.engine.dp_size\n",
        "the DP rank follows the request counter that also picks the engine: "
        "the index aliasing of vllm-project/vllm#46115",
    ),
    _mutant(
        "016",
        "instances",
        "        rank = self.dp_turn % self.engine.dp_size\n",
        "        rank = self.dp_turn % 8\n",
        "the DP rank is taken modulo D's DP size",
    ),
    _mutant(
        "015 016",
        "instances",
        "        return rank\n",
        "        return rank + 1\n",
        "DP ranks are counted from one",
    ),
    _mutant(
        "017",
        "router",
        "        if decode is None:\n",
        "        if decode is None or self._turn:\n",
        "the first request holds the engines for ever",
    ),
    _mutant(
        "018",
        "route",
        '            "decode", attempt.decode.engine, self._request.path,',
        '            "decode", attempt.decode.engine, "/v1/completions",',
        "D is asked at the completions path whatever the client asked, as in ROCm/ATOM#253",
    ),
    _mutant(
        "018",
        "router",
        'Call("prefill", p, request.path,',
        'Call("prefill", p, "/v1/completions",',
        "P is asked at the completions path whatever the client asked",
    ),
)

_ADDRESSES = (
    _mutant(
        "019 020 021",
        "instances",
        "    return parts.hostname, parts.port\n",
        "    return parts.netloc, parts.port\n",
        "the host keeps its port",
    ),
    _mutant(
        "020 021",
        "instances",
        "    if not parts.hostname or not parts.port:\n",
        "    if not parts.port or not (parts.hostname or '').replace('.', '').isdigit():\n",
        "only IPv4 addresses are hosts, as in ROCm/ATOM#253",
    ),
    _mutant(
        "021",
        "instances",
        "    parts = urlsplit(url)\n",
        "    parts = urlsplit(url.replace('[', '').replace(']', ''))\n",
        "the host ends at the first colon",
    ),
    _mutant(
        "022",
        "instances",
        "    if not parts.hostname or not parts.port:\n",
        "    if not parts.hostname:\n",
        "a missing port is no mistake",
    ),
    _mutant(
        "022",
        "instances",
        "    if not parts.hostname or not parts.port:\n",
        "    if not parts.port:\n",
        "a missing host is no mistake",
    ),
    _mutant(
        "023",
        "instances",
        "    if not parts.hostname or not parts.port:\n",
        "    if not parts.hostname or parts.port is None:\n",
        "port 0 is a port",
    ),
)

_PREFILL = (
    _mutant(
        "024",
        "protocols",
        '    body["max_tokens"] = 1\n',
        '    body.setdefault("max_tokens", 1)\n',
        "P is asked for all of the client's tokens",
    ),
    _mutant(
        "025",
        "protocols",
        '    body["stream"] = False\n',
        "",
        "P streams when the client does: vllm-project/production-stack#971",
    ),
    _mutant(
        "026",
        "protocols",
        'for name in ("max_completion_tokens", "n"):',
        'for name in ("n",):',
        "max_completion_tokens is not capped: llm-d/llm-d-router#400",
    ),
    _mutant(
        "027",
        "protocols",
        '        "min_tokens",\n',
        "",
        "min_tokens stays next to max_tokens=1: vllm-project/vllm#16705",
    ),
    _mutant(
        "028",
        "protocols",
        '        "stream_options",\n',
        "",
        "stream_options stay without a stream: llm-d/llm-d-routing-sidecar#8",
    ),
    _mutant(
        "029",
        "protocols",
        'for name in ("max_completion_tokens", "n"):',
        'for name in ("max_completion_tokens",):',
        "P computes n choices",
    ),
    _mutant("030", "protocols", '        "best_of",\n', "", "P computes best_of siblings"),
    _mutant(
        "031",
        "protocols",
        '        "top_logprobs",\n',
        "",
        "logprobs are dropped, top_logprobs are not",
    ),
    _mutant(
        "032",
        "protocols",
        '    body["max_tokens"] = 1\n',
        '    body["max_tokens"] = 1\n'
        '    if isinstance(body.get("prompt"), list):\n'
        '        body["prompt"] = body["prompt"][0]\n',
        "P gets the first of a list of prompts",
    ),
    _mutant(
        "032",
        "protocols",
        '{**wanted, "kv_transfer_params": params}',
        '{**wanted, "kv_transfer_params": params, "prompt": f"{wanted.get(\'prompt\')} P"}',
        "P's token is appended to D's prompt: vllm-project/vllm#50558",
    ),
    _mutant(
        "033",
        "protocols",
        "    body = {name: value for name, value in wanted.items() if name not in "
        "_DROPPED_ON_PREFILL}\n",
        '    known = ("model", "prompt", "messages", "max_completion_tokens", "n")\n'
        "    body = {name: wanted[name] for name in known if name in wanted}\n",
        "P gets the fields that the proxy knows",
    ),
    _mutant(
        "034",
        "protocols",
        '"do_remote_decode": True,\n',
        '"do_remote_decode": False,\n',
        "P is not told that a D will come for the KV",
    ),
    _mutant(
        "034",
        "protocols",
        '"do_remote_prefill": False,\n',
        '"do_remote_prefill": True,\n',
        "P is told to fetch what it shall compute",
    ),
    _mutant(
        "035",
        "protocols",
        "    body = {name: value for name, value in wanted.items() if name not in "
        "_DROPPED_ON_PREFILL}\n",
        "    body = wanted\n    for name in _DROPPED_ON_PREFILL:\n        body.pop(name, None)\n",
        "the client's body is rewritten in place",
    ),
)

_DECODE = (
    _mutant(
        "036 037 038",
        "protocols",
        '{**wanted, "kv_transfer_params": params}',
        '{**wanted, "kv_transfer_params": params, "max_tokens": wanted["max_tokens"] - 1}',
        "P's token is counted as the client's, as in ROCm/ATOM#253",
    ),
    _mutant(
        "036 038",
        "protocols",
        '{**wanted, "kv_transfer_params": params}',
        '{**wanted, "kv_transfer_params": params, "max_tokens": 0}',
        "D gets the cap that was meant for P, less one",
    ),
    _mutant(
        "037",
        "protocols",
        '{**wanted, "kv_transfer_params": params}',
        '{"max_tokens": 0, **wanted, "kv_transfer_params": params}',
        "a missing max_tokens is restored as zero: vllm-project/production-stack#797",
    ),
    _mutant(
        "036 039 040",
        "protocols",
        '{**wanted, "kv_transfer_params": params}',
        '{**prefill_body(wanted, pair), "kv_transfer_params": params}',
        "D gets P's body",
    ),
    _mutant(
        "041 042",
        "protocols",
        "params = {**hand_off,",
        "params = {",
        "P's answer is not threaded to D: a silent recompute",
    ),
    _mutant(
        "041",
        "protocols",
        'params = {**hand_off, "do_remote_prefill"',
        'params = {**hand_off, "remote_block_ids": sorted(hand_off.get("remote_block_ids", [])),'
        ' "do_remote_prefill"',
        "block ids are sorted on the way",
    ),
    _mutant(
        "042",
        "protocols",
        "params = {**hand_off,",
        "params = {**{name: value for name, value in hand_off.items()"
        ' if name.startswith(("remote_", "transfer_"))},',
        "only the fields that the proxy knows are threaded, as in ROCm/ATOM#253",
    ),
    _mutant(
        "043",
        "protocols",
        '"do_remote_prefill": True, "do_remote_decode": False}\n',
        '"do_remote_prefill": False, "do_remote_decode": True}\n',
        "D gets P's flags",
    ),
    _mutant(
        "044",
        "route",
        "            body = decode_body(",
        "            hand_off = globals().setdefault('_first', hand_off)\n"
        "            body = decode_body(",
        "a hand-off is kept for the next request",
    ),
    _mutant(
        "045",
        "protocols",
        'params = {**hand_off, "do_remote_prefill"',
        'params = {**hand_off, "dp_rank": 0, "do_remote_prefill"',
        "D's DP rank overwrites P's: ai-dynamo/dynamo#9936",
    ),
    _mutant(
        "045",
        "protocols",
        'rank = hand_off.get("dp_rank", pair.dp_rank)',
        "rank = pair.dp_rank",
        "D is sent to the rank that P was asked for, not to the one that prefilled",
    ),
    _mutant(
        "046",
        "protocols",
        "            raise NoHandOff\n",
        "            return wanted\n",
        "a prefill without a hand-off goes on to D: vllm-project/router#2",
    ),
    _mutant(
        "046",
        "protocols",
        "    if not isinstance(hand_off, dict) or not hand_off:\n",
        "    if not isinstance(hand_off, dict):\n",
        "an empty hand-off is one",
    ),
    _mutant(
        "047",
        "route",
        "        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, NoHandOff):\n",
        "        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):\n"
        "            body = self._request.body\n"
        "        except NoHandOff:\n",
        "a prefill answer that cannot be parsed is skipped",
    ),
)

_IDENTITY = (
    _mutant(
        "048 049 050",
        "router",
        '    headers = {**request.headers, "x-request-id": name}\n',
        "    headers = {**request.headers}\n",
        "no request id is sent",
    ),
    _mutant(
        "048",
        "router",
        "decode_headers=_headers(request, name, d_rank)",
        "decode_headers=_headers(request, self._new_id(), d_rank)",
        "each leg draws an id of its own: vllm-project/vllm#34907",
    ),
    _mutant(
        "049",
        "router",
        "new_id: Callable[[], str] = lambda: os.urandom(16).hex()",
        'new_id: Callable[[], str] = lambda: "request"',
        "all requests share an id",
    ),
    _mutant(
        "050",
        "router",
        'client_id=headers.get("x-request-id", "")',
        'client_id=""',
        "the client's request id is thrown away, as in ROCm/ATOM#253",
    ),
    _mutant(
        "051",
        "router",
        '("authorization", "traceparent"',
        '("traceparent"',
        "the client's credentials are dropped: vllm-project/vllm-ascend#15250",
    ),
    _mutant(
        "052",
        "router",
        '    headers = {**request.headers, "x-request-id": name}\n',
        '    headers = {"authorization": "Bearer None", **request.headers, "x-request-id": name}\n',
        "the key of an unset environment variable is sent, as in ROCm/ATOM#253",
    ),
    _mutant(
        "053",
        "protocols",
        "params = {**hand_off,",
        'params = {**wanted.get("kv_transfer_params", {}), **hand_off,',
        "the client's hand-off is merged into P's",
    ),
    _mutant(
        "053",
        "protocols",
        '        body["kv_transfer_params"] = _prefill_params(pair)\n',
        '        body["kv_transfer_params"] = {\n'
        '            **wanted.get("kv_transfer_params", {}),\n'
        "            **_prefill_params(pair),\n"
        "        }\n",
        "the client's parameters reach P",
    ),
)

_FAILURES = (
    _mutant(
        "054 055",
        "route",
        "            return self._end(answer)\n        if not 200",
        '            return self._end(error(500, "prefill failed"))\n        if not 200',
        "every failure of P is an internal error: vllm-project/vllm-ascend#8893",
    ),
    _mutant(
        "055",
        "route",
        "            return self._retry(prefill, now) or self._end(answer)\n",
        "            return self._retry(prefill, now) or self._end(Response(answer.status))\n",
        "P's error body is lost",
    ),
    _mutant(
        "056",
        "route",
        "            return self._retry(prefill, now) or self._end(answer)\n",
        "            return Call(\n"
        '                "decode",\n'
        "                attempt.decode.engine,\n"
        "                self._request.path,\n"
        "                attempt.decode_headers,\n"
        "                self._request.body,\n"
        "            )\n",
        "D is asked although P failed",
    ),
    _mutant(
        "059 060 064",
        "route",
        '            error(502, f"the {self.call.leg} engine is gone")\n',
        "            Response(200)\n",
        "a dead engine is an empty 200",
    ),
    _mutant(
        "061",
        "breaker",
        "        if self._failures >= self._threshold:\n",
        "        if self._failures:\n",
        "one failure and the engine gets no more requests: sgl-project/sglang#9926",
    ),
    _mutant(
        "062",
        "settings",
        "read_timeout_s: float = 600.0",
        "read_timeout_s: float = 6 * 6000 * 6000",
        "the proxy waits 60 000 hours for an engine, as in ROCm/ATOM#253",
    ),
    _mutant(
        "063",
        "router",
        '            return error(400, "the body is no JSON object")\n',
        '            return error(500, "the body is no JSON object")\n',
        "the client's mistake is an internal error, as in ROCm/ATOM#253",
    ),
    _mutant(
        "063",
        "router",
        "        if not isinstance(wanted, Mapping):\n",
        '        wanted = wanted or {"model": "m"}\n        if not isinstance(wanted, Mapping):\n',
        "an empty body is an empty request",
    ),
    _mutant(
        "064",
        "messages",
        'msgspec.json.encode({"error": details})',
        "message.encode()",
        "errors are plain text, as in ROCm/ATOM#253",
    ),
)

# Who carries the bytes passes D's answer on; here that is the driver.
_PASSED = "route.started(answer.status, _NOW) or answer\n"


def _passing(clauses: str, answer: str, bug: str) -> Mutant:
    ids = tuple(f"PRX-{number}" for number in clauses.split())
    return Mutant(
        ids, "targets.reference_proxy", _PASSED, _PASSED.replace("or answer", f"or {answer}"), bug
    )


_ANSWERS = (
    _passing(
        "057",
        "Response(200, answer.body, answer.content_type)",
        "D's failure is a 200: vllm-project/vllm-ascend#12166",
    ),
    _passing(
        "058 065 066",
        'Response(answer.status, b"", answer.content_type)',
        "D's body is lost: vllm-project/vllm#54140",
    ),
    _passing(
        "065",
        "Response(answer.status, json.dumps(json.loads(answer.body)).encode())",
        "the answer is parsed and encoded again",
    ),
    _passing(
        "066",
        'Response(answer.status, answer.body.removesuffix(b"data: [DONE]\\n\\n"))',
        "the stream's end is lost: vllm-project/production-stack#952",
    ),
    _passing(
        "067",
        "Response(answer.status, answer.body)",
        "every answer is called JSON, as in ROCm/ATOM#253",
    ),
)

MUTANTS: tuple[Mutant, ...] = (
    *_REGISTRY,
    *_ROUTING,
    *_ADDRESSES,
    *_PREFILL,
    *_DECODE,
    *_IDENTITY,
    *_FAILURES,
    *_ANSWERS,
)
