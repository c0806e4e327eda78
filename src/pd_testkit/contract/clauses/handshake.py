"""The side channel between P and D: how workers meet. Clauses HSK.

They hold for a side channel of any protocol, and whoever moves the bytes. What is changed, repeated
or made up message by message needs the capability ``zmq_side_channel``.
"""

from __future__ import annotations

from pd_testkit.contract.capabilities import Capability
from pd_testkit.contract.clause import Clause, Layer

_READ = frozenset({Capability.READ_MODE})
_ZMQ = frozenset({Capability.ZMQ_SIDE_CHANNEL})
_FAILURES = frozenset({Capability.FAILURE_REPORTING})
_RESTARTS = frozenset({Capability.FAILURE_REPORTING, Capability.WORKER_RESTART})


def _clause(
    number: int,
    statement: str,
    reason: str,
    evidence: tuple[str, ...] = (),
    needs: frozenset[Capability] = frozenset(),
) -> Clause:
    return Clause(f"HSK-{number:03}", statement, reason, evidence, needs, Layer.L2)


_ACQUAINTANCE = (
    _clause(
        1,
        "The first load from a peer meets it over the side channel and brings its KV.",
        "The first request of every pair of engines is lost.",
        ("sgl-project/sglang#22990",),
    ),
    _clause(
        2,
        "After the handshake D knows exactly the memory of each of P's K and V caches.",
        "A layer is read from another's memory, or from beyond a region.",
        ("sgl-project/sglang#31968",),
        needs=_READ,
    ),
    _clause(
        3,
        "After the handshake D knows exactly the memory of each of P's latent caches.",
        "MLA models decode from what is not their KV.",
        needs=_READ | {Capability.MLA},
    ),
    _clause(
        4,
        "A peer is met once for many requests.",
        "Every request pays for a handshake, and each adds a session that stays.",
        ("vllm-project/vllm#40344",),
    ),
    _clause(
        5,
        "Requests that wait for the same handshake are all loaded when it is done.",
        "Of a burst of requests to a new peer only one ever starts.",
        ("vllm-project/vllm#40344",),
    ),
    _clause(
        6,
        "Several peers are met in one step, each with its own memory.",
        "With more than one P engine requests hang, or get the KV of another engine's.",
        ("vllm-project/vllm#46115",),
    ),
    _clause(
        7,
        "A peer is met by its host's name.",
        "Deployments whose hosts have names, as in Kubernetes, cannot transfer at all.",
    ),
    _clause(
        8,
        "A peer is met by its IPv6 address.",
        "IPv6-only clusters cannot transfer at all.",
    ),
)

_LISTENER = (
    _clause(
        9,
        "A message of an unknown type does not end P's listener.",
        "One port scan or one client of another build, and no D can meet this P again.",
        needs=_ZMQ,
    ),
    _clause(
        10,
        "A message with frames too few, too many, cut off or changed does not end P's listener.",
        "One malformed message, and no D can meet this P again.",
        needs=_ZMQ,
    ),
    _clause(
        11,
        "Garbage, a megabyte of it too, does not end P's listener.",
        "Whoever reaches the port stops all disaggregated traffic of the engine.",
    ),
    _clause(
        12,
        "Connections that vanish, or that speak another protocol, do not end P's listener.",
        "A health check on the port, or a D that dies in its handshake, takes P out of service.",
        ("vllm-project/vllm#58063",),
    ),
    _clause(
        13,
        "Fifty peers that ask at once are all answered.",
        "When a fleet of D engines starts, some never meet P.",
        ("vllm-project/vllm#40344",),
    ),
    _clause(
        14,
        "A completion that comes a second time is not reported again by P.",
        "P frees blocks that belong to another request by now, or its engine asserts.",
        ("vllm-project/vllm#57570", "vllm-project/vllm#46874"),
        needs=_ZMQ,
    ),
)

_REFUSAL = (
    _clause(
        15,
        "A truncated answer to the handshake fails the load, and D goes on with other peers.",
        "One broken peer hangs or ends the decode engine.",
        ("vllm-project/vllm#49238",),
    ),
    _clause(
        16,
        "A garbage answer to the handshake fails the load, and D goes on with other peers.",
        "A port that something else listens on hangs or ends the decode engine.",
        ("vllm-project/vllm#49238",),
    ),
    _clause(
        17,
        "An answer with frames missing, empty or out of order fails the load, and D goes on.",
        "A peer of another build hangs or ends the decode engine.",
        ("vllm-project/vllm#29503",),
        needs=_ZMQ,
    ),
    _clause(
        18,
        "The answer of an engine that the hand-off does not name fails the load.",
        "After a reused address or a collision of ports D decodes from another engine's KV.",
        ("vllm-project/vllm#27083",),
    ),
    _clause(
        19,
        "A hand-off of blocks that the peer does not have fails the load.",
        "D decodes from memory that is no KV, or its worker dies.",
        ("sgl-project/sglang#31968", "vllm-project/vllm#49230"),
    ),
    _clause(
        20,
        "An engine of another version of the software is refused.",
        "In a rolling upgrade KV is read in another arrangement: fluent wrong answers.",
        ("vllm-project/vllm#29503",),
    ),
    _clause(
        21,
        "An engine that serves another model is refused, and nothing is read from it.",
        "D decodes from the KV of other weights.",
        ("vllm-project/vllm#55776", "vllm-project/vllm#29503"),
    ),
    _clause(
        22,
        "An engine whose KV has elements of another size is refused.",
        "fp8 KV is taken for bf16: noise, without an error.",
        ("vllm-project/vllm#29503",),
    ),
    _clause(
        23,
        "An engine with another number of KV heads is refused, also where its bytes would fit.",
        "Heads are cut in two or joined: noise, without an error.",
        ("vllm-project/vllm#29503", "sgl-project/sglang#22320"),
    ),
    _clause(
        24,
        "An engine with fewer or more layers is refused.",
        "The layers that both have are loaded, and the rest is left as it was.",
        ("vllm-project/vllm#49230",),
    ),
    _clause(
        25,
        "An engine with latent caches is refused where K and V are expected.",
        "The decode worker dies on the first request.",
        needs=frozenset({Capability.MLA}),
    ),
    _clause(
        26,
        "With an engine of another block size a load brings the same tokens, or fails.",
        "Blocks are taken one for one: every second token is lost.",
        ("vllm-project/vllm#42895", "vllm-project/vllm#28925"),
    ),
    _clause(
        27,
        "With an engine of another layout a load brings the same KV, or fails.",
        "Heads and tokens change places: noise, without an error.",
        ("vllm-project/vllm#47871", "vllm-project/vllm#30275"),
        frozenset({Capability.LAYOUTS}),
    ),
    _clause(
        28,
        "With an engine of another TP size each rank gets its own heads, or the load fails.",
        "Every rank gets the same heads, or waits for a peer that is not there.",
        ("llm-d/llm-d#2433", "vllm-project/vllm#47764"),
        frozenset({Capability.TP}),
    ),
    _clause(
        29,
        "A handshake that failed is tried anew for the next request.",
        "One failure at start-up, and the pair never works until a restart.",
        ("smg-project/smg#2382",),
    ),
)

_SILENCE = (
    _clause(
        30,
        "A call to start a load returns although the peer is silent.",
        "One dead prefill engine stops the whole decode engine in its step.",
        ("vllm-project/vllm#40344",),
        frozenset({Capability.ASYNC_LOADS}),
    ),
    _clause(
        31,
        "A load from a peer that stays silent is reported failed when D's patience ends.",
        "The request waits for ever, and its blocks with it.",
        ("vllm-project/vllm#46283", "sgl-project/sglang#36108"),
        _FAILURES,
    ),
    _clause(
        32,
        "Waiting for a peer's answer takes no CPU time.",
        "A core spins beside the model for as long as the peer is away.",
    ),
    _clause(
        33,
        "A silent peer does not hold up requests to another peer.",
        "One dead prefill engine stalls the traffic of all.",
        ("vllm-project/vllm#50047",),
    ),
    _clause(
        34,
        "An answer that comes after the end of D's patience changes nothing.",
        "A request that was given up is loaded into blocks that others have by now.",
        ("sgl-project/sglang#35049", "vllm-project/vllm#46283"),
        _FAILURES,
    ),
    _clause(
        35,
        "An answer that comes a second time changes nothing.",
        "Known peers are lost or met twice after a hiccup of the network.",
        needs=_ZMQ,
    ),
)

_RESTART = (
    _clause(
        36,
        "A peer that restarted is met anew, and at most one request is lost.",
        "All requests to it fail, or read through stale handles, until D restarts as well.",
        ("ai-dynamo/nixl#2027", "vllm-project/vllm#49238", "smg-project/smg#2382"),
        _RESTARTS,
    ),
    _clause(
        37,
        "A load from a dead peer is reported failed, and D goes on with others.",
        "The decode engine dies with its peer, or takes for KV what was never read.",
        ("vllm-project/vllm#50047", "vllm-project/vllm#54689"),
        _RESTARTS,
    ),
)

_NEIGHBOURS = (
    _clause(
        38,
        "Two engines of one host are told apart: each load brings its own engine's KV.",
        "With two P engines on a host D decodes from the KV of the one that it met first.",
    ),
)

CLAUSES: tuple[Clause, ...] = (
    *_ACQUAINTANCE,
    *_LISTENER,
    *_REFUSAL,
    *_SILENCE,
    *_RESTART,
    *_NEIGHBOURS,
)
"""The side channel between P and D: how workers meet."""
