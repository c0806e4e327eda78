"""Planted bugs that the handshake clauses catch."""

from __future__ import annotations

from .mutant import Mutant

_FITS = '("version", "model", "mla", "layers", "kv_heads", "head_dim", "itemsize", "layout")'
_ANSWERS = "            if answer is not None:\n"
_KNOWN = "        if known is not None and known[0] == engine_id:\n            return known[1]\n"
_POLL = "                if not peer.poll(round(1000 * left)):\n"
_TOKENS = "min(len(local_block_ids) * ours.block_size, len(remote) * theirs.block_size)"
_RUN = "HeadRun(holder * sources + replica, remote_head, head - first, heads)"

MUTANTS: tuple[Mutant, ...] = (
    # -- acquaintance
    Mutant(
        ("HSK-001", "HSK-005", "HSK-006", "HSK-007", "HSK-008"),
        "peers",
        "status = self._engine.connect(peer.engine)",
        "status = Status.SUCCESS",
        "the peer's descriptors are taken, and its engine is not registered",
    ),
    Mutant(
        ("HSK-002", "HSK-003", "HSK-006"),
        "kv_memory",
        "{name: (region.handle,) for",
        "{name: (region.handle._replace(address=region.address + 64),) for",
        "the descriptors tell where the KV begins behind a header that is not there",
    ),
    Mutant(
        ("HSK-002", "HSK-003", "HSK-006"),
        "kv_memory",
        "for name, region in self._regions.items()}",
        "for name, region in zip(self._regions, reversed(self._regions.values()))}",
        "the layers' descriptors are sent in another order than their names",
    ),
    Mutant(
        ("HSK-004",),
        "peers",
        _KNOWN,
        "",
        "a peer is met for every request",
    ),
    Mutant(
        ("HSK-005",),
        "peers",
        _KNOWN,
        _KNOWN.replace(
            "return known[1]", 'return known[1] if known[1].done() else self._submit(int, "")'
        ),
        "a request that comes while the handshake is under way is lost",
    ),
    Mutant(
        ("HSK-006",),
        "peers",
        "self._met[address] = engine_id, meeting",
        "self._met = {address: (engine_id, meeting)}",
        "one peer is remembered, the last (vllm-project/vllm#46115)",
    ),
    Mutant(
        ("HSK-038",),
        "peers",
        _KNOWN,
        "        others = (peer for at, peer in self._met.items() if at[0] == address[0])\n"
        "        known = known or next(others, None)\n"
        "        if known is not None:\n            return known[1]\n",
        "peers are known by their host alone",
    ),
    Mutant(
        ("HSK-007",),
        "side_channel",
        "type=socket.SOCK_STREAM)",
        "type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)",
        "hosts are addresses only",
    ),
    Mutant(
        ("HSK-008",),
        "side_channel",
        "        self._peers.set(zmq.IPV6, 1)\n",
        "",
        "the listener is left at IPv4, as ZMQ's sockets are by default",
    ),
    # -- listener
    Mutant(
        ("HSK-009", "HSK-010", "HSK-011"),
        "side_channel",
        _ANSWERS,
        f"            if isinstance(answer, Refusal):\n                return\n{_ANSWERS}",
        "the listener ends with the first message that it cannot read",
    ),
    Mutant(
        ("HSK-012",),
        "side_channel",
        _ANSWERS + "                self._peers.send_multipart([peer, *encode(answer)])",
        _ANSWERS
        + "                self._peers.set(zmq.ROUTER_MANDATORY, 1)\n"
        + "                try:\n"
        + "                    self._peers.send_multipart([peer, *encode(answer)])\n"
        + "                except zmq.ZMQError:\n"
        + "                    return",
        "the listener ends when somebody does not wait for the answer",
    ),
    Mutant(
        ("HSK-013",),
        "side_channel",
        "            peer, *frames = self._peers.recv_multipart()\n",
        "            peer, *frames = self._peers.recv_multipart()\n"
        '            known = vars(self).setdefault("_known", set())\n'
        "            if len(known | {peer}) > 16:\n                continue\n"
        "            known.add(peer)\n",
        "sixteen peers are served, and no other",
    ),
    Mutant(
        ("HSK-014",),
        "holds",
        "        if transfer_id in self._requests:\n            self._told",
        "        if self._requests.setdefault(transfer_id, 1):\n            self._told",
        "a completion counts whether or not its transfer is held (vllm-project/vllm#57570)",
    ),
    # -- refusal
    Mutant(
        (
            *(f"HSK-0{number}" for number in range(15, 26)),
            "HSK-027",
            "HSK-029",
            "HSK-031",
            "HSK-034",
            "HSK-037",
        ),
        "worker",
        "for request_id, good in loads.items() if good)",
        "for request_id, good in loads.items())",
        "what failed is reported as received (ai-dynamo/nixl#1493)",
    ),
    Mutant(
        ("HSK-015", "HSK-016", "HSK-017", "HSK-018", "HSK-020", "HSK-021", "HSK-022", "HSK-031"),
        "moves",
        "        if any(meeting.exception() is not None for meeting in meetings):\n"
        "            return False\n",
        "",
        "a handshake that failed is raised in the decode engine's step (vllm-project/vllm#49238)",
    ),
    Mutant(
        ("HSK-020",),
        "side_channel_messages",
        _FITS,
        _FITS.replace('"version", ', ""),
        "versions are not compared (vllm-project/vllm#29503)",
    ),
    Mutant(
        ("HSK-021",),
        "side_channel_messages",
        _FITS,
        _FITS.replace('"model", ', ""),
        "models are not compared (vllm-project/vllm#55776)",
    ),
    Mutant(
        ("HSK-022",),
        "side_channel_messages",
        _FITS,
        _FITS.replace('"head_dim", "itemsize", ', ""),
        "the bytes of a block are compared, and not what they are made of",
    ),
    Mutant(
        ("HSK-023",),
        "side_channel_messages",
        _FITS,
        _FITS.replace('"kv_heads", ', ""),
        "the numbers of KV heads are not compared",
    ),
    Mutant(
        ("HSK-026",),
        "reading_plan",
        _TOKENS,
        "min(len(local_block_ids), len(remote)) * ours.block_size",
        "blocks are taken one for one (vllm-project/vllm#42895)",
    ),
    Mutant(
        ("HSK-028",),
        "heads",
        _RUN,
        _RUN.replace("remote_head", "0"),
        "every rank gets the first heads of its P rank (vllm-project/vllm#47764)",
    ),
    Mutant(
        ("HSK-029",),
        "loads",
        "self._peers.forget(source.address)",
        "self._peers.met(source.address)",
        "the handshake that failed is remembered for ever (smg-project/smg#2382)",
    ),
    # -- silence
    Mutant(
        ("HSK-030",),
        "loads",
        "        self.meetings = [source.meeting for source in self.sources]\n",
        "        self.meetings = [source.meeting for source in self.sources]\n"
        "        [meeting.exception() for meeting in self.meetings]\n",
        "the call that starts a load waits for the peer",
    ),
    Mutant(
        ("HSK-031",),
        "side_channel",
        _POLL,
        _POLL.replace("1000", "10"),
        "a peer is given up long before the end of patience",
    ),
    Mutant(
        ("HSK-032",),
        "side_channel",
        _POLL,
        "                while not peer.poll(0) and time.monotonic() < deadline:\n"
        "                    continue\n" + _POLL.replace("round(1000 * left)", "0"),
        "the answer is spun for",
    ),
    Mutant(
        ("HSK-033",),
        "peers",
        "_THREADS = 16",
        "_THREADS = 1",
        "peers are met one after the other (vllm-project/vllm#50047)",
    ),
    Mutant(
        ("HSK-035",),
        "side_channel",
        "            with self._connected(host, port, timeout_s) as peer:\n"
        "                peer.send_multipart(encode(request))",
        "            peer = self._told.get((host, port))\n"
        "            if peer is None:\n"
        "                peer = self._told[host, port] = self._connected(host, port, timeout_s)\n"
        "            if peer:\n"
        "                peer.send_multipart(encode(request))",
        "one connection for all questions: an answer is taken for that to the next question",
    ),
    # -- restart
    Mutant(
        ("HSK-036",),
        "worker",
        "generation=self._engine.generation",
        "generation=1",
        "after its restart P tells of its first life (ai-dynamo/nixl#2027)",
    ),
)
