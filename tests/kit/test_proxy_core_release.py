"""A D that failed after P's prefill: P is told by another D that nobody fetches the blocks."""

from __future__ import annotations

from pd_testkit.proxy.messages import Call
from pd_testkit.proxy.protocols import REFUSED_MODEL
from tests.kit.proxy_routes import d, decode_call, p, router, serve, start


def test_another_d_is_to_refuse_the_hand_off() -> None:
    route = start(router(p(), d(1), d(2)), headers={"authorization": "Bearer sk-1"})
    failed = decode_call(route)
    route.lost(0.0)
    release = route.release
    assert isinstance(release, Call)
    assert (release.leg, release.path) == ("decode", failed.path)
    assert release.engine != failed.engine
    assert release.body["kv_transfer_params"] == failed.body["kv_transfer_params"]
    assert release.body["model"] == REFUSED_MODEL
    assert (release.body["max_tokens"], release.body["stream"]) == (1, False)
    assert release.headers == failed.headers


def test_the_only_d_is_asked_itself() -> None:
    route = start(router(p(), d(1)))
    failed = decode_call(route)
    route.started(503, 0.0)
    assert route.release is not None
    assert route.release.engine == failed.engine


def test_a_d_that_hung_up_before_its_answer_began_counts_as_failed() -> None:
    route = start(router(p(), d(1), d(2)))
    decode_call(route)
    route.started(200, 0.0)
    route.finished(0.0, ok=False)
    assert route.release is not None


def test_nothing_is_released_of_what_d_has() -> None:
    begun = start(router(p(), d(1), d(2)))
    decode_call(begun)
    begun.started(200, 0.0)
    begun.first_byte(0.0)
    begun.finished(0.0, ok=False)
    whole = start(router(p(), d(1), d(2)))
    decode_call(whole)
    serve(whole)
    refused = start(router(p(), d(1), d(2)))
    decode_call(refused)
    refused.started(422, 0.0)
    assert [begun.release, whole.release, refused.release] == [None] * 3


def test_a_p_that_failed_holds_nothing() -> None:
    route = start(router(p(1), p(2), d(1)))
    route.lost(0.0)
    assert route.release is None


def test_another_d_that_takes_over_leaves_nothing_to_release() -> None:
    route = start(router(p(), d(1), d(2)))
    decode_call(route)
    assert isinstance(route.refused(0.0), Call)
    assert route.release is None


def test_p2p_nccl_has_no_hand_off_to_release() -> None:
    zmq = {"zmq_address": "10.0.0.1:7"}
    route = start(router(p(**zmq), d(1, **zmq), d(2, **zmq)))
    decode_call(route)
    route.lost(0.0)
    assert route.release is None
