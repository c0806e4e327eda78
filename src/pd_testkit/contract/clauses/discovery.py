"""How instances register with the proxy. Clauses DSC."""

from __future__ import annotations

from pd_testkit.contract.capabilities import Capability
from pd_testkit.contract.clause import Clause, Layer


def _clause(
    number: str, statement: str, reason: str, *evidence: str, needs: tuple[Capability, ...] = ()
) -> Clause:
    return Clause(
        f"DSC-{number}", statement, reason, evidence, needs=frozenset(needs), layer=Layer.L2
    )


_KNOWN = (
    _clause(
        "001",
        "A registration in ATOM's form makes the instance known under its address, as what its "
        "role says.",
        "No engine is ever routed to, or decode engines are asked to prefill.",
        needs=(Capability.REGISTRATION_HELLO,),
    ),
    _clause(
        "002",
        "A registration in vLLM's form makes the instance known under its HTTP address, as what "
        "its type says.",
        "No engine is ever routed to, or decode engines are asked to prefill.",
        "vllm-project/vllm#39565",
        needs=(Capability.REGISTRATION_ROLE,),
    ),
    _clause(
        "003",
        "Both forms are taken on one port, from different peers and from one peer.",
        "A fleet that moves from one connector to the other has to be stopped as a whole.",
        "vllm-project/vllm#39565",
        needs=(Capability.REGISTRATION_HELLO, Capability.REGISTRATION_ROLE),
    ),
    _clause(
        "004",
        "An instance that sends its registration again, with another sequence number, is known "
        "once and keeps its place.",
        "Engines register every few seconds: the list grows, or the rotation jumps with each.",
    ),
    _clause(
        "005",
        "A changed registration takes the place of the instance's old one.",
        "An engine that came back with another configuration is listed twice, and half of its "
        "requests go by the old one.",
    ),
    _clause(
        "006",
        "One address may be known as P and as D at the same time.",
        "An engine that serves both roles loses one of them to the other.",
    ),
)

_ALIVE = (
    _clause(
        "007",
        "An instance stays known for as long as its heartbeats come.",
        "Healthy engines drop out of the rotation while they serve.",
    ),
    _clause(
        "008",
        "An instance whose heartbeats have ceased is forgotten.",
        "Every n-th request goes to a dead engine, until the proxy is restarted.",
    ),
    _clause(
        "009",
        "An instance whose heartbeats have ceased is forgotten though one that registered before "
        "it lives on.",
        "The clean-up stops at the first living engine, and those behind it are never looked at.",
        "vllm-project/vllm#35389",
    ),
    _clause(
        "010",
        "An instance that registers again after a long silence is known, once.",
        "An engine that was restarted gets no more requests, or two shares of them.",
    ),
    _clause(
        "011",
        "An instance that says goodbye is forgotten at once, in the role that it names, and no "
        "other is.",
        "While an engine is drained, requests go to it until its heartbeats have expired.",
        needs=(Capability.UNREGISTER,),
    ),
    _clause(
        "012",
        "A peer is heard under the ZMQ identity of a connection that is still open.",
        "vLLM's engines connect under their address: one that comes back before its old "
        "connection is known to be dead is not heard of for minutes.",
        needs=(Capability.REGISTRATION_ROLE,),
    ),
)

_REFUSED = (
    _clause(
        "013",
        "An instance of another transfer mode is not known, those that are there stay, and the "
        "listener lives on.",
        "One engine with the wrong configuration ends discovery for all.",
        needs=(Capability.TRANSFER_MODES, Capability.REGISTRATION_HELLO),
    ),
    _clause(
        "014",
        "A registration of an unknown role makes nothing known, and the listener lives on.",
        "An encoder or a router of another release ends discovery for all.",
    ),
    _clause(
        "015",
        "A message of an unknown type makes nothing known, and the listener lives on.",
        "The listener's thread returns at the first message of a newer release.",
        "vllm-project/vllm#24851",
    ),
    _clause(
        "016",
        "A registration without its type, role or address makes nothing known, and the listener "
        "lives on.",
        "The proxy keeps a record that fails each request which it is chosen for.",
    ),
    _clause(
        "017",
        "A registration with a field of a wrong type makes nothing known, and the listener lives "
        "on.",
        "The proxy keeps a record that fails each request which it is chosen for.",
    ),
    _clause(
        "018",
        "A registration whose address has no possible host or port makes nothing known, and the "
        "listener lives on.",
        "Every n-th request fails on an address that nobody can connect to.",
    ),
    _clause(
        "019",
        "A message that is no map makes nothing known, and the listener lives on.",
        "A health check or a port scan ends discovery, while the proxy still answers for healthy.",
        "sgl-project/sglang#32652",
    ),
    _clause(
        "020",
        "Bytes that are no msgpack make nothing known, and the listener lives on.",
        "A health check or a port scan ends discovery, while the proxy still answers for healthy.",
        "sgl-project/sglang#32652",
        "LMCache/LMCache#4448",
    ),
    _clause(
        "021",
        "A registration that was cut off, at whichever byte, makes nothing known, and the "
        "listener lives on.",
        "Half a record is taken for a whole one, or the thread dies of it.",
    ),
    _clause(
        "022",
        "An empty message makes nothing known, and the listener lives on.",
        "A keep-alive of someone's own making ends discovery.",
    ),
    _clause(
        "023",
        "A message of more frames than a registration has does no harm.",
        "A REQ socket, which sends an empty frame first, ends discovery for all.",
        "sgl-project/sglang#32652",
    ),
    _clause(
        "024",
        "Garbage of up to a megabyte makes nothing known, and the listener lives on.",
        "Whoever reaches the port can end discovery with one message.",
    ),
    _clause(
        "025",
        "A message that nests thousands of levels deep does no harm.",
        "The recursion limit, or the stack, ends the thread or the whole proxy.",
    ),
    _clause(
        "026",
        "A TCP connection that does not speak ZMQ does no harm.",
        "A browser or a port scan ends discovery for all.",
    ),
)

_MANY = (
    _clause(
        "027",
        "A thousand instances that register in one burst are all known, in the order in which "
        "they registered.",
        "A proxy that is restarted forgets part of its fleet.",
    ),
    _clause(
        "028",
        "Instances that register at the same time over connections of their own are all known.",
        "A proxy that is restarted forgets part of its fleet.",
    ),
    _clause(
        "029",
        "The registrations of a peer that is gone at once are taken, and the listener lives on.",
        "The answer to a peer that cannot take it blocks the thread, or ends it.",
        "sgl-project/sglang#31144",
    ),
)

CLAUSES: tuple[Clause, ...] = (*_KNOWN, *_ALIVE, *_REFUSED, *_MANY)
