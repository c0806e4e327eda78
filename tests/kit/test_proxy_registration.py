"""The proxy's registrations: both wire forms, the limits, and the signature."""

from __future__ import annotations

import hashlib
import hmac

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_testkit.proxy.instances import Engine
from pd_testkit.proxy.registration import MAX_BYTES, BadRegistration, Goodbye, pack, parse
from pd_testkit.proxy.signature import Verifier, sign

ATOM = {
    "type": "register",
    "role": "P",
    "index": "17",
    "request_address": "http://10.0.0.1:8000/v1/completions",
    "handshake_port": 6301,
    "dp_size": 2,
    "tp_size": 8,
    "transfer_mode": "read",
}
VLLM = {"type": "D", "http_address": "10.0.0.2:8100", "zmq_address": "10.0.0.2:14579"}

SECRET = b"a secret of the fleet"
NOW = 1_800_000_000.0
NONCE = bytes(range(16))


def parsed(message: object) -> Engine | Goodbye:
    return parse(msgpack.packb(message))


def refusal(message: object) -> str:
    with pytest.raises(BadRegistration) as caught:
        parsed(message)
    return str(caught.value)


class TestForms:
    """What each form says of an engine."""

    @pytest.mark.parametrize("kind", ["register", "HELLO"])
    def test_atoms_form(self, kind: str) -> None:
        engine = parsed(ATOM | {"type": kind})
        assert engine == Engine(
            "prefill", "http://10.0.0.1:8000", dp_size=2, tp_size=8, handshake_port=6301
        )
        assert isinstance(engine, Engine)
        assert engine.heartbeat == 17

    def test_vllms_form(self) -> None:
        url = "http://10.0.0.2:8100"
        assert parsed(VLLM) == Engine("decode", url, zmq_address="10.0.0.2:14579")

    def test_vllms_form_of_moriio_has_the_handshake_port_in_its_address(self) -> None:
        address = "host:10.0.0.2,handshake:6301,notify:61005"
        engine = parsed(VLLM | {"zmq_address": address, "tp_size": 4, "transfer_mode": "write"})
        assert engine == Engine(
            "decode",
            "http://10.0.0.2:8100",
            transfer_mode="write",
            tp_size=4,
            handshake_port=6301,
            zmq_address=address,
        )

    def test_a_goodbye(self) -> None:
        goodbye = {"type": "goodbye", "role": "D", "request_address": "http://10.0.0.2:8100/"}
        assert parsed(goodbye) == Goodbye("decode", "http://10.0.0.2:8100")

    def test_what_may_be_left_out(self) -> None:
        least = {"type": "register", "role": "D", "request_address": "http://prefill-0.llm:80"}
        assert parsed(least) == Engine("decode", "http://prefill-0.llm:80")

    def test_a_named_protocol_and_the_mode_in_capitals(self) -> None:
        engine = parsed(ATOM | {"protocol": "nixl", "transfer_mode": "READ"})
        assert isinstance(engine, Engine)
        assert (engine.protocol, engine.transfer_mode) == ("nixl", "read")

    def test_keys_of_other_releases_are_passed_over(self) -> None:
        assert parsed(ATOM | {"notify_port": 61005, "ranks": [0, 1], "x": {"y": []}}) == parsed(
            ATOM
        )

    @pytest.mark.parametrize(
        "address",
        ["http://LLM:80", "http://llm:80/", "http://llm:80/v1/chat/completions", "http://llm:080"],
    )
    def test_one_engine_has_one_url(self, address: str) -> None:
        engine = parsed(ATOM | {"request_address": address})
        assert isinstance(engine, Engine)
        assert engine.url == "http://llm:80"

    def test_ipv6_keeps_its_brackets(self) -> None:
        engine = parsed(VLLM | {"http_address": "[fd00::1]:80", "zmq_address": "[fd00::1]:14579"})
        assert isinstance(engine, Engine)
        assert engine.url == "http://[fd00::1]:80"

    @pytest.mark.parametrize("message", [ATOM, VLLM, ATOM | {"role": "D"}, VLLM | {"type": "P"}])
    def test_what_is_packed_is_read_back(self, message: dict[str, object]) -> None:
        engine = parsed(message)
        assert parse(pack(engine)) == engine

    def test_a_packed_engine_is_in_the_form_that_others_read(self) -> None:
        packed = msgpack.unpackb(pack(parsed(ATOM)))
        assert {name: packed[name] for name in ATOM} == ATOM
        packed = msgpack.unpackb(pack(parsed(VLLM)))
        assert {name: packed[name] for name in VLLM} == VLLM

    def test_https_does_not_fit_into_vllms_form(self) -> None:
        with pytest.raises(ValueError, match="cannot be named"):
            pack(Engine("prefill", "https://10.0.0.1:8000", zmq_address="10.0.0.1:14579"))


class TestLimits:
    """What is refused, and in which words."""

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"type": "register2"}, "register2"),
            ({"role": "X"}, "role"),
            ({"role": 1}, "role"),
            ({"dp_size": 0}, "dp_size"),
            ({"dp_size": 4097}, "dp_size"),
            ({"tp_size": "8"}, "tp_size"),
            ({"tp_size": True}, "tp_size"),
            ({"tp_size": 8.0}, "tp_size"),
            ({"handshake_port": 0}, "handshake_port"),
            ({"handshake_port": 65536}, "handshake_port"),
            ({"index": "-1"}, "index"),
            ({"index": "1" * 19}, "index"),
            ({"index": "²"}, "index"),
            ({"transfer_mode": "read\n"}, "transfer_mode"),
            ({"protocol": "smoke"}, "protocol"),
            ({"request_address": ""}, "request_address"),
            ({"request_address": "http://" + "a" * 600 + ":80"}, "request_address"),
            ({"request_address": "10.0.0.1:8000"}, "10.0.0.1:8000"),
            ({"request_address": "ftp://10.0.0.1:8000"}, "ftp"),
            ({"request_address": "http://10.0.0.1"}, "10.0.0.1"),
            ({"request_address": "http://10.0.0.1:70000"}, "70000"),
            ({"request_address": "http://10.0.0.256:80"}, "10.0.0.256"),
            ({"request_address": "http://0.0.0.0:80"}, "0.0.0.0"),
            ({"request_address": "http://[::]:80"}, "::"),
            ({"request_address": "http://me@10.0.0.1:80"}, "me@"),
            ({"request_address": "http://10.0.0.1:80/admin"}, "admin"),
            ({"request_address": "http://10.0.0.1:80?x=1"}, "x=1"),
            ({"request_address": "http://10.0.0.1:80\r\nX: y"}, "no URL"),
            ({"request_address": "http://bücher:80"}, "no URL"),
        ],
    )
    def test_each_field_has_its_range(self, change: dict[str, object], said: str) -> None:
        assert said in refusal(ATOM | change)

    @pytest.mark.parametrize(
        "zmq_address",
        [
            "10.0.0.2",
            "10.0.0.2:0",
            "10.0.0.2:14579/x",
            "a b:14579",
            "a___decode_addr_b:14579",
            "host:a___decode_addr_b,handshake:6301,notify:61005",
            "host:10.0.0.2,notify:61005",
            "host:10.0.0.2,handshake:http,notify:61005",
        ],
    )
    def test_a_zmq_address_cannot_break_a_request_id(self, zmq_address: str) -> None:
        assert zmq_address in refusal(VLLM | {"zmq_address": zmq_address})

    def test_size_comes_first(self) -> None:
        assert str(MAX_BYTES) in refusal(ATOM | {"more": "x" * MAX_BYTES})
        parsed(ATOM | {"more": "x" * (MAX_BYTES - 300)})

    def test_a_reason_is_one_printable_line(self) -> None:
        reason = refusal(ATOM | {"type": "a\n\x1b[31m" + "b" * 4000})
        assert reason.isprintable()
        assert len(reason) <= 200

    @given(st.binary(max_size=300))
    def test_any_bytes_are_refused_in_the_same_way(self, raw: bytes) -> None:
        with pytest.raises(BadRegistration):
            parse(raw)

    @given(st.data())
    def test_a_changed_byte_gives_an_engine_or_a_refusal(self, data: st.DataObject) -> None:
        raw = bytearray(msgpack.packb(data.draw(st.sampled_from([ATOM, VLLM]))))
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        try:
            engine = parse(bytes(raw))
        except BadRegistration:
            return
        assert parse(pack(engine)) == engine


class TestSignature:
    """Who does not know the secret, or says it twice, is not heard."""

    def test_a_signed_message_is_opened(self) -> None:
        body = msgpack.packb(ATOM)
        assert Verifier(SECRET).open(sign(body, SECRET, NOW, NONCE), NOW) == body

    def test_the_wire_form_is_as_documented(self) -> None:
        message = msgpack.unpackb(sign(b"body", SECRET, NOW, NONCE))
        signed = b"pd-testkit registration 1\0" + (1_800_000_000_000).to_bytes(8, "big")
        signed += NONCE + b"body"
        assert message == {
            "type": "signed",
            "time": 1_800_000_000_000,
            "nonce": NONCE,
            "signature": hmac.new(SECRET, signed, hashlib.sha256).digest(),
            "body": b"body",
        }

    @pytest.mark.parametrize("message", [ATOM, VLLM, {"type": "goodbye"}])
    def test_an_unsigned_one_is_refused(self, message: dict[str, object]) -> None:
        with pytest.raises(BadRegistration, match="not signed"):
            Verifier(SECRET).open(msgpack.packb(message), NOW)

    def test_another_secret_is_refused(self) -> None:
        with pytest.raises(BadRegistration, match="secret"):
            Verifier(SECRET).open(sign(b"body", b"another secret!!", NOW, NONCE), NOW)

    @pytest.mark.parametrize(
        "change",
        [
            {"body": b"bodY"},
            {"time": int(NOW * 1000) + 1},
            {"nonce": bytes(16)},
            {"signature": bytes(32)},
        ],
    )
    def test_whatever_is_changed_breaks_it(self, change: dict[str, object]) -> None:
        message = msgpack.unpackb(sign(b"body", SECRET, NOW, NONCE)) | change
        with pytest.raises(BadRegistration, match="secret"):
            Verifier(SECRET).open(msgpack.packb(message), NOW)

    @pytest.mark.parametrize(
        "change",
        [
            {"nonce": bytes(15)},
            {"signature": bytes(31)},
            {"time": -1},
            {"time": 2**63},
            {"time": float(NOW)},
            {"body": "body"},
        ],
    )
    def test_its_fields_have_their_sizes(self, change: dict[str, object]) -> None:
        message = msgpack.unpackb(sign(b"body", SECRET, NOW, NONCE)) | change
        with pytest.raises(BadRegistration, match="not signed"):
            Verifier(SECRET).open(msgpack.packb(message), NOW)

    def test_it_is_good_once(self) -> None:
        verifier = Verifier(SECRET)
        message = sign(b"body", SECRET, NOW, NONCE)
        verifier.open(message, NOW)
        for later in (0.0, 1.0, 29.9):
            with pytest.raises(BadRegistration, match="replay"):
                verifier.open(message, NOW + later)
        assert verifier.open(sign(b"body", SECRET, NOW, NONCE[::-1]), NOW) == b"body"

    @pytest.mark.parametrize("apart", [-31.0, 31.0, -86400.0, 86400.0])
    def test_another_time_is_refused(self, apart: float) -> None:
        with pytest.raises(BadRegistration, match="clock"):
            Verifier(SECRET, window_s=30).open(sign(b"body", SECRET, NOW, NONCE), NOW + apart)

    @given(st.lists(st.floats(0, 200), min_size=1, max_size=40), st.floats(-30, 30))
    def test_no_message_is_ever_taken_twice(self, times: list[float], ahead: float) -> None:
        verifier = Verifier(SECRET, window_s=30)
        message = sign(b"body", SECRET, NOW + ahead, NONCE)
        taken = 0
        for time in sorted(times):
            try:
                verifier.open(message, NOW + time)
            except BadRegistration:
                continue
            taken += 1
        assert taken <= 1

    def test_nonces_are_forgotten_when_their_time_is_over(self) -> None:
        verifier = Verifier(SECRET, window_s=30)
        for beat in range(1000):
            now = NOW + beat
            verifier.open(sign(b"body", SECRET, now, beat.to_bytes(16, "big")), now)
        assert len(verifier._seen) == len(verifier._until) <= 62

    def test_strangers_fill_no_memory(self) -> None:
        verifier = Verifier(SECRET)
        for number in range(100):
            with pytest.raises(BadRegistration):
                verifier.open(
                    sign(b"body", b"another secret!!", NOW, number.to_bytes(16, "big")), NOW
                )
        assert not verifier._seen

    def test_a_short_secret_is_refused(self) -> None:
        with pytest.raises(ValueError, match="16 bytes"):
            Verifier(b"fifteen bytes..")
