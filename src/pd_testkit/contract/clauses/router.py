"""What a router promises beyond one flow: retries, breakers, instances, crowds. Clauses RTR."""

from __future__ import annotations

from pd_testkit.contract.capabilities import Capability
from pd_testkit.contract.clause import Clause, Layer

_READ = (Capability.READ_MODE,)
_RETRIES = (Capability.RETRIES,)
_BREAKER = (Capability.CIRCUIT_BREAKER,)
_CHECKS = (Capability.HEALTH_CHECKS,)
_COME_AND_GO = (Capability.JOINING, Capability.UNREGISTER)
_BEATS = (Capability.HEARTBEATS, Capability.JOINING)


def _clause(
    number: str,
    statement: str,
    reason: str,
    *evidence: str,
    needs: tuple[Capability, ...] = (),
) -> Clause:
    return Clause(f"RTR-{number}", statement, reason, evidence, frozenset(needs), Layer.L2)


_TRIES = (
    _clause(
        "001",
        "A request that each P fails is prefilled once and as often again as the retries say.",
        "The flag is read and not obeyed: no retry at all, or a storm of them.",
        needs=_RETRIES,
    ),
    _clause(
        "002",
        "A request that each D fails is decoded once and as often again as the retries say.",
        "The flag holds for one leg, and is not obeyed on the other.",
        needs=_RETRIES,
    ),
    _clause(
        "003",
        "Without retries each engine is asked once, whichever fails.",
        "Whoever switched retries off, since his gateway has its own, gets their product.",
        needs=_RETRIES,
    ),
    _clause(
        "004",
        "A request that P or D refuses as wrong is tried on no other engine.",
        "A client's mistake costs a prefill on each P of the fleet.",
    ),
    _clause(
        "005",
        "Once the client has a part of D's answer, nothing is prefilled or decoded again.",
        "The client gets the beginning twice, and pays for both.",
    ),
    _clause(
        "006",
        "A D that died with P's KV taken over is replaced by a new prefill or by an error, never "
        "by another D on the same KV.",
        "The other D reads blocks that P has freed: another prompt's KV, with status 200.",
        "vllm-project/vllm-ascend#14980",
        needs=_READ,
    ),
)

_OUTLIERS = (
    _clause(
        "007",
        "One P of two that refuses connections costs a few requests at most, not every second.",
        "A crashed engine halves the service until somebody removes it by hand.",
    ),
    _clause(
        "008",
        "One P of two that answers every request by a 500 costs a few at most.",
        "An engine whose GPU is lost still answers its health checks, and gets half of all.",
        "smg-project/smg#2382",
    ),
    _clause(
        "009",
        "One D of two that refuses connections costs a few requests at most, not every second.",
        "A crashed engine halves the service until somebody removes it by hand.",
    ),
    _clause(
        "010",
        "One D of two that answers every request by a 500 costs a few at most.",
        "An engine whose GPU is lost still answers its health checks, and gets half of all.",
        "smg-project/smg#2382",
    ),
)

_BREAKERS = (
    _clause(
        "011",
        "An engine that has failed as often in a row as the threshold says gets no more requests.",
        "A dead engine's timeouts are waited for by every n-th client.",
        needs=_BREAKER,
    ),
    _clause(
        "012",
        "Failures with a success between them do not open the breaker.",
        "An engine that fails one request in a thousand is left alone after some thousands.",
        needs=_BREAKER,
    ),
    _clause(
        "013",
        "Requests that are wrong, and clients that leave, do not open the breaker.",
        "One client's mistakes take the service from all others.",
        needs=_BREAKER,
    ),
    _clause(
        "014",
        "After the cool-down one request probes the engine while others go elsewhere; its success "
        "closes the breaker.",
        "The engine that has just come back gets all that waits, or never a request again.",
        needs=_BREAKER,
    ),
    _clause(
        "015",
        "A probe that fails opens the breaker for another cool-down.",
        "After the first cool-down a dead engine gets its full share again.",
        needs=_BREAKER,
    ),
    _clause(
        "016",
        "With the only engine's breaker open the client gets 503 and an OpenAI error object, and "
        "the engine nothing.",
        "The breaker gives way when it is needed most, and an engine that restarts is run over.",
        needs=_BREAKER,
    ),
)

_INSTANCES = (
    _clause(
        "017",
        "An engine that is P and D at one URL serves requests as both.",
        "The second role takes the first one's place, and no request finds both.",
        needs=_READ,
    ),
    _clause(
        "018",
        "An engine that is P and D at one URL and leaves as D goes on as P.",
        "A role is taken from an engine, and the other is lost with it.",
        needs=(*_COME_AND_GO, *_READ),
    ),
    _clause(
        "019",
        "An engine that leaves and joins again and again at one address gets its share whenever "
        "it is there, nothing when it is not, and no request fails.",
        "Each rollout costs requests: stale connections, or an engine that is known twice.",
        needs=_COME_AND_GO,
    ),
    _clause(
        "020",
        "An engine whose heartbeats cease gets no new request, and its streams go on; one that "
        "goes on beating stays.",
        "Requests go to an engine that is gone; or a short loss of the network cuts all streams.",
        needs=_BEATS,
    ),
    _clause(
        "021",
        "An engine whose heartbeats ceased and came back gets requests again.",
        "The proxy has to be restarted after each loss of the network.",
        needs=_BEATS,
    ),
)

_HEALTH = (
    _clause(
        "022",
        "The proxy is ready with a P and a D, not before, and lives all along.",
        "The load balancer sends clients to a proxy that can only refuse them, or restarts one "
        "that waits for its engines.",
        needs=(Capability.READINESS, Capability.JOINING),
    ),
    _clause(
        "023",
        "When all engines of a role are dead the proxy says that it is not ready, without a "
        "request that has to fail first; and it lives on.",
        "An idle proxy is taken for healthy, and the first clients pay for it.",
        needs=(Capability.READINESS, *_CHECKS),
    ),
    _clause(
        "024",
        "When the engines of a role are back the proxy is ready again, and serves.",
        "The proxy has to be restarted after its engines.",
        needs=(Capability.READINESS, *_CHECKS),
    ),
    _clause(
        "025",
        "An engine that says that it is not well gets no request, until it says that it is.",
        "An engine that drains, or whose core has died behind its server, fails its share.",
        "smg-project/smg#2382",
        needs=_CHECKS,
    ),
    _clause(
        "026",
        "The list of models is the engines', one that is dead among them or not.",
        "Clients that ask for the models before they begin find none, or a wrong one.",
    ),
)

_CALLERS = (
    _clause(
        "027",
        "Each request reaches both engines under its own client's key, many at once and over "
        "shared connections, and without one if it had none.",
        "One client's request is billed to another, or let in by another one's key.",
    ),
    _clause(
        "028",
        "No other path of an engine can be reached through the proxy: it gets 404 or 405.",
        "Whoever may ask for a completion can reset an engine's cache, abort requests, load an "
        "adapter, or put it to sleep, on whichever engine chance picks.",
    ),
)

_HAND_OVERS = (
    _clause(
        "029",
        "P is told when a D has answered by a 503 and not taken over the KV.",
        "P keeps the blocks of a prompt that nobody will decode, until its lease is over.",
        "vllm-project/vllm#41269",
        needs=_READ,
    ),
    _clause(
        "030",
        "P is told when a D has died and not taken over the KV.",
        "P keeps the blocks of a prompt that nobody will decode, until its lease is over.",
        "vllm-project/vllm#41269",
        needs=_READ,
    ),
    _clause(
        "031",
        "P is told when a D was given up for its silence and had not taken over the KV.",
        "A D that hangs fills the memory of each P that works for it.",
        "vllm-project/vllm#41269",
        needs=_READ,
    ),
    _clause(
        "032",
        "P is told when a D has begun its stream, and died before it had taken over the KV.",
        "Engines send the head of a stream before they have the KV: 200 is no receipt.",
        "vllm-project/vllm-ascend#14980",
        needs=_READ,
    ),
    _clause(
        "033",
        "When P fails, a D that was asked already is hung up on, and the client gets an error.",
        "D waits for KV that never comes, with a slot, blocks and a client that wait along.",
        "sgl-project/sglang#9726",
        "sgl-project/sglang#36108",
    ),
)

_STREAMS = (
    _clause(
        "034",
        "A stream that ends without [DONE] reaches the client as it is, and its end is no other.",
        "A proxy that mends it makes half an answer whole; one that waits for more hangs.",
    ),
    _clause(
        "035",
        "An error event in a stream reaches the client as D sent it, with what follows it.",
        "The client takes a failed answer for one that was short.",
        "smg-project/smg#2382",
    ),
    _clause(
        "036",
        "A stream that broke, told of an error or ended without [DONE] is counted as a failure; "
        "a whole one is not.",
        "All graphs are green while every tenth user gets half an answer.",
        needs=(Capability.FAILURE_COUNT,),
    ),
    _clause(
        "037",
        "Each chunk of twenty streams reaches its client before any D makes the next.",
        "Chunks are gathered when there are many streams, and the time between tokens grows.",
    ),
    _clause(
        "038",
        "Events of several bytes per character, of 100 KB, with CRLF or none but comments, come "
        "byte for byte, cut anywhere.",
        "A proxy that parses events loses those that the network cuts in a place it didn't expect.",
        "vllm-project/production-stack#952",
    ),
)

_ENDS = (
    _clause(
        "044",
        "A stream ends where D ends it: not at [DONE] in a text, nor before the end of its event.",
        "An answer that speaks of the format is cut off as a whole one, and a client that waits "
        "for the empty line never sees the last event.",
        "smg-project/smg#1878",
    ),
)

_MASSES = (
    _clause(
        "039",
        "A prompt of four megabytes reaches both engines whole.",
        "A million tokens of context are refused by a default of the proxy's.",
    ),
    _clause(
        "040",
        "An engine whose client does not read is held up after a bounded number of bytes.",
        "D's whole answer piles up in the proxy, for each client that has gone to sleep.",
        "smg-project/smg#2097",
    ),
    _clause(
        "041",
        "The proxy's memory does not grow by what a client does not read.",
        "A few slow clients take down the proxy, and everybody else's streams with it.",
        "smg-project/smg#2097",
        needs=(Capability.PROCESS_ID,),
    ),
    _clause(
        "042",
        "A thousand streams at once come each whole, each with its own answer.",
        "At the load for which P/D is made, streams are cut, mixed or refused.",
        "vllm-project/vllm#46115",
    ),
    _clause(
        "043",
        "When a crowd has gone, the proxy has closed its connections, and the next crowd takes "
        "no more than the first.",
        "After some bursts the proxy can accept no connection any more.",
        needs=(Capability.PROCESS_ID,),
    ),
)

CLAUSES: tuple[Clause, ...] = (
    *_TRIES,
    *_OUTLIERS,
    *_BREAKERS,
    *_INSTANCES,
    *_HEALTH,
    *_CALLERS,
    *_HAND_OVERS,
    *_STREAMS,
    *_MASSES,
    *_ENDS,
)
