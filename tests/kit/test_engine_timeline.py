"""What the engine remembers of its answers, and what ``GET /timeline`` tells of it."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("torch", reason="not applicable: torch is not installed")

from pd_testkit.engine.generation import Course, Generation, Hold, Load, Token
from pd_testkit.engine.timeline import Answered, Following
from pd_testkit.engine.wire import Here
from tests.kit.engine_cores import GREEDY, answer, at_rest, core, prefill, prompt_of, running
from tests.kit.scripted_engine import ScriptedCore, serving

PROMPT = prompt_of(48, salt=5)


def test_an_answer_has_the_times_of_its_way() -> None:
    load = Load("p", "10.0.0.1", 5600, "t1")
    following = Following(Generation("cmpl-r-1-0", (1, 2, 3), GREEDY, load), "r-1", arrived=1.0)
    course = Course(began=4.0, load_began=2.0, load_ended=3.5, load_s=0.25, load_bytes=4096)
    following.token(Token(7, "a", cached_tokens=2, course=course), now=5.0)
    following.token(Token(8, "b"), now=6.0)
    following.token(Token(9, "c", finish_reason="length"), now=7.0)
    assert following.ended("length", now=7.5) == Answered(
        id="cmpl-r-1-0",
        request_id="r-1",
        part="load",
        transfer_id="t1",
        peer="10.0.0.1:5600",
        prompt_tokens=3,
        cached_tokens=2,
        tokens=3,
        finish_reason="length",
        arrived_at=1.0,
        load_began_at=2.0,
        load_ended_at=3.5,
        load_s=0.25,
        load_bytes=4096,
        began_at=4.0,
        first_token_at=5.0,
        last_token_at=7.0,
        ended_at=7.5,
    )


def test_an_answer_that_never_began_has_no_times_but_of_its_arrival_and_end() -> None:
    following = Following(Generation("a", (1,), GREEDY, Hold()), "r", arrived=1.0)
    ended = following.ended("abort", now=2.0)
    assert (ended.part, ended.tokens, ended.finish_reason) == ("hold", 0, "abort")
    assert (ended.arrived_at, ended.ended_at) == (1.0, 2.0)
    assert (ended.began_at, ended.load_began_at, ended.first_token_at) == (None, None, None)


def test_a_hand_off_s_load_and_hold_are_timed() -> None:
    async def scenario() -> None:
        p, d = core(role="prefill"), core(role="decode")
        async with running(p, d):
            load = await prefill(p, "p1", PROMPT)
            tokens = await answer(d, Generation("d1", PROMPT, GREEDY, load))
            await at_rest(p)
            course, others = tokens[0].course, tokens[1:]
            assert course is not None
            assert all(token.course is None for token in others)
            assert course.load_began is not None
            assert course.load_ended is not None
            assert course.load_began < course.load_ended <= course.began
            assert 0 < course.load_s <= course.load_ended - course.load_began
            assert course.load_bytes == d.stats().transfer_bytes > 0
            (held,) = p.timeline.told(0, 0.0)["entries"]
            assert (held["event"], held["id"]) == ("hold", "p1")
            assert held["transfer_id"] == load.transfer_id
            assert held["held_at"] < held["freed_at"]
            assert not d.timeline.told(0, 0.0)["entries"]

    asyncio.run(scenario())


def test_a_load_that_failed_ended_without_a_byte() -> None:
    class FailsOne:
        left = 1

        def next(self) -> str | None:
            self.left -= 1
            return "fail" if self.left == 0 else None

    async def scenario() -> None:
        p = core(role="prefill")
        d = core(role="decode", recompute_failed=True, parts={"transfer_faults": FailsOne()})
        async with running(p, d):
            load = await prefill(p, "p1", PROMPT)
            first, *_ = await answer(d, Generation("d1", PROMPT, GREEDY, load))
            assert first.course is not None
            assert first.course.load_ended is not None
            assert first.course.load_ended <= first.course.began
            assert (first.course.load_s, first.course.load_bytes) == (0.0, 0)

    asyncio.run(scenario())


def test_the_engine_tells_of_answers_by_their_requests_ids() -> None:
    async def scenario() -> None:
        scripted = ScriptedCore()
        async with serving(scripted, Here()) as client:
            await client.post(
                "/v1/completions",
                {"prompt": "secret", "max_tokens": 2, "n": 2},
                X_Request_Id="mine",
            )
            told = await client.get("/timeline")
            assert told.status == 200
            seen = told.json
            assert (seen["component"], seen["first"], seen["next"]) == ("engine", 0, 2)
            assert {entry["request_id"] for entry in seen["entries"]} == {"mine"}
            assert len({entry["id"] for entry in seen["entries"]}) == 2
            for entry in seen["entries"]:
                assert entry["event"] == "answer"
                assert (entry["prompt_tokens"], entry["tokens"]) == (6, 2)
                assert entry["arrived_at"] <= entry["first_token_at"] <= entry["last_token_at"]
                assert entry["last_token_at"] <= entry["ended_at"] <= seen["now"]
            assert b"secret" not in told.body
            assert (await client.get("/timeline?since=2")).json["entries"] == []
            refused = await client.get("/timeline?since=soon")
            assert (refused.status, refused.error["param"]) == (400, "since")

    asyncio.run(scenario())


def test_an_answer_that_is_told_of_late_ends_late() -> None:
    """The fault that makes an engine slow acts between the model and the client."""

    async def scenario() -> None:
        async with serving(ScriptedCore(), Here(), "slow=0.05") as client:
            await client.complete(max_tokens=1)
            (entry,) = (await client.get("/timeline")).json["entries"]
            assert entry["ended_at"] - entry["first_token_at"] >= 0.05

    asyncio.run(scenario())
