"""Planted bugs that the clauses of the unit `proxy` catch."""

from __future__ import annotations

from .mutant import Mutant


def _mutant(clauses: str, old: str, new: str, bug: str) -> Mutant:
    return Mutant(tuple(f"PRX-{number}" for number in clauses.split()), "proxy", old, new, bug)


_REGISTRY = (
    _mutant(
        "001 002",
        "            return False\n",
        "            return True\n",
        "every heartbeat is a new registration",
    ),
    _mutant(
        "002",
        "heartbeat: int = field(default=0, compare=False)",
        "heartbeat: int = 0",
        "the sequence number is part of the record",
    ),
    _mutant(
        "003",
        "self._engines[engine.leg][engine.url] = engine",
        'self._engines[engine.leg][f"{engine}"] = engine',
        "the whole record is the key, so a restarted engine is listed twice",
    ),
    _mutant(
        "004",
        "        if self._engines[engine.leg].get(engine.url) == engine:\n",
        "        if self._engines[engine.leg].pop(engine.url, None) == engine and False:\n",
        "a heartbeat moves the engine to the end of the rotation",
    ),
    _mutant(
        "005",
        'prefillers, decoders = self.engines("prefill"), self.engines("decode")',
        'prefillers = decoders = self.engines("prefill") + self.engines("decode")',
        "one list of engines for both legs",
    ),
    _mutant(
        "006 007",
        "        if modes - {engine.transfer_mode}:\n",
        "        if False:\n",
        "the transfer mode is not compared",
    ),
    _mutant(
        "007",
        "        address(engine.url)\n        others",
        "        self._engines[engine.leg][engine.url] = engine\n        others",
        "the engine is taken in before its transfer mode is compared, as in ROCm/ATOM#253",
    ),
    _mutant(
        "008 009 010",
        "        if not prefillers or not decoders:\n            return error(503,",
        "        if not prefillers or not decoders:\n            return error(500,",
        "a proxy without engines calls it an internal error",
    ),
    _mutant(
        "009",
        "        if not prefillers or not decoders:\n",
        "        if not prefillers:\n",
        "only the P instances are counted",
    ),
    _mutant(
        "010",
        "        if not prefillers or not decoders:\n",
        "        if not decoders:\n",
        "only the D instances are counted",
    ),
)

_ROUTING = (
    _mutant(
        "011",
        "prefillers[self._turn % len(prefillers)]",
        "prefillers[self._turn % len(decoders) % len(prefillers)]",
        "the P index is taken modulo the number of D",
    ),
    _mutant(
        "012",
        "decoders[self._turn % len(decoders)]",
        "decoders[self._turn % len(prefillers) % len(decoders)]",
        "the D index is taken modulo the number of P",
    ),
    _mutant(
        "011 012 013 014",
        "        self._turn += 1\n",
        "",
        "the first engine serves every request",
    ),
    _mutant(
        "013",
        "        return tuple(self._engines[leg].values())\n",
        "        return tuple(self._engines[leg].values())[:2]\n",
        "the rotation was built at the start, and engines that join later are left out",
    ),
    _mutant(
        "014",
        "        self._engines[leg].pop(url, None)\n",
        "",
        "an engine that left stays in the rotation",
    ),
    _mutant(
        "015",
        "turn = self._dp_turns.get(prefiller.url, 0)",
        "turn = self._turn",
        "the DP rank follows the request counter that also picks the engine: "
        "the index aliasing of vllm-project/vllm#46115",
    ),
    _mutant(
        "016",
        "str(turn % prefiller.dp_size)",
        "str(turn % 8)",
        "the DP rank is taken modulo D's DP size",
    ),
    _mutant(
        "015 016",
        "str(turn % prefiller.dp_size)",
        "str(1 + turn % prefiller.dp_size)",
        "DP ranks are counted from one",
    ),
    _mutant(
        "017",
        "        if not prefillers or not decoders:\n",
        "        if self._turn or not prefillers or not decoders:\n",
        "the first request holds the engines for ever",
    ),
    _mutant(
        "018",
        "_decode=Call(decoder.url, path,",
        '_decode=Call(decoder.url, "/v1/completions",',
        "D is asked at the completions path whatever the client asked, as in ROCm/ATOM#253",
    ),
    _mutant(
        "018",
        "                prefiller.url, path, shared",
        '                prefiller.url, "/v1/completions", shared',
        "P is asked at the completions path whatever the client asked",
    ),
)

_ADDRESSES = (
    _mutant(
        "019 020 021",
        "    return parts.hostname, parts.port\n",
        "    return parts.netloc, parts.port\n",
        "the host keeps its port",
    ),
    _mutant(
        "020 021",
        "    if not parts.hostname or not parts.port:\n",
        "    if not parts.port or not (parts.hostname or '').replace('.', '').isdigit():\n",
        "only IPv4 addresses are hosts, as in ROCm/ATOM#253",
    ),
    _mutant(
        "021",
        "    parts = urlsplit(url)\n",
        "    parts = urlsplit(url.replace('[', '').replace(']', ''))\n",
        "the host ends at the first colon",
    ),
    _mutant(
        "022",
        "    if not parts.hostname or not parts.port:\n",
        "    if not parts.hostname:\n",
        "a missing port is no mistake",
    ),
    _mutant(
        "022",
        "    if not parts.hostname or not parts.port:\n",
        "    if not parts.port:\n",
        "a missing host is no mistake",
    ),
    _mutant(
        "023",
        "    if not parts.hostname or not parts.port:\n",
        "    if not parts.hostname or parts.port is None:\n",
        "port 0 is a port",
    ),
)

_PREFILL = (
    _mutant(
        "024",
        '    body["max_tokens"] = 1\n',
        '    body.setdefault("max_tokens", 1)\n',
        "P is asked for all of the client's tokens",
    ),
    _mutant(
        "025",
        '    body["stream"] = False\n',
        "",
        "P streams when the client does: vllm-project/production-stack#971",
    ),
    _mutant(
        "026",
        'for name in ("max_completion_tokens", "n"):',
        'for name in ("n",):',
        "max_completion_tokens is not capped: llm-d/llm-d-router#400",
    ),
    _mutant(
        "027",
        '    "min_tokens",\n',
        "",
        "min_tokens stays next to max_tokens=1: vllm-project/vllm#16705",
    ),
    _mutant(
        "028",
        '    "stream_options",\n',
        "",
        "stream_options stay without a stream: llm-d/llm-d-routing-sidecar#8",
    ),
    _mutant(
        "029",
        'for name in ("max_completion_tokens", "n"):',
        'for name in ("max_completion_tokens",):',
        "P computes n choices",
    ),
    _mutant("030", '    "best_of",\n', "", "P computes best_of siblings"),
    _mutant("031", '    "top_logprobs",\n', "", "logprobs are dropped, top_logprobs are not"),
    _mutant(
        "032",
        '    body["max_tokens"] = 1\n',
        '    body["max_tokens"] = 1\n'
        '    if isinstance(body.get("prompt"), list):\n'
        '        body["prompt"] = body["prompt"][0]\n',
        "P gets the first of a list of prompts",
    ),
    _mutant(
        "032",
        'body={**self._decode.body, "kv_transfer_params": params}',
        'body={**self._decode.body, "kv_transfer_params": params,'
        ' "prompt": str(self._decode.body.get("prompt")) + " P"}',
        "P's token is appended to D's prompt: vllm-project/vllm#50558",
    ),
    _mutant(
        "033",
        "    body = {name: value for name, value in wanted.items() if name not in "
        "_DROPPED_ON_PREFILL}\n",
        '    known = ("model", "prompt", "messages", "max_completion_tokens", "n")\n'
        "    body = {name: wanted[name] for name in known if name in wanted}\n",
        "P gets the fields that the proxy knows",
    ),
    _mutant(
        "034",
        '{"do_remote_decode": True, "do_remote_prefill": False}',
        '{"do_remote_decode": False, "do_remote_prefill": False}',
        "P is not told that a D will come for the KV",
    ),
    _mutant(
        "034",
        '{"do_remote_decode": True, "do_remote_prefill": False}',
        '{"do_remote_decode": True, "do_remote_prefill": True}',
        "P is told to fetch what it shall compute",
    ),
    _mutant(
        "035",
        "    body = {name: value for name, value in wanted.items() if name not in "
        "_DROPPED_ON_PREFILL}\n",
        "    body = wanted\n    for name in _DROPPED_ON_PREFILL:\n        body.pop(name, None)\n",
        "the client's body is rewritten in place",
    ),
)

_DECODE = (
    _mutant(
        "036 037 038",
        "_decode=Call(decoder.url, path, shared, wanted),",
        '_decode=Call(decoder.url, path, shared, {**wanted, "max_tokens": '
        'wanted["max_tokens"] - 1}),',
        "P's token is counted as the client's, as in ROCm/ATOM#253",
    ),
    _mutant(
        "036 038",
        "_decode=Call(decoder.url, path, shared, wanted),",
        '_decode=Call(decoder.url, path, shared, {**wanted, "max_tokens": 0}),',
        "D gets the cap that was meant for P, less one",
    ),
    _mutant(
        "037",
        "_decode=Call(decoder.url, path, shared, wanted),",
        '_decode=Call(decoder.url, path, shared, {"max_tokens": 0, **wanted}),',
        "a missing max_tokens is restored as zero: vllm-project/production-stack#797",
    ),
    _mutant(
        "036 039 040",
        "_decode=Call(decoder.url, path, shared, wanted),",
        "_decode=Call(decoder.url, path, shared, prefill_body(wanted)),",
        "D gets P's body",
    ),
    _mutant(
        "041 042",
        "params = {**hand_off,",
        "params = {",
        "P's answer is not threaded to D: a silent recompute",
    ),
    _mutant(
        "041",
        'params = {**hand_off, "do_remote_prefill"',
        'params = {**hand_off, "remote_block_ids": sorted(hand_off.get("remote_block_ids", [])),'
        ' "do_remote_prefill"',
        "block ids are sorted on the way",
    ),
    _mutant(
        "042",
        "params = {**hand_off,",
        "params = {**{name: value for name, value in hand_off.items()"
        ' if name.startswith(("remote_", "transfer_"))},',
        "only the fields that the proxy knows are threaded, as in ROCm/ATOM#253",
    ),
    _mutant(
        "043",
        '"do_remote_prefill": True, "do_remote_decode": False}\n',
        '"do_remote_prefill": False, "do_remote_decode": True}\n',
        "D gets P's flags",
    ),
    _mutant(
        "044",
        "        hand_off = said.get",
        "        said = globals().setdefault('_first', said)\n        hand_off = said.get",
        "a hand-off is kept for the next request",
    ),
    _mutant(
        "045",
        'params = {**hand_off, "do_remote_prefill"',
        'params = {**hand_off, "dp_rank": 0, "do_remote_prefill"',
        "D's DP rank overwrites P's: ai-dynamo/dynamo#9936",
    ),
    _mutant(
        "046",
        "        if not isinstance(hand_off, dict) or not hand_off:\n",
        "        hand_off = hand_off or {}\n        if not isinstance(said, dict):\n",
        "a prefill without a hand-off goes on to D: vllm-project/router#2",
    ),
    _mutant(
        "046",
        "        if not isinstance(hand_off, dict) or not hand_off:\n",
        "        if not isinstance(hand_off, dict):\n",
        "an empty hand-off is one",
    ),
    _mutant(
        "047",
        "        if not isinstance(hand_off, dict) or not hand_off:\n",
        "        if not isinstance(said, dict):\n"
        "            return self._decode\n"
        "        if not isinstance(hand_off, dict) or not hand_off:\n",
        "a prefill answer that cannot be parsed is skipped",
    ),
)

_IDENTITY = (
    _mutant(
        "048 049 050",
        '        shared["x-request-id"] = headers.get("x-request-id") or self._new_id()\n',
        "",
        "no request id is sent",
    ),
    _mutant(
        "048",
        "_decode=Call(decoder.url, path, shared, wanted),",
        '_decode=Call(decoder.url, path, shared | {"x-request-id": self._new_id()}, wanted),',
        "each leg draws an id of its own: vllm-project/vllm#34907",
    ),
    _mutant(
        "049",
        "new_id: Callable[[], str] = lambda: uuid.uuid4().hex",
        'new_id: Callable[[], str] = lambda: "request"',
        "all requests share an id",
    ),
    _mutant(
        "050",
        'headers.get("x-request-id") or self._new_id()',
        "self._new_id()",
        "the client's request id is thrown away, as in ROCm/ATOM#253",
    ),
    _mutant(
        "051",
        '("authorization", "traceparent"',
        '("traceparent"',
        "the client's credentials are dropped: vllm-project/vllm-ascend#15250",
    ),
    _mutant(
        "052",
        "        shared = {name",
        '        shared = {"authorization": "Bearer None"} | {name',
        "the key of an unset environment variable is sent, as in ROCm/ATOM#253",
    ),
    _mutant(
        "053",
        "params = {**hand_off,",
        'params = {**self._decode.body.get("kv_transfer_params", {}), **hand_off,',
        "the client's hand-off is merged into P's",
    ),
    _mutant(
        "053",
        '    body["kv_transfer_params"] = {"do',
        '    body["kv_transfer_params"] = {**wanted.get("kv_transfer_params", {}), "do',
        "the client's parameters reach P",
    ),
)

_FAILURES = (
    _mutant(
        "054 055",
        "            return answer\n",
        '            return error(500, "prefill failed")\n',
        "every failure of P is an internal error: vllm-project/vllm-ascend#8893",
    ),
    _mutant(
        "055",
        "            return answer\n",
        "            return Response(answer.status)\n",
        "P's error body is lost",
    ),
    _mutant(
        "056",
        "        if not 200 <= answer.status < 300:\n            return answer\n",
        "        if not 200 <= answer.status < 300:\n            return self._decode\n",
        "D is asked although P failed",
    ),
    _mutant(
        "057",
        "        return Response(answer.status, answer.body, answer.content_type)\n",
        "        return Response(200, answer.body, answer.content_type)\n",
        "D's failure is a 200: vllm-project/vllm-ascend#12166",
    ),
    _mutant(
        "058 065 066",
        "        return Response(answer.status, answer.body, answer.content_type)\n",
        '        return Response(answer.status, b"", answer.content_type)\n',
        "D's body is lost: vllm-project/vllm#54140",
    ),
    _mutant(
        "059 060 064",
        '        return error(502, f"the {leg} engine is gone")\n',
        "        return Response(200)\n",
        "a dead engine is an empty 200",
    ),
    _mutant(
        "061",
        '        return error(502, f"the {leg} engine is gone")\n',
        "        Proxy.start = lambda *_: error(502, 'gone')\n"
        '        return error(502, f"the {leg} engine is gone")\n',
        "a dead connection is kept for the requests to come: sgl-project/sglang#9926",
    ),
    _mutant(
        "062",
        "timeout_s: float = 600.0",
        "timeout_s: float = 6 * 6000 * 6000",
        "the proxy waits 60 000 hours for an engine, as in ROCm/ATOM#253",
    ),
    _mutant(
        "063",
        '            return error(400, "the body is no JSON object")\n',
        '            return error(500, "the body is no JSON object")\n',
        "the client's mistake is an internal error, as in ROCm/ATOM#253",
    ),
    _mutant(
        "063",
        "        if not isinstance(wanted, Mapping):\n",
        "        wanted = wanted or {}\n        if not isinstance(wanted, Mapping):\n",
        "an empty body is an empty request",
    ),
    _mutant(
        "064",
        '    return Response(status, json.dumps({"error": details}).encode())\n',
        "    return Response(status, message.encode())\n",
        "errors are plain text, as in ROCm/ATOM#253",
    ),
)

_ANSWERS = (
    _mutant(
        "065",
        "        return Response(answer.status, answer.body, answer.content_type)\n",
        "        return Response(answer.status, json.dumps(_json(answer.body)).encode())\n",
        "the answer is parsed and encoded again",
    ),
    _mutant(
        "066",
        "        return Response(answer.status, answer.body, answer.content_type)\n",
        '        return Response(answer.status, answer.body.removesuffix(b"data: [DONE]\\n\\n"))\n',
        "the stream's end is lost: vllm-project/production-stack#952",
    ),
    _mutant(
        "067",
        "        return Response(answer.status, answer.body, answer.content_type)\n",
        "        return Response(answer.status, answer.body)\n",
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
