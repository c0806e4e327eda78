"""The clauses of the unit `proxy`."""

from __future__ import annotations

from pd_testkit.contract.capabilities import Capability
from pd_testkit.contract.clause import Clause

_READ = frozenset({Capability.READ_MODE})
_DP = frozenset({Capability.DP})

_REGISTRY = (
    Clause(
        "PRX-001",
        "An instance that registers again, unchanged, is known once.",
        "A heartbeat every few seconds would grow the list and shift all traffic to one engine.",
    ),
    Clause(
        "PRX-002",
        "The heartbeat's sequence number does not make an instance another one.",
        "Each heartbeat would register the same engine once more.",
    ),
    Clause(
        "PRX-003",
        "A changed record of an instance takes the place of its old one.",
        "An engine that restarted with other parallelism is listed twice: it gets a double share, "
        "half of it with stale parameters.",
    ),
    Clause(
        "PRX-004",
        "A heartbeat leaves the instances' order as it was.",
        "Reordering on heartbeats makes the rotation skip some engines and hit others twice.",
    ),
    Clause(
        "PRX-005",
        "Prefill goes to P instances only, and decode to D instances only.",
        "A decode engine that prefills, or the other way round, keeps KV that nobody fetches.",
    ),
    Clause(
        "PRX-006",
        "An instance of another transfer mode is refused with ValueError.",
        "P would wait to be read while D waits to be written: every such pair hangs.",
        needs=frozenset({Capability.TRANSFER_MODES}),
    ),
    Clause(
        "PRX-007",
        "An instance that was refused is not known and gets no request.",
        "The refusal is logged once and traffic goes to the misfit for ever after.",
        needs=frozenset({Capability.TRANSFER_MODES}),
    ),
    Clause(
        "PRX-008",
        "Without any instance the client gets 503.",
        "Clients and load balancers retry a 503 elsewhere; anything else is taken as final.",
    ),
    Clause(
        "PRX-009",
        "With P instances only the client gets 503, and no P is called.",
        "P would prefill and keep KV blocks that no D ever fetches.",
    ),
    Clause(
        "PRX-010",
        "With D instances only the client gets 503, and no D is called.",
        "D would recompute every prompt locally, and nothing would say so.",
    ),
)

_ROUTING = (
    Clause(
        "PRX-011",
        "Each P gets its even share of the requests, whatever the numbers of P and D.",
        "Some prefill engines queue while others idle: TTFT grows with the imbalance.",
    ),
    Clause(
        "PRX-012",
        "Each D gets its even share of the requests, whatever the numbers of P and D.",
        "Some decode engines run out of KV blocks while others idle.",
    ),
    Clause(
        "PRX-013",
        "An instance that joins gets its even share from then on.",
        "Scaling out brings nothing, or drowns the new engine.",
    ),
    Clause(
        "PRX-014",
        "An instance that leaves gets no more requests, and the others share evenly.",
        "Requests go to a dead engine, or all of its load falls on one neighbour.",
        needs=frozenset({Capability.UNREGISTER}),
    ),
    Clause(
        "PRX-015",
        "Each DP rank of each P gets its even share, whatever the number of P.",
        "A rank that is derived from the engine's own index is always the same one: "
        "one rank overflows under a burst, the others idle.",
        evidence=("vllm-project/vllm#46115",),
        needs=_DP,
    ),
    Clause(
        "PRX-016",
        "A DP rank that P is asked for exists there.",
        "The engine refuses the request, or clamps it to a rank that D does not ask.",
        needs=_DP,
    ),
    Clause(
        "PRX-017",
        "One client request is prefilled once and decoded once.",
        "A second decode reads blocks that P has freed since; a second prefill strands them.",
        evidence=("vllm-project/vllm-ascend#14980",),
    ),
    Clause(
        "PRX-018",
        "Each API path reaches the engines as that path.",
        "A chat request that arrives as a plain completion gets no chat template, or a 400.",
        evidence=("llm-d/llm-d-router#1461",),
    ),
)

_ADDRESSES = (
    Clause(
        "PRX-019",
        "Host and port of an IPv4 URL are found, whatever its scheme and path.",
        "D connects to the wrong engine, or to none.",
    ),
    Clause(
        "PRX-020",
        "Host and port are found in a URL with a host name.",
        "Engines behind a cluster's DNS names cannot be used.",
    ),
    Clause(
        "PRX-021",
        "Host and port are found in a URL with an IPv6 address in brackets.",
        "The proxy does not work on an IPv6 network.",
    ),
    Clause(
        "PRX-022",
        "A URL without a host or without a port raises ValueError.",
        "The mistake shows up later, as a connection to nowhere.",
    ),
    Clause(
        "PRX-023",
        "A URL whose port is no port raises ValueError.",
        "The mistake shows up later, as a connection to nowhere.",
    ),
)

_PREFILL = (
    Clause(
        "PRX-024",
        "P is asked for one token.",
        "P decodes the whole answer, and D does it again.",
        needs=_READ,
    ),
    Clause(
        "PRX-025",
        "P is not asked to stream.",
        "The hand-off is in a JSON body: every streamed request fails on an answer without one.",
        evidence=("vllm-project/production-stack#971",),
        needs=_READ,
    ),
    Clause(
        "PRX-026",
        "P's max_completion_tokens is one, or absent.",
        "Chat clients cap by this name: P decodes the whole answer, and D does it again.",
        evidence=("llm-d/llm-d-router#400",),
        needs=_READ,
    ),
    Clause(
        "PRX-027",
        "P's min_tokens is at most one, or absent.",
        "The engine refuses min_tokens above max_tokens: a 400 for a valid request.",
        evidence=(
            "vllm-project/vllm#16705",
            "ModelEngine-Group/unified-cache-management#1295",
            "llm-d/llm-d-router#2041",
            "vllm-project/production-stack#971",
        ),
        needs=_READ,
    ),
    Clause(
        "PRX-028",
        "P gets no stream_options.",
        "The engine refuses them without a stream: a 400, or a silent recompute on D.",
        evidence=("llm-d/llm-d-routing-sidecar#8", "vllm-project/router#2"),
        needs=_READ,
    ),
    Clause(
        "PRX-029",
        "P is asked for one choice.",
        "P keeps the blocks of n sequences, and D fetches and releases those of one.",
        evidence=("vllm-project/vllm#38900",),
        needs=_READ,
    ),
    Clause(
        "PRX-030",
        "P's best_of is one, or absent.",
        "P keeps the blocks of the siblings, which nobody fetches.",
        evidence=("vllm-project/vllm#43509",),
        needs=_READ,
    ),
    Clause(
        "PRX-031",
        "P gets top_logprobs only together with logprobs.",
        "The engine refuses the one without the other: a 400 for a valid request.",
        needs=_READ,
    ),
    Clause(
        "PRX-032",
        "Both legs carry the client's prompt as it came: text, token ids or messages.",
        "P computes the KV of another prompt than D's: a fluent wrong answer.",
        evidence=("vllm-project/vllm#50558",),
    ),
    Clause(
        "PRX-033",
        "Fields that the proxy does not know reach both legs unchanged.",
        "A cache salt, an adapter or template arguments decide what the KV is: without them "
        "P's KV belongs to another prompt.",
    ),
    Clause(
        "PRX-034",
        "P is told to keep the KV for a remote decode, and to fetch none.",
        "P frees the blocks when it answers, before D has read them.",
        needs=_READ,
    ),
    Clause(
        "PRX-035",
        "The caller's own body is left as it was, nested objects included.",
        "What was rewritten for P leaks into D's request, or into the caller's retry.",
    ),
)

_DECODE = (
    Clause(
        "PRX-036",
        "D is asked for as many tokens as the client asked for.",
        "The answer is a token short, or ends after the first one.",
        evidence=("tenstorrent/tt-inference-server#4392",),
    ),
    Clause(
        "PRX-037",
        "A request without max_tokens is served, and D is given no limit.",
        "OpenAI's default is no field at all: such a request fails, or ends after 0 tokens.",
        evidence=("vllm-project/production-stack#797",),
    ),
    Clause(
        "PRX-038",
        "A request for one token gets one from D.",
        "D refuses max_tokens of zero, or answers nothing.",
        evidence=("vllm-project/production-stack#797",),
    ),
    Clause(
        "PRX-039",
        "D streams if the client asked for it, with the client's stream_options.",
        "The client waits for the whole answer, or its usage chunk never comes.",
    ),
    Clause(
        "PRX-040",
        "D gets the client's sampling parameters unchanged.",
        "n, min_tokens, stop or seed are lost or are P's: another answer than without P/D.",
    ),
    Clause(
        "PRX-041",
        "D is told of P's engine, blocks and transfer.",
        "D cannot find the KV and silently recomputes the prompt.",
        evidence=("vllm-project/vllm#27083",),
        needs=_READ,
    ),
    Clause(
        "PRX-042",
        "P's hand-off reaches D whole, fields that the proxy does not know included.",
        "A connector's new field is dropped on the way, and its feature fails only under P/D.",
        needs=_READ,
    ),
    Clause(
        "PRX-043",
        "D is told to fetch the prompt's KV, and to keep none for another.",
        "D recomputes the prompt, or keeps its blocks until a timeout.",
        needs=_READ,
    ),
    Clause(
        "PRX-044",
        "Each request's D gets the hand-off of that request's P.",
        "D reads the KV of another client's prompt.",
        needs=_READ,
    ),
    Clause(
        "PRX-045",
        "The DP rank that prefilled is the one that D is sent to.",
        "D asks a rank that does not hold the KV: a hang or a recompute.",
        evidence=("ai-dynamo/dynamo#9936",),
        needs=frozenset({Capability.READ_MODE, Capability.DP}),
    ),
    Clause(
        "PRX-046",
        "A prefill that carries no hand-off ends in an error or is reported as a recompute.",
        "D recomputes every prompt and nobody notices but the TTFT.",
        evidence=("vllm-project/router#2", "vllm-project/vllm#27083"),
        needs=_READ,
    ),
    Clause(
        "PRX-047",
        "A prefill answer that is no JSON object is an error, and D is not called.",
        "The page of a gateway in front of P is taken for a prefill.",
        needs=_READ,
    ),
)

_IDENTITY = (
    Clause(
        "PRX-048",
        "Both legs carry the same request id.",
        "Connectors match P and D by it, and so does whoever reads the logs.",
        evidence=("vllm-project/vllm#34907",),
    ),
    Clause(
        "PRX-049",
        "Each request gets an id of its own.",
        "Engines key their KV by it: one request gets the other's KV, or is refused.",
    ),
    Clause(
        "PRX-050",
        "The engines' request id contains the client's X-Request-Id.",
        "A slow request cannot be followed from the client to the engines.",
    ),
    Clause(
        "PRX-051",
        "The client's Authorization reaches both legs.",
        "Engines that check keys refuse a client that has one.",
        evidence=("vllm-project/vllm-ascend#15250",),
    ),
    Clause(
        "PRX-052",
        "The proxy invents no Authorization.",
        "Engines get `Bearer None`, and refuse it or, worse, count it as a user.",
        evidence=("vllm-project/vllm-ascend#15250",),
    ),
    Clause(
        "PRX-053",
        "A client's own kv_transfer_params reach neither leg.",
        "A client that names blocks or a host reads another client's KV.",
    ),
)

_FAILURES = (
    Clause(
        "PRX-054",
        "P's error status is the client's.",
        "A request that P rightly refused becomes a 500, which clients retry.",
        evidence=("vllm-project/vllm-ascend#8893", "ai-dynamo/dynamo#14063"),
    ),
    Clause(
        "PRX-055",
        "P's error body is the client's.",
        "The client does not learn what was wrong with the request.",
        evidence=("ai-dynamo/dynamo#14063",),
    ),
    Clause(
        "PRX-056",
        "After a failed prefill D is not called.",
        "D waits for KV that never comes, or recomputes what P refused.",
        needs=_READ,
    ),
    Clause(
        "PRX-057",
        "D's error status is the client's.",
        "A failed request is an empty answer with 200, which clients and benchmarks count as good.",
        evidence=("vllm-project/vllm-ascend#12166", "vllm-project/vllm#54140"),
    ),
    Clause(
        "PRX-058",
        "D's error body is the client's.",
        "The client does not learn what was wrong with the request.",
        evidence=("vllm-project/vllm#54140",),
    ),
    Clause(
        "PRX-059",
        "A P that dies before its answer is a 5xx.",
        "The client hangs, or gets an empty answer with 200.",
    ),
    Clause(
        "PRX-060",
        "A D that dies before its answer is a 5xx.",
        "The client hangs, or gets an empty answer with 200.",
        evidence=("vllm-project/vllm-ascend#12166",),
    ),
    Clause(
        "PRX-061",
        "A failed request leaves the next one unharmed.",
        "One dead connection and every request after it fails.",
    ),
    Clause(
        "PRX-062",
        "An engine that stays silent is given up, after an hour at most.",
        "The client, its connection and P's kept blocks wait for ever.",
        evidence=("ROCm/ATOM#253",),
    ),
    Clause(
        "PRX-063",
        "A body that is no JSON object gets 400, and no engine is called.",
        "As a 500 the client's mistake looks like the service's and is retried.",
        evidence=("vllm-project/semantic-router#1556",),
    ),
    Clause(
        "PRX-064",
        "The proxy's own errors are OpenAI error objects.",
        "Clients parse the body of an error; plain text hides the message behind a parse error.",
    ),
)

_ANSWERS = (
    Clause(
        "PRX-065",
        "The client gets D's answer, byte for byte.",
        "The answer is P's single token, or a re-encoded one.",
    ),
    Clause(
        "PRX-066",
        "The client gets D's event stream, byte for byte and to its end.",
        "Without the last chunk and [DONE] the client takes the answer as cut, or as complete.",
        evidence=("vllm-project/production-stack#952",),
    ),
    Clause(
        "PRX-067",
        "The content type of D's answer is the client's.",
        "Clients choose between JSON and an event stream by it.",
    ),
)

CLAUSES: tuple[Clause, ...] = (
    *_REGISTRY,
    *_ROUTING,
    *_ADDRESSES,
    *_PREFILL,
    *_DECODE,
    *_IDENTITY,
    *_FAILURES,
    *_ANSWERS,
)
