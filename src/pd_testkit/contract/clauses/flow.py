"""The proxy as a server, with real engines behind it. Clauses FLOW."""

from __future__ import annotations

from pd_testkit.contract.capabilities import Capability
from pd_testkit.contract.clause import Clause, Layer

_READ = frozenset({Capability.READ_MODE})
_JOINING = frozenset({Capability.JOINING})
_COME_AND_GO = frozenset({Capability.JOINING, Capability.UNREGISTER})


def _clause(
    number: str,
    statement: str,
    reason: str,
    *evidence: str,
    needs: frozenset[Capability] = frozenset(),
) -> Clause:
    return Clause(f"FLOW-{number}", statement, reason, evidence, needs, Layer.L2)


_LEGS = (
    _clause(
        "001",
        "D is asked when P has answered, while other requests go on.",
        "D is sent to KV that is not there yet, or one slow prefill holds up everybody.",
        needs=_READ,
    ),
    _clause(
        "002",
        "P's hand-off reaches D over the wire verbatim, whatever its values.",
        "A 64-bit address that went through a float, or a dropped field, is a read of other KV.",
        "vllm-project/vllm#27083",
        needs=_READ,
    ),
    _clause(
        "003",
        "P gets the client's body for one token, with every other field's value as it came.",
        "P computes the KV of another prompt, or under another seed, salt or adapter than D.",
        needs=_READ,
    ),
    _clause(
        "004",
        "D gets the client's body and the hand-off, and nothing else is changed or added.",
        "The answer is another one than without P/D.",
    ),
    _clause(
        "005",
        "Completions and chat completions both flow through P and D, each on its own path.",
        "Chat clients get a 404, or an answer without the chat template.",
        "llm-d/llm-d-router#1461",
    ),
    _clause(
        "006",
        "A prompt of half a megabyte and more reaches both engines whole.",
        "Long contexts, for which P/D is made, are refused or cut by a default of the server's.",
    ),
    _clause(
        "007",
        "A request for several choices is prefilled once, and all of them come back.",
        "The siblings recompute the prompt, or their blocks are never released.",
        "vllm-project/vllm#38900",
        needs=_READ,
    ),
    _clause(
        "008",
        "P's answer is read whole, with a length, in chunks or up to the connection's end.",
        "A gateway in front of P changes the framing, and every request fails.",
        needs=_READ,
    ),
)

_STREAMS = (
    _clause(
        "009",
        "Each chunk of D's stream reaches the client before D has made the next one.",
        "A buffered stream: the first token comes with the last one.",
    ),
    _clause(
        "010",
        "A stream is passed byte for byte, wherever the network has cut it.",
        "Events that are cut within a character are lost or spoilt.",
        "vllm-project/production-stack#952",
    ),
    _clause(
        "011",
        "D's answer is passed whole, with a length, in chunks or up to the connection's end.",
        "The client hangs for bytes that never come, or takes half an answer for a whole one.",
    ),
    _clause(
        "012",
        "The usage in D's answer, cached tokens included, is the client's, streamed or not.",
        "What is billed and measured is lost on the way.",
        "vllm-project/vllm-ascend#10598",
    ),
    _clause(
        "013",
        "D's response headers reach the client, but for those of D's own connection.",
        "Rate limits and ids are lost, or the client keeps a connection as D asked the proxy to.",
    ),
    _clause(
        "014",
        "A client that accepts compression, and one that does not, can both read the answer.",
        "The official client accepts gzip: the proxy takes P's packed answer for a broken one, or "
        "passes D's without saying how it is packed.",
    ),
    _clause(
        "015",
        "A client that does not read its stream stalls no other, and still gets all of it.",
        "One slow reader holds up the event loop, and every user waits.",
    ),
)

_FAILURES = (
    _clause(
        "016",
        "P's error of the request reaches the client: status, content type and body, JSON or not.",
        "A 400 becomes a 500 that clients retry, and nobody learns what was wrong.",
        "vllm-project/vllm-ascend#8893",
        "ai-dynamo/dynamo#14063",
    ),
    _clause(
        "017",
        "D's error reaches the client: status, content type and body, streamed or not.",
        "A failed request is an empty answer with 200.",
        "vllm-project/vllm-ascend#12166",
        "vllm-project/vllm#54140",
    ),
    _clause(
        "018",
        "A P that refuses, dies or breaks its answer off is a 502 or 503, or what a D that was "
        "asked together with it says of that; D computes nothing.",
        "The client hangs, or D recomputes the prompt in silence.",
    ),
    _clause(
        "019",
        "A D that refuses or dies before its answer is a 502 or 503.",
        "The client hangs, or gets an empty answer with 200.",
        "vllm-project/vllm-ascend#12166",
    ),
    _clause(
        "020",
        "A P that stays silent for the read timeout is a 504, and is hung up on.",
        "With a timeout of 60 000 hours the client, its connection and P's slot wait for ever.",
        "ROCm/ATOM#253",
    ),
    _clause(
        "021",
        "A D that stays silent for the read timeout is a 504, and is hung up on.",
        "With a timeout of 60 000 hours the client, its connection and D's slot wait for ever.",
        "ROCm/ATOM#253",
        "llm-d/llm-d#2433",
    ),
    _clause(
        "022",
        "A D that falls silent in mid-stream for the read timeout breaks the client's stream.",
        "The client waits for the next token for ever.",
    ),
    _clause(
        "023",
        "A stream that takes longer than the read timeout, without such a silence, goes on.",
        "Every long answer is cut off after a fixed time.",
    ),
    _clause(
        "024",
        "An engine that accepts no connection is given up after the connect timeout.",
        "A host that is down drops packets: its requests hang for minutes.",
    ),
    _clause(
        "025",
        "A D that dies in mid-stream breaks the client's stream: no clean end, no [DONE].",
        "Half an answer is counted as a whole one.",
        "vllm-project/vllm-ascend#12166",
    ),
    _clause(
        "026",
        "Half of D's unstreamed answer is not passed off as an answer.",
        "The client parses half a JSON document, or takes it for all there is.",
    ),
    _clause(
        "027",
        "A dying connection to D breaks its own client's stream only.",
        "One fault takes down every stream that the proxy carries.",
    ),
    _clause(
        "028",
        "A P that fails leaves no KV blocks behind, whether or not another P is tried.",
        "Each retry strands a prompt's blocks on the P that was given up.",
    ),
    _clause(
        "029",
        "A request that is decoded elsewhere, as its D refused, leaves no KV blocks behind.",
        "A retry that prefills anew strands the blocks of the first prefill.",
        "vllm-project/vllm-ascend#14980",
    ),
    _clause(
        "030",
        "Connections that the engines closed while they were idle fail no request.",
        "After a quiet night the first requests all fail.",
        "sgl-project/sglang#9926",
    ),
    _clause(
        "031",
        "Engines that died and came back at the same address serve again.",
        "The proxy has to be restarted after each restart of an engine.",
    ),
)

_DEPARTURES = (
    _clause(
        "032",
        "A client that leaves in mid-stream cancels the request on D.",
        "D generates to the end for nobody.",
        "ai-dynamo/dynamo#7489",
    ),
    _clause(
        "033",
        "A client that leaves before D's answer begins cancels the request on D.",
        "D generates whole answers for clients that have timed out and asked again.",
    ),
    _clause(
        "034",
        "A client that leaves while P computes leaves no KV blocks behind.",
        "P's blocks wait for a D that was never told.",
        "ai-dynamo/dynamo#13855",
        needs=_READ,
    ),
    _clause(
        "035",
        "A client that leaves while P's answer comes in leaves no KV blocks behind.",
        "P is through and keeps the blocks; a hand-off that is thrown away frees them never.",
        "ai-dynamo/dynamo#13855",
        needs=_READ,
    ),
    _clause(
        "036",
        "A client that leaves before its body is whole costs no engine anything.",
        "Half a request is prefilled.",
    ),
)

_MISTAKES = (
    _clause(
        "037",
        "Without P or without D the client gets 503, a Retry-After and an OpenAI error object.",
        "Clients and load balancers do not know whether and when to come again.",
        needs=_JOINING,
    ),
    _clause(
        "038",
        "A body that is no JSON object gets 400 and an OpenAI error object; no engine is called.",
        "The client's mistake looks like the service's, and is retried.",
        "vllm-project/semantic-router#1556",
    ),
    _clause(
        "039",
        "A body beyond the limit gets 413 and an OpenAI error object, its length told or not.",
        "One request fills the proxy's memory, or the client sees a broken pipe.",
    ),
    _clause(
        "040",
        "An unknown path gets 404 and an OpenAI error object; no engine computes anything for it.",
        "The official client cannot parse a page of HTML.",
    ),
    _clause(
        "041",
        "A wrong method gets 405, an Allow header and an OpenAI error object.",
        "The official client cannot parse a page of HTML.",
    ),
    _clause(
        "042",
        "Bytes that are no HTTP end that connection, and nothing else.",
        "A port scan takes the proxy down.",
    ),
)

_CONNECTIONS = (
    _clause(
        "043",
        "A client's connection carries request after request, after errors and streams, too.",
        "Each request pays for a new connection, or reads the rest of the last answer.",
    ),
    _clause(
        "044",
        "A body that the client sends in chunks, without a length, is read whole.",
        "Clients that stream their upload get a 400, or are prefilled with nothing.",
    ),
    _clause(
        "045",
        "A client that expects 100 Continue is told to go on.",
        "curl waits a second before each body above a megabyte: TTFT grows by it.",
    ),
    _clause(
        "046",
        "Authorization, X-Request-Id and traceparent reach both engines over the wire.",
        "Engines that check keys refuse the client, and its trace ends at the proxy.",
        "vllm-project/vllm-ascend#15250",
    ),
    _clause(
        "047",
        "Headers of the client's own connection reach no engine, and Host names the engine.",
        "A client steers the proxy's connections to the engines, or leaks its proxy password.",
    ),
)

_CROWD = (
    _clause(
        "048",
        "Fifty requests at once get each its own answer, from the KV of its own prefill.",
        "One client reads another one's answer.",
        "vllm-project/vllm#46115",
    ),
    _clause(
        "049",
        "Each engine gets its even share of requests that come in at once, bodies late.",
        "A turn that is taken when the request begins and used when its body is in "
        "sends a burst to one engine.",
        "vllm-project/vllm#46115",
    ),
    _clause(
        "050",
        "Engines that join while all others are busy get requests.",
        "Scaling out under load brings nothing.",
        needs=_JOINING,
    ),
    _clause(
        "051",
        "An engine that leaves gets no new request, and ends the streams that it has begun.",
        "Scaling in breaks the answers of those who are being served.",
        needs=_COME_AND_GO,
    ),
)

CLAUSES: tuple[Clause, ...] = (
    *_LEGS,
    *_STREAMS,
    *_FAILURES,
    *_DEPARTURES,
    *_MISTAKES,
    *_CONNECTIONS,
    *_CROWD,
)
