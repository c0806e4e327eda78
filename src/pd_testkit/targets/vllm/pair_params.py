"""What P's connector answers, in the contract's words, and how it goes to D's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from pd_testkit.contract import HandOff, RequestId
from pd_testkit.targets.vllm.pair_seat import Params


@dataclass(frozen=True)
class Place:
    """Where an engine is, as whoever starts it knows.

    Attributes:
        port: of its side channel, or of its first worker's.
        second_port: of its other one, where it has two.
    """

    engine_id: str
    host: str
    port: int
    second_port: int
    tp_size: int


@dataclass(frozen=True)
class Told:
    """A hand-off that was made, and what of it the contract has no word for."""

    answer: Params
    engine: int
    tokens: int
    """Of the prompt."""


class Dialect(Protocol):
    """One connector's ``kv_transfer_params``, as a proxy handles them."""

    def prefill(self, request_id: RequestId, decode: Place) -> Params:
        """What a proxy sends to P, where D is there."""

    def answer(self, asked: Params, finished: Params | None, place: Place) -> Params:
        """What the proxy then knows: of what it asked, and what P's scheduler half gave."""

    def hand_off(self, answer: Params) -> HandOff:
        """That, in the contract's words."""

    def decode(self, answer: Params, source: HandOff) -> Params:
        """What a proxy sends to D: P's answer, with what the clause has changed in it."""


class Nixl:
    """Of `NixlConnector`: the proxy passes on what P answers."""

    def prefill(self, request_id: RequestId, decode: Place) -> Params:
        return {"do_remote_decode": True, "do_remote_prefill": False}

    def answer(self, asked: Params, finished: Params | None, place: Place) -> Params:
        if finished is None:
            raise RuntimeError("vLLM's request_finished has made no hand-off")
        return finished

    def hand_off(self, answer: Params) -> HandOff:
        (block_ids,) = answer["remote_block_ids"] or ((),)
        return HandOff(
            engine_id=answer["remote_engine_id"],
            host=answer["remote_host"],
            handshake_port=answer["remote_port"],
            block_ids=tuple(block_ids),
            transfer_id=answer["remote_request_id"],
            tp_size=answer["tp_size"],
        )

    def decode(self, answer: Params, source: HandOff) -> Params:
        return answer | {
            "remote_engine_id": source.engine_id,
            "remote_host": source.host,
            "remote_port": source.handshake_port,
            "remote_block_ids": [list(source.block_ids or ())],
            "remote_request_id": source.transfer_id,
            "tp_size": source.tp_size,
        }


class Mooncake:
    """Of `MooncakeConnector`: the proxy names the transfer to both, and P's bootstrap server to D;
    P answers nothing."""

    def prefill(self, request_id: RequestId, decode: Place) -> Params:
        return {
            "do_remote_decode": True,
            "do_remote_prefill": False,
            "transfer_id": f"xfer-{request_id}",
        }

    def answer(self, asked: Params, finished: Params | None, place: Place) -> Params:
        return {
            "remote_engine_id": place.engine_id,
            "remote_bootstrap_addr": _http(place.host, place.port),
            "transfer_id": asked["transfer_id"],
        }

    def hand_off(self, answer: Params) -> HandOff:
        where = urlsplit(answer["remote_bootstrap_addr"])
        return HandOff(
            engine_id=answer["remote_engine_id"],
            host=where.hostname,
            handshake_port=where.port,
            transfer_id=answer["transfer_id"],
        )

    def decode(self, answer: Params, source: HandOff) -> Params:
        return {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_engine_id": source.engine_id,
            "remote_bootstrap_addr": _http(source.host, source.handshake_port),
            "transfer_id": source.transfer_id,
        }


class MoRIIO:
    """Of `MoRIIOConnector`: the proxy names the transfer to both, and D to P, whose answer it
    passes on. Where P writes, it needs D's address before it has anything to answer."""

    def prefill(self, request_id: RequestId, decode: Place) -> Params:
        return {
            "do_remote_decode": True,
            "do_remote_prefill": False,
            "transfer_id": f"tx-{request_id}",
            "remote_engine_id": decode.engine_id,
            "remote_block_ids": [],
            "remote_host": decode.host,
            "remote_handshake_port": decode.port,
            "remote_notify_port": decode.second_port,
            "remote_tp_size": decode.tp_size,
        }

    def answer(self, asked: Params, finished: Params | None, place: Place) -> Params:
        if finished is None:
            raise RuntimeError("vLLM's request_finished has made no hand-off")
        return finished

    def hand_off(self, answer: Params) -> HandOff:
        (block_ids,) = answer["remote_block_ids"]
        return HandOff(
            engine_id=answer["remote_engine_id"],
            host=answer["remote_host"],
            port=int(answer["remote_notify_port"]),
            handshake_port=int(answer["remote_handshake_port"]),
            block_ids=tuple(block_ids),
            transfer_id=answer["transfer_id"],
            tp_size=answer["tp_size"],
        )

    def decode(self, answer: Params, source: HandOff) -> Params:
        return answer | {
            "remote_engine_id": source.engine_id,
            "remote_host": source.host,
            "remote_notify_port": source.port,
            "remote_handshake_port": source.handshake_port,
            "remote_block_ids": [list(source.block_ids or ())],
            "transfer_id": source.transfer_id,
            "tp_size": source.tp_size,
        }


def _http(host: str | None, port: int | None) -> str:
    return f"http://[{host}]:{port}" if ":" in (host or "") else f"http://{host}:{port}"


DIALECTS: dict[str, Dialect] = {
    "nixl": Nixl(),
    "mooncake": Mooncake(),
    "moriio": MoRIIO(),
    "moriio-write": MoRIIO(),
}
"""By the connector's variant."""
