"""What each connector's P and D are told."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from pd_testkit.proxy.instances import protocol_of
from pd_testkit.proxy.messages import Call, Response
from pd_testkit.proxy.router import Router
from tests.kit.proxy_routes import (
    BODY,
    HAND_OFF,
    PREFILLED,
    d,
    decode_call,
    message,
    p,
    router,
    serve,
    start,
)

ID = f"{1:032x}"
"""What `router` draws first."""

P_ZMQ, D_ZMQ = "10.0.0.1:14579", "10.0.0.2:14580"
P_MORIIO = "host:10.0.0.1,handshake:6301,notify:61005"
D_MORIIO = "host:fd00::2,handshake:6302,notify:61006"

# As the connectors of vLLM look for their peers' addresses in a request id.
P2P_DECODE = re.compile(r"___decode_addr_(.*):(\d+)")
P2P_PREFILL = re.compile(r"___prefill_addr_(.*):(\d+)___")
MORIIO_DECODE = re.compile(r"___decode_addr_(.+)_[0-9a-f]{32}(?:-.*)?$")
MORIIO_PREFILL = re.compile(r"___prefill_addr_(.+?)___decode_addr_")


def prefilled(**hand_off: Any) -> Response:
    return Response(200, json.dumps({"kv_transfer_params": hand_off}).encode())


def params(call: Call) -> dict[str, Any]:
    found = call.body["kv_transfer_params"]
    assert isinstance(found, dict)
    return found


class TestDetection:
    @pytest.mark.parametrize(
        ("engine", "default", "expected"),
        [
            (p(), "", ""),
            (p(), "moriio", "moriio"),
            (p(handshake_port=6301), "", "moriio"),
            (p(zmq_address=P_ZMQ), "", "p2p_nccl"),
            (p(zmq_address=P_MORIIO), "", "moriio"),
            (p(zmq_address=P_ZMQ), "nixl", "nixl"),
            (p(protocol="nixl", zmq_address=P_ZMQ), "p2p_nccl", "nixl"),
        ],
    )
    def test_what_the_engine_says_goes_before_the_default_and_that_before_the_signs(
        self, engine, default: str, expected: str
    ) -> None:
        assert protocol_of(engine, default) == expected

    def test_p_and_d_of_one_protocol_serve_a_request(self) -> None:
        made = router(
            p(1, protocol="nixl"),
            p(2, protocol="p2p_nccl", zmq_address=P_ZMQ),
            d(1, protocol="p2p_nccl", zmq_address=D_ZMQ),
            d(2, protocol="nixl"),
        )
        pairs = set()
        for _ in range(6):
            route = start(made)
            first = route.call.engine
            pairs.add((first.protocol, serve(route).engine.protocol))
        assert pairs == {("nixl", "nixl"), ("p2p_nccl", "p2p_nccl")}

    def test_without_a_p_of_any_ds_protocol_there_is_a_503(self) -> None:
        made = router(p(protocol="nixl"), d(protocol="p2p_nccl", zmq_address=D_ZMQ))
        refusal = made.start(BODY, "/v1/completions", {}, 0.0)
        assert isinstance(refusal, Response)
        assert refusal.status == 503

    def test_a_d_without_a_p_of_its_protocol_is_passed_over(self) -> None:
        made = router(
            p(protocol="nixl"),
            d(1, protocol="p2p_nccl", zmq_address=D_ZMQ),
            d(2, protocol="nixl"),
        )
        assert {serve(start(made)).engine.url for _ in range(4)} == {"http://d2:8000"}

    def test_an_engine_that_says_nothing_is_no_p2p_nccl_one(self) -> None:
        made = router(p(), d(protocol="p2p_nccl", zmq_address=D_ZMQ))
        assert isinstance(made.start(BODY, "/v1/completions", {}, 0.0), Response)


class TestNixl:
    @pytest.fixture
    def made(self) -> Router:
        return router(p(protocol="nixl"), d(protocol="nixl"))

    def test_p_is_told_to_keep_the_kv(self, made: Router) -> None:
        assert start(made).call.body == {
            "model": "m",
            "prompt": "one two three",
            "max_tokens": 1,
            "stream": False,
            "kv_transfer_params": {
                "do_remote_decode": True,
                "do_remote_prefill": False,
                "remote_engine_id": None,
                "remote_block_ids": None,
                "remote_host": None,
                "remote_port": None,
            },
        }

    def test_d_gets_the_hand_off_and_nothing_else(self, made: Router) -> None:
        hand_off = {**HAND_OFF, "tp_size": 4, "remote_request_id": "cmpl-7", "transfer_id": 5}
        call = decode_call(start(made), prefilled(**hand_off))
        assert call.body == {**BODY, "kv_transfer_params": hand_off}


class TestP2pNccl:
    @pytest.fixture
    def made(self) -> Router:
        return router(p(zmq_address=P_ZMQ), d(zmq_address=D_ZMQ))

    def test_both_legs_find_their_peer_in_the_request_id(self, made: Router) -> None:
        route = start(made)
        expected = f"___prefill_addr_{P_ZMQ}___decode_addr_{D_ZMQ}_{ID}"
        assert route.request_id == expected
        assert route.call.headers == {"x-request-id": expected}
        assert decode_call(route).headers == {"x-request-id": expected}

    def test_the_connector_reads_it_next_to_the_clients_id_too(self, made: Router) -> None:
        for client in ("client-5", "7___decode_addr_evil:1_x", "_____prefill_addr_evil:1___"):
            name = start(made, headers={"x-request-id": client}).request_id
            for pattern, expected in ((P2P_DECODE, D_ZMQ), (P2P_PREFILL, P_ZMQ)):
                found = pattern.search(f"cmpl-{name}-0")
                assert found, name
                assert ":".join(found.groups()) == expected, name

    def test_no_parameters_are_sent_and_no_hand_off_is_needed(self, made: Router) -> None:
        route = start(made, {**BODY, "kv_transfer_params": {"mine": 1}})
        assert "kv_transfer_params" not in route.call.body
        assert route.call.body["max_tokens"] == 1
        assert decode_call(route, Response(200, b"{}")).body == BODY

    def test_a_direct_turn_has_a_plain_request_id(self) -> None:
        made = router(p(zmq_address=P_ZMQ), d(zmq_address=D_ZMQ), mode="ppd")
        serve(start(made))
        longer = {**BODY, "prompt": BODY["prompt"] + " four"}
        route = start(made, longer, headers={"x-request-id": "a___prefill_addr_evil:1___b"})
        assert route.kind == "direct"
        assert route.request_id.endswith(f"-{2:032x}")
        for pattern in (P2P_DECODE, P2P_PREFILL, MORIIO_DECODE, MORIIO_PREFILL):
            assert pattern.search(route.request_id) is None

    def test_each_attempt_has_an_id_of_its_own(self) -> None:
        made = router(p(1, zmq_address=P_ZMQ), p(2, zmq_address=P_ZMQ), d(zmq_address=D_ZMQ))
        route = start(made)
        first = route.request_id
        route.lost(0.0)
        assert route.request_id != first
        assert route.call.headers["x-request-id"] == route.request_id

    def test_an_engine_without_a_zmq_address_is_refused(self) -> None:
        with pytest.raises(ValueError, match="ZMQ"):
            router(p(protocol="p2p_nccl"))
        with pytest.raises(ValueError, match="ZMQ"):
            router(p(), protocol="p2p_nccl")


class TestAtom:
    """MoRIIO as ATOM's connector speaks it: a handshake port, and DP ranks."""

    @pytest.fixture
    def made(self) -> Router:
        return router(
            p(handshake_port=6301, dp_size=2, tp_size=8), d(handshake_port=6401, tp_size=4)
        )

    def test_p_is_told_of_its_d(self, made: Router) -> None:
        assert params(start(made).call) == {
            "do_remote_decode": True,
            "do_remote_prefill": False,
            "remote_engine_id": None,
            "remote_block_ids": None,
            "remote_host": "d1",
            "remote_port": 8000,
            "remote_handshake_port": 6401,
            "remote_dp_size": 1,
            "remote_tp_size": 4,
        }

    def test_no_address_is_in_the_request_id(self, made: Router) -> None:
        assert start(made).request_id == ID

    def test_d_is_told_of_its_p_and_of_the_rank_that_prefilled(self, made: Router) -> None:
        hand_off = {**HAND_OFF, "transfer_id": 12, "dp_rank": 1, "tp_size": 8}
        assert params(decode_call(start(made), prefilled(**hand_off))) == {
            **hand_off,
            "remote_handshake_port": 6301,
            "remote_dp_size": 2,
            "remote_tp_size": 8,
            "remote_dp_rank": 1,
        }

    def test_the_rank_that_was_asked_is_taken_where_p_names_none(self, made: Router) -> None:
        for rank in ("0", "1"):
            route = start(made)
            assert route.call.headers["x-data-parallel-rank"] == rank
            assert params(decode_call(route))["remote_dp_rank"] == int(rank)

    def test_what_p_says_of_itself_stands(self, made: Router) -> None:
        told = params(decode_call(start(made), prefilled(**HAND_OFF, remote_handshake_port=9)))
        assert told["remote_handshake_port"] == 9
        assert told["remote_host"] == "10.9.9.9"

    def test_a_null_of_ps_is_filled(self, made: Router) -> None:
        told = params(decode_call(start(made), prefilled(**{**HAND_OFF, "remote_host": None})))
        assert told["remote_host"] == "p1"

    def test_a_transfer_id_in_the_answer_shows_an_engine_that_said_nothing(self) -> None:
        hand_off = {**HAND_OFF, "transfer_id": 12, "dp_rank": 3}
        told = params(decode_call(start(router()), prefilled(**hand_off)))
        assert told["remote_dp_rank"] == 3
        assert told["remote_tp_size"] == 1
        assert "remote_dp_rank" not in params(decode_call(start(router())))


class TestVllmMoriio:
    """MoRIIO as vLLM's connector speaks it: addresses in the id, and transfers named."""

    @pytest.fixture
    def made(self) -> Router:
        return router(p(zmq_address=P_MORIIO, dp_size=4), d(zmq_address=D_MORIIO))

    def test_both_legs_find_their_peer_in_the_request_id(self, made: Router) -> None:
        name = start(made, headers={"x-request-id": "client-5"}).request_id
        for wrapped in (name, f"cmpl-{name}-0-1a2b3c4d"):
            decode, prefill = MORIIO_DECODE.search(wrapped), MORIIO_PREFILL.search(wrapped)
            assert decode
            assert prefill
            assert (prefill[1], decode[1]) == (P_MORIIO, D_MORIIO)

    def test_the_transfer_is_named_before_p_is_asked(self, made: Router) -> None:
        route = start(made)
        assert params(route.call)["transfer_id"] == f"tx-{ID}"
        assert params(decode_call(route))["transfer_id"] == f"tx-{ID}"

    def test_ps_name_of_the_transfer_stands(self, made: Router) -> None:
        told = params(decode_call(start(made), prefilled(**HAND_OFF, transfer_id="tx-p")))
        assert told["transfer_id"] == "tx-p"

    def test_in_write_mode_no_hand_off_is_needed(self) -> None:
        made = router(
            p(zmq_address=P_MORIIO, transfer_mode="write"),
            d(zmq_address=D_MORIIO, transfer_mode="write"),
        )
        told = params(decode_call(start(made), Response(200, b'{"choices": []}')))
        assert told == {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_engine_id": None,
            "remote_block_ids": None,
            "remote_host": "p1",
            "remote_port": 8000,
            "remote_dp_size": 1,
            "remote_tp_size": 1,
            "transfer_id": f"tx-{ID}",
        }

    def test_in_read_mode_it_is(self, made: Router) -> None:
        answer = start(made).answered(Response(200, b'{"choices": []}'), 0.0)
        assert isinstance(answer, Response)
        assert answer.status == 502
        assert "kv_transfer_params" in message(answer)


class TestRequestIds:
    def test_two_requests_that_the_client_names_alike_are_told_apart(self) -> None:
        made = router()
        names = {start(made, headers={"x-request-id": "same"}).request_id for _ in range(3)}
        assert names == {f"same-{number:032x}" for number in (1, 2, 3)}

    def test_the_ids_that_the_router_draws_have_32_hexadecimal_digits(self) -> None:
        made = Router()
        for engine in (p(), d()):
            made.registry.register(engine, 0.0)
        names = {start(made).request_id for _ in range(100)}
        assert len(names) == 100
        assert all(re.fullmatch("[0-9a-f]{32}", name) for name in names)

    def test_d_is_sent_to_no_rank_that_was_chosen_for_p(self) -> None:
        made = router(p(dp_size=4), d(dp_size=4))
        assert "x-data-parallel-rank" not in decode_call(start(made), PREFILLED).headers
