"""Planted bugs that the clauses of the unit `metadata` catch."""

from __future__ import annotations

from .mutant import Mutant

_ADD_RECEIVE = "self.receive[request_id] = RemoteTransfer.from_params(block_ids, params)"
_ADD_SAVE = "self.save[request_id] = RemoteTransfer.from_params(block_ids, params)"
_VALUES = "values = {name: params[name] for name in REQUIRED_PARAMS}"
_REMOTE = 'values["remote_block_ids"] = tuple(values["remote_block_ids"])'
_RETURN = "        return cls(local_block_ids=tuple(block_ids), **values)"
_LACKS = "if params.get(name) is None:"


def _value(clauses: tuple[str, ...], expression: str, bug: str) -> Mutant:
    """A bug in the values taken from the parameters."""
    return Mutant(clauses, "metadata", _VALUES, f"{_VALUES}\n        {expression}", bug)


MUTANTS = (
    _value(
        ("META-002", "META-012"),
        "values.update(remote_host='localhost')",
        "P is looked for on D's own host",
    ),
    _value(
        ("META-002", "META-012", "META-029"),
        "values.update(remote_handshake_port=values['remote_port'])",
        "the handshake goes to P's API port",
    ),
    _value(
        ("META-003",),
        "values.update(remote_engine_id='{remote_host}:{remote_port}'.format(**values))",
        "the engine id is made up from the address (vllm-project/vllm#27083)",
    ),
    _value(
        ("META-004",),
        "values.update(remote_tp_size=params.get('tp_size', 1))",
        "the TP size is read from a missing key (vllm-project/vllm#47764)",
    ),
    _value(
        ("META-005",),
        "values.update(remote_dp_rank=params.get('dp_rank', 0))",
        "the DP rank is read from a missing key (vllm-project/vllm#52014)",
    ),
    _value(
        ("META-006", "META-007"),
        "values.update(transfer_id=hash(values['transfer_id']) % 7919 + 1)",
        "the completion goes out under an id that P does not know (vllm-project/vllm#43066)",
    ),
    _value(
        ("META-007",),
        "values.update(remote_dp_rank=values['remote_dp_rank'] or None)",
        "DP rank 0 passes for none (vllm-project/vllm#46115)",
    ),
    Mutant(
        ("META-007", "META-020"),
        "metadata",
        _LACKS,
        "if not params.get(name):",
        "a value of zero, or no blocks, passes for a missing parameter (LMCache/LMCache#2459)",
    ),
    Mutant(
        ("META-008", "META-009", "META-031"),
        "metadata",
        f"{_LACKS}\n",
        f"{_LACKS}\n                params = {{**params, name: '0'}}\n                continue\n",
        "missing parameters are made up (vllm-project/vllm#42644)",
    ),
    Mutant(
        ("META-008", "META-031"),
        "metadata",
        'raise KeyError(f"kv_transfer_params lacks {name!r}")',
        'raise KeyError("kv_transfer_params are incomplete")',
        "the error does not say which parameter is missing",
    ),
    Mutant(
        ("META-009",),
        "metadata",
        _ADD_RECEIVE,
        "self.receive[request_id] = next(iter(self.receive.values()), None)\n"
        f"        {_ADD_RECEIVE}",
        "a refused request is queued with another one's transfer",
    ),
    Mutant(
        ("META-009",),
        "metadata",
        _ADD_RECEIVE,
        "self.receive, queued = {}, self.receive\n"
        f"        {_ADD_RECEIVE}\n        self.receive = queued | self.receive",
        "a refused request takes the step's others with it",
    ),
    Mutant(
        ("META-010",),
        "metadata",
        "        for name in REQUIRED_PARAMS:\n            if",
        "        params = {'remote_tp_size': 1, **params}\n"
        "        for name in REQUIRED_PARAMS:\n            if",
        "a missing TP size is taken for 1 (vllm-project/vllm#47764)",
    ),
    Mutant(
        ("META-011",),
        "metadata",
        "        for name in REQUIRED_PARAMS:\n            if",
        "        params = {'remote_dp_rank': 0, **params}\n"
        "        for name in REQUIRED_PARAMS:\n            if",
        "a missing DP rank is taken for 0 (sgl-project/sglang#22901)",
    ),
    Mutant(
        ("META-001", "META-013", "META-027"),
        "metadata",
        _REMOTE,
        'values["remote_block_ids"] = tuple(sorted(values["remote_block_ids"]))',
        "remote blocks are sorted, and no longer pair by position (xLLM-AI/xllm#2040)",
    ),
    Mutant(
        ("META-013",),
        "metadata",
        "local_block_ids=tuple(block_ids)",
        "local_block_ids=tuple(sorted(block_ids))",
        "local blocks are sorted",
    ),
    Mutant(
        ("META-014", "META-019"),
        "metadata",
        _RETURN,
        '        values["remote_block_ids"] = values["remote_block_ids"][: len(block_ids)]\n'
        f"{_RETURN}",
        "remote blocks are cut to the number of local ones",
    ),
    Mutant(
        ("META-014",),
        "metadata",
        _RETURN,
        f'        block_ids = block_ids[: len(values["remote_block_ids"])]\n{_RETURN}',
        "local blocks are cut to the number of remote ones (vllm-project/vllm#50558)",
    ),
    Mutant(
        ("META-015", "META-032"),
        "metadata",
        "local_block_ids=tuple(block_ids)",
        "local_block_ids=block_ids",
        "the scheduler's block table is shared, not copied (vllm-project/vllm#30358)",
    ),
    Mutant(
        ("META-016", "META-032"),
        "metadata",
        _REMOTE,
        'values["remote_block_ids"]',
        "the parameters' block list is shared, not copied",
    ),
    Mutant(
        ("META-017", "META-018", "META-032"),
        "metadata",
        _VALUES,
        "values = {name: params.pop(name) for name in REQUIRED_PARAMS}",
        "the parameters are used up: n > 1 has KV for one child only (vllm-project/vllm#38900)",
    ),
    Mutant(
        ("META-017",),
        "metadata",
        _VALUES,
        f"{_VALUES}\n        params['do_remote_prefill'] = False",
        "the caller's parameters are marked as done",
    ),
    Mutant(
        ("META-012", "META-018", "META-026"),
        "metadata",
        _ADD_RECEIVE,
        f"self.receive.clear()\n        {_ADD_RECEIVE}",
        "only the last request of a step is received",
    ),
    Mutant(
        ("META-018",),
        "metadata",
        _ADD_RECEIVE,
        "known = {t.transfer_id for t in self.receive.values()}\n"
        f"        if params['transfer_id'] not in known:\n            {_ADD_RECEIVE}",
        "siblings with one transfer id are dropped (vllm-project/vllm#43509)",
    ),
    Mutant(
        ("META-019",),
        "metadata",
        _ADD_RECEIVE,
        f"if block_ids:\n            {_ADD_RECEIVE}",
        "a full prefix hit is not queued, P is never told (vllm-project/vllm#18632)",
    ),
    Mutant(
        ("META-021",),
        "metadata",
        _ADD_RECEIVE,
        "self.receive.setdefault(request_id, RemoteTransfer.from_params(block_ids, params))",
        "a request queued again keeps the blocks that it lost (vllm-project/vllm#53250)",
    ),
    Mutant(
        ("META-022",),
        "metadata",
        _VALUES,
        'values = {name: params[name] for name in params if not name.startswith("do_")}',
        "a parameter that a newer peer added is an error",
    ),
    Mutant(
        ("META-024",),
        "metadata",
        "receive: dict[str, RemoteTransfer] = field(default_factory=dict)",
        "receive: dict[str, RemoteTransfer] = field(default_factory=lambda box={}: box)",
        "all steps share one dict of receives (sgl-project/sglang#27374)",
    ),
    Mutant(
        ("META-023",),
        "metadata",
        "transfer_ids: dict[str, int | str] = field(default_factory=dict)",
        "transfer_ids: dict[str, int | str] = field(default_factory=lambda: {'': 0})",
        "a fresh step maps a request that nobody added",
    ),
    Mutant(
        ("META-025",),
        "metadata",
        "return ConnectorMetadata(dict(self.receive), dict(self.save), dict(self.transfer_ids))",
        "return ConnectorMetadata(dict(self.receive), dict(self.save), self.transfer_ids)",
        "the workers are given the live mapping",
    ),
    Mutant(
        ("META-025",),
        "metadata",
        "return ConnectorMetadata(dict(self.receive), dict",
        "queued, self.receive = self.receive, {}\n        return ConnectorMetadata(queued, dict",
        "looking at the queue empties it",
    ),
    Mutant(
        ("META-026",),
        "metadata",
        _ADD_RECEIVE,
        f"request_id = request_id.strip()\n        {_ADD_RECEIVE}",
        "ids are stripped of blanks (vllm-project/vllm#34907)",
    ),
    Mutant(
        ("META-027",),
        "metadata",
        _REMOTE,
        'values["remote_block_ids"] = tuple(values["remote_block_ids"])[:8192]',
        "long prompts lose their tail",
    ),
    Mutant(
        ("META-028",),
        "metadata",
        "self.transfer_ids[request_id] = transfer_id",
        "self.transfer_ids = {request_id: transfer_id}",
        "only the last mapping is kept (vllm-project/vllm#46874)",
    ),
    Mutant(
        ("META-028",),
        "metadata",
        "self.transfer_ids[request_id] = transfer_id",
        "self.transfer_ids[request_id] = int(transfer_id) & 0xFFFFFFFF",
        "transfer ids are cut to 32 bits",
    ),
    Mutant(
        ("META-029", "META-030"),
        "metadata",
        _ADD_SAVE,
        _ADD_RECEIVE,
        "a save is queued as a receive",
    ),
    Mutant(
        ("META-030",),
        "metadata",
        _ADD_RECEIVE,
        f"self.save.pop(request_id, None)\n        {_ADD_RECEIVE}",
        "a receive drops the save of the same request",
    ),
    Mutant(
        ("META-031",),
        "metadata",
        _ADD_SAVE,
        f"params = dict.fromkeys(REQUIRED_PARAMS, ()) | dict(params)\n        {_ADD_SAVE}",
        "a save's missing parameters are made up",
    ),
    Mutant(
        ("META-029",),
        "metadata",
        _ADD_SAVE,
        f"params = {{**params, 'remote_tp_size': 1}}\n        {_ADD_SAVE}",
        "a save takes P's TP size for 1 (vllm-project/vllm#47764)",
    ),
)
