"""What requests say of a hand-off, in each protocol."""

from __future__ import annotations

from typing import Any

import pytest

from pd_testkit.engine.generation import Hold, Load
from pd_testkit.engine.wire import BadHandOff, Here, answer_fields, hand_offs
from pd_testkit.proxy import protocols
from pd_testkit.proxy.instances import Engine
from pd_testkit.reference.side_channel_messages import Done, decode_incoming, encode

P = Here("prefill", port=5000)
D = Here("decode", port=6000)

HELD = {
    "do_remote_prefill": True,
    "do_remote_decode": False,
    "remote_engine_id": "p-life-1",
    "remote_host": "10.0.0.1",
    "remote_port": 5000,
    "remote_block_ids": [7, 3, 9],
    "transfer_id": "cmpl-1",
}
"""What P's answer has, and a router gives to D as it is."""


def part(body: dict[str, Any], here: Here, request_id: str = "") -> Hold | Load | None:
    (only,) = hand_offs(body, request_id, 1, here)
    return only


def params(changed: dict[str, Any], here: Here = D) -> Hold | Load | None:
    return part({"kv_transfer_params": changed}, here)


@pytest.mark.parametrize("role", ["prefill", "decode", "both"])
@pytest.mark.parametrize("said", [None, {}, {"do_remote_decode": False}])
def test_a_request_without_a_hand_off_is_served_by_this_engine_alone(role: str, said: Any) -> None:
    assert params(said, Here(role)) is None
    assert part({}, Here(role)) is None


def test_p_holds_under_its_own_id_or_under_the_one_that_it_is_told() -> None:
    # The body that vllm-router 0.1.17 sends.
    asked = {
        "do_remote_decode": True,
        "do_remote_prefill": False,
        "remote_engine_id": None,
        "remote_block_ids": None,
        "remote_host": None,
        "remote_port": None,
    }
    assert params(asked, P) == Hold(None)
    assert params({**asked, "transfer_id": "tx-1"}, P) == Hold("tx-1")
    assert params(asked, Here("both")) == Hold(None)


def test_d_loads_what_p_says_that_it_holds() -> None:
    assert params(HELD) == Load("p-life-1", "10.0.0.1", 5000, "cmpl-1", block_ids=(7, 3, 9))


def test_d_is_told_of_p_s_sizes_and_ranks() -> None:
    told = params(
        {
            **HELD,
            "remote_handshake_port": 5555,
            "remote_tp_size": 4,
            "remote_dp_size": 2,
            "remote_dp_rank": 1,
            "remote_block_size": 32,
            "remote_tokens": 70,
        }
    )
    expected = Load("p-life-1", "10.0.0.1", 5555, "cmpl-1", 4, 2, 1, (7, 3, 9), 32, 70)
    assert told == expected


def test_vllm_s_names_of_the_same_things_are_read() -> None:
    said = {**HELD, "tp_size": 2, "remote_request_id": "cmpl-2", "transfer_id": None}
    told = params(said)
    assert isinstance(told, Load)
    assert (told.tp_size, told.transfer_id) == (2, "cmpl-2")


@pytest.mark.parametrize(
    "missing", ["remote_engine_id", "remote_host", "remote_port", "transfer_id"]
)
def test_half_a_hand_off_is_refused_by_the_name_of_what_is_missing(missing: str) -> None:
    for said in (
        {name: value for name, value in HELD.items() if name != missing},
        {**HELD, missing: None},
    ):
        with pytest.raises(BadHandOff, match="missing") as refused:
            params(said)
        assert refused.value.field == f"kv_transfer_params.{missing}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("do_remote_decode", True),
        ("do_remote_prefill", "yes"),
        ("remote_block_ids", "7,3"),
        ("remote_block_ids", [7, -1]),
        ("remote_block_ids", [7, 2**31]),
        ("remote_block_ids", [True]),
        ("remote_host", 5),
        ("remote_engine_id", ""),
        ("remote_port", 0),
        ("remote_port", 65536),
        ("remote_handshake_port", "x"),
        ("remote_tp_size", 0),
        ("remote_dp_rank", 1),
        ("remote_block_size", 0),
        ("remote_tokens", -1),
        ("transfer_id", 1.5),
        ("transfer_id", 2**64),
        ("transfer_id", -(2**63) - 1),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(BadHandOff) as refused:
        params({**HELD, name: value})
    assert refused.value.field == f"kv_transfer_params.{name}"


def test_a_transfer_s_number_is_one_that_p_and_d_can_tell_each_other() -> None:
    asked = {"do_remote_decode": True, "transfer_id": 2**127}  # as uuid4().int is
    with pytest.raises(BadHandOff, match="neither text nor a number in"):
        params(asked, P)
    for number in (2**64 - 1, -(2**63)):
        assert params({**asked, "transfer_id": number}, P) == Hold(number)
        frames = encode(Done(number, "reader"))
        assert decode_incoming(frames) == Done(number, "reader")


def test_a_hand_off_of_another_form_is_not_passed_over() -> None:
    with pytest.raises(BadHandOff, match="do_remote_decode"):
        params({"remote_engine_id": "p", "remote_block_ids": [1]})
    with pytest.raises(BadHandOff, match="str is no object"):
        part({"kv_transfer_params": "x"}, D)


def test_an_engine_takes_no_part_that_is_not_its_role_s() -> None:
    with pytest.raises(BadHandOff, match="role is prefill"):
        params(HELD, P)
    with pytest.raises(BadHandOff, match="role is decode"):
        params({"do_remote_decode": True}, D)


def test_each_prompt_of_a_list_is_handed_off() -> None:
    asked = {"kv_transfer_params": {"do_remote_decode": True}}
    assert hand_offs(asked, "", 2, P) == (Hold(None), Hold(None))
    second = {**HELD, "remote_block_ids": [8], "transfer_id": "cmpl-2"}
    told = answer_fields([HELD, second], asked, P)
    assert hand_offs(told, "", 2, D) == (
        Load("p-life-1", "10.0.0.1", 5000, "cmpl-1", block_ids=(7, 3, 9)),
        Load("p-life-1", "10.0.0.1", 5000, "cmpl-2", block_ids=(8,)),
    )


@pytest.mark.parametrize("prompts", [1, 3])
def test_prompts_and_hand_offs_are_equally_many(prompts: int) -> None:
    told = answer_fields([HELD, HELD], {"kv_transfer_params": {"do_remote_decode": True}}, P)
    with pytest.raises(BadHandOff, match=f"{prompts} of them, and 2 hand-offs") as refused:
        hand_offs(told, "", prompts, D)
    assert refused.value.field == "prompt"


def test_prompts_cannot_share_a_hand_off() -> None:
    for body, here in (
        ({"kv_transfer_params": HELD}, D),
        ({"kv_transfer_params": {"do_remote_decode": True, "transfer_id": "tx-1"}}, P),
        ({"kv_transfer_params": {**HELD, "further_prompts": "x"}}, D),
    ):
        with pytest.raises(BadHandOff):
            hand_offs(body, "", 2, here)
    name = "___prefill_addr_h:1___decode_addr_h:2_" + "0" * 32
    with pytest.raises(BadHandOff, match="2 prompts"):
        hand_offs({}, name, 2, Here("decode", "p2p_nccl"))
    assert hand_offs({}, "", 3, D) == (None, None, None)


# The proxy of this kit


def moriio(leg: Any, port: int, mode: str) -> Engine:
    zmq = f"host:127.0.0.1,handshake:{port},notify:{port}"
    return Engine(
        leg,
        f"http://127.0.0.1:{port + 1}",
        protocol="moriio",
        transfer_mode=mode,
        tp_size=2,
        handshake_port=port,
        zmq_address=zmq,
    )


def moriio_pair(mode: str) -> protocols.Pair:
    p, d = moriio("prefill", 5000, mode), moriio("decode", 6000, mode)
    return protocols.Pair(p, d, "moriio", None, "0" * 32)


def test_where_p_writes_d_meets_it_without_knowing_its_blocks() -> None:
    pair = moriio_pair("write")
    to_p = protocols.prefill_body({"prompt": "x"}, pair)
    to_d = protocols.decode_body({"prompt": "x"}, pair, None)
    p = part(dict(to_p), Here("prefill", "moriio", 5000))
    d = part(dict(to_d), Here("decode", "moriio", 6000))
    assert p == Hold("tx-" + "0" * 32)
    assert d == Load(None, "127.0.0.1", 5000, "tx-" + "0" * 32, tp_size=2)


def test_where_d_reads_p_s_answer_names_the_blocks() -> None:
    pair = moriio_pair("read")
    answer = {**HELD, "transfer_id": "tx-" + "0" * 32, "remote_handshake_port": 5000}
    to_d = protocols.decode_body({"prompt": "x"}, pair, answer)
    d = part(dict(to_d), Here("decode", "moriio", 6000))
    assert isinstance(d, Load)
    assert (d.host, d.port, d.block_ids) == ("10.0.0.1", 5000, (7, 3, 9))


def test_the_port_of_p_s_server_is_not_that_of_its_side_channel() -> None:
    with pytest.raises(BadHandOff) as refused:
        params({**HELD, "remote_block_ids": None}, Here("decode", "moriio"))
    assert refused.value.field == "kv_transfer_params.remote_handshake_port"


def test_the_addresses_of_p2p_nccl_are_read_from_the_id_that_the_proxy_makes() -> None:
    p = Engine("prefill", "http://10.0.0.1:80", protocol="p2p_nccl", zmq_address="10.0.0.1:5000")
    d = Engine("decode", "http://10.0.0.2:80", protocol="p2p_nccl", zmq_address="10.0.0.2:6000")
    pair = protocols.Pair(p, d, "p2p_nccl", None, "0123456789abcdef" * 2)
    name = protocols.request_id(pair, "mine")
    body = dict(protocols.prefill_body({"prompt": "x"}, pair))
    assert part(body, Here("prefill", "p2p_nccl", 5000), name) == Hold(name)
    expected = Load(None, "10.0.0.1", 5000, name, tp_size=4)
    assert part({}, Here("decode", "p2p_nccl", 6000, tp_size=4), name) == expected
    # One that takes either part finds itself in the id.
    assert part({}, Here("both", "p2p_nccl", 5000), name) == Hold(name)
    assert isinstance(part({}, Here("both", "p2p_nccl", 6000), name), Load)


def test_an_id_without_addresses_is_no_hand_off_and_half_of_them_is_refused() -> None:
    here = Here("decode", "p2p_nccl")
    assert part({}, here, "plain-id") is None
    with pytest.raises(BadHandOff, match="___decode_addr_"):
        part({}, here, "___prefill_addr_10.0.0.1:5000_" + "0" * 32)


def test_vllm_router_s_ids_have_no_meaning_beside_parameters() -> None:
    name = "___prefill_addr_10.0.0.1:80___decode_addr_10.0.0.2:80_" + "0" * 32
    assert part({}, D, name) is None  # the protocol is another one
    here = Here("decode", "p2p_nccl")
    assert part({"kv_transfer_params": HELD}, here, name) == params(HELD)


# SGLang's

ROOM = {"bootstrap_host": "10.0.0.1", "bootstrap_port": 5000, "bootstrap_room": 2**63 - 1}


def test_p_and_d_meet_in_a_room() -> None:
    assert part(ROOM, P) == Hold(2**63 - 1)
    assert part(ROOM, D) == Load(None, "10.0.0.1", 5000, 2**63 - 1)
    assert part(ROOM, Here("both", port=5000)) == Hold(2**63 - 1)
    assert isinstance(part(ROOM, Here("both", port=6000)), Load)


def test_each_prompt_of_a_list_has_a_room() -> None:
    lists = {
        "bootstrap_host": ["10.0.0.1"] * 2,
        "bootstrap_port": [5000] * 2,
        "bootstrap_room": [1, 2],
    }
    assert hand_offs(lists, "", 2, P) == (Hold(1), Hold(2))
    answers = {name: [value] * 6 for name, value in ROOM.items()} | {"bootstrap_room": [*range(6)]}
    assert hand_offs(answers, "", 2, P, n=3) == (Hold(0), Hold(3))  # sglang-router's, for n=3
    shared = {**ROOM, "bootstrap_room": [1, 2]}
    assert hand_offs(shared, "", 2, P) == (Hold(1), Hold(2))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bootstrap_host", None),
        ("bootstrap_port", None),
        ("bootstrap_room", None),
        ("bootstrap_room", [1, 2, 3]),
        ("bootstrap_room", [1, None]),
        ("bootstrap_room", 7),  # both prompts would meet in it
        ("bootstrap_room", [True, 1]),
        ("bootstrap_room", [-1, 1]),
        ("bootstrap_port", 0),
        ("bootstrap_host", 1),
    ],
)
def test_a_room_that_is_incomplete_or_shared_is_refused(name: str, value: Any) -> None:
    with pytest.raises(BadHandOff) as refused:
        hand_offs({**ROOM, "bootstrap_room": [1, 2], name: value}, "", 2, P)
    assert refused.value.field == name


def test_a_room_beside_parameters_is_refused() -> None:
    with pytest.raises(BadHandOff, match="beside kv_transfer_params"):
        part({**ROOM, "kv_transfer_params": HELD}, D)


# Answers


def test_an_answer_tells_of_the_hand_off_where_d_asks_for_it() -> None:
    asked = {"kv_transfer_params": {"do_remote_decode": True}}
    assert answer_fields([HELD], asked, P) == {"kv_transfer_params": HELD}
    assert answer_fields([None], asked, P) == {"kv_transfer_params": None}


def test_an_answer_tells_nothing_where_d_knows_already() -> None:
    assert answer_fields([HELD], ROOM, P) == {"kv_transfer_params": None}
    assert answer_fields([HELD], {}, Here("prefill", "p2p_nccl")) == {"kv_transfer_params": None}
