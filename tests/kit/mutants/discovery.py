"""Planted bugs that the clauses of the unit `discovery` catch."""

from __future__ import annotations

from .mutant import Mutant


def _mutant(clauses: str, module: str, old: str, new: str, bug: str) -> Mutant:
    ids = tuple(f"DSC-{number}" for number in clauses.split())
    return Mutant(ids, f"proxy.{module}", old, new, bug)


_MESSAGES = (
    _mutant(
        "001 003",
        "registration",
        'return "prefill" if role == "P" else "decode"',
        'return "decode" if role == "P" else "prefill"',
        "ATOM's roles are taken the wrong way round",
    ),
    _mutant(
        "002 003",
        "registration",
        '"decode" if isinstance(message, _Decode) else "prefill",',
        '"prefill" if isinstance(message, _Prefill) else "decode",',
        "a D in vLLM's form is taken for a P, for the one class inherits from the other",
    ),
    _mutant(
        "014",
        "registration",
        '_Role = Literal["P", "D"]',
        "_Role = str",
        "whatever is no P is a D",
    ),
    _mutant(
        "016",
        "registration",
        "    role: _Role\n    request_address: _Address\n    index",
        '    role: _Role = "D"\n    request_address: _Address = "http://10.9.9.9:8000"\n    index',
        "what a registration lacks is made up",
    ),
    _mutant(
        "017",
        "registration",
        "handshake_port: _Port | None = None",
        "handshake_port: object = None",
        "the handshake port is kept as it came",
    ),
    _mutant(
        "018",
        "registration",
        " or not _is_host(host):",
        ":",
        "any text before the port is a host",
    ),
)

_LISTENER = (
    _mutant(
        "013 014 015 016 017 018 019 020 021 022 023 024 025 026",
        "discovery",
        "                    self._socket.send_multipart([identity, self._answer(frames)], "
        "zmq.NOBLOCK)\n",
        "                    answer = self._answer(frames)\n"
        "                    self._socket.send_multipart([identity, answer], zmq.NOBLOCK)\n"
        '                    if b"refused" in answer:\n'
        "                        return\n",
        "the thread returns at the first message that it refuses, as in vllm-project/vllm#24851",
    ),
    _mutant(
        "023 026",
        "discovery",
        "identity, *frames = self._socket.recv_multipart()\n",
        "identity, *frames = self._socket.recv_multipart()\n"
        "                    if len(frames) != 1:\n"
        "                        return\n",
        "the thread ends at a message of three frames, as in sgl-project/sglang#32652",
    ),
    _mutant(
        "027 028",
        "discovery",
        "        with self._socket:\n            while True:\n",
        "        with self._socket:\n            for _ in range(48):\n",
        "the thread ends after so many messages",
    ),
    _mutant(
        "029",
        "discovery",
        "zmq.NOBLOCK)\n                except zmq.ContextTerminated:",
        "self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1) or zmq.NOBLOCK)\n"
        "                except zmq.ZMQError:",
        "an answer must reach its peer, or the thread ends",
    ),
    _mutant(
        "012",
        "discovery",
        "router.setsockopt(zmq.ROUTER_HANDOVER, 1)",
        "router.setsockopt(zmq.ROUTER_HANDOVER, 0)",
        "an identity is the first connection's until that is closed",
    ),
    _mutant(
        "011",
        "discovery",
        "self._on_goodbye(message)",
        "self._clock()",
        "a goodbye is read, and nothing is done",
    ),
)

_REGISTRY = (
    _mutant(
        "004 005",
        "instances",
        "instances[engine.url] = Instance(",
        'instances[f"{engine}"] = Instance(',
        "the whole record is the key, so each heartbeat is one more instance",
    ),
    _mutant(
        "006",
        "instances",
        "known = instances.get(engine.url)\n",
        "known = instances.get(engine.url)\n"
        "        for others in self._instances.values():\n"
        "            others is instances or others.pop(engine.url, None)\n",
        "an address has one role, the last that it was registered in",
    ),
    _mutant(
        "007",
        "instances",
        "            known.seen_at = now\n            return False",
        "            return False",
        "an unchanged registration does not count as a heartbeat",
    ),
    _mutant(
        "008 009",
        "instances",
        "now - instance.seen_at > self._lifetime_s",
        "self._lifetime_s < 0",
        "nothing ever expires, as in ROCm/ATOM#253",
    ),
    _mutant(
        "009",
        "instances",
        "now - instance.seen_at > self._lifetime_s",
        "now - next(iter(instances.values())).seen_at > self._lifetime_s",
        "the first instance's heartbeat is that of all, as in vllm-project/vllm#35389",
    ),
    _mutant(
        "010",
        "instances",
        "breaker, now)\n        return True",
        "breaker, 0.0)\n        return True",
        "a returning instance is as old as the proxy",
    ),
    _mutant(
        "013",
        "instances",
        "if modes - {engine.transfer_mode}:",
        "if False:",
        "the transfer mode is not compared",
    ),
    _mutant(
        "004 027",
        "instances",
        "return tuple(instance.engine for instance in self._instances[leg].values())",
        "return tuple(i.engine for _, i in sorted(self._instances[leg].items()))",
        "the instances are in the order of their addresses",
    ),
)

MUTANTS: tuple[Mutant, ...] = (*_MESSAGES, *_LISTENER, *_REGISTRY)
