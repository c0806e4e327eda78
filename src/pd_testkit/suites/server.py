"""The engine's OpenAI server and its ``kv_transfer_params``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pd_testkit.contract import Generation, Served, Unit
from pd_testkit.suites.base import Suite, clause

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"

ASKED: Mapping[str, Any] = {
    "do_remote_prefill": True,
    "do_remote_decode": False,
    "remote_engine_id": "engine-7",
    "remote_block_ids": [9, 2, 4],
    "remote_host": "10.0.0.1",
    "remote_port": 7001,
    "transfer_id": 2**53 + 1,
    "x-unknown": {"nested": [None, True, "ü"]},
}
"""What a client hands in, with a field that no engine knows."""

GIVEN: Mapping[str, Any] = {**ASKED, "remote_block_ids": [31, 7], "transfer_id": 2**40 + 3}
"""What the core hands out."""

TWO = (
    Generation(("a", "b"), "stop", {**GIVEN, "remote_block_ids": [1]}),
    Generation(("c", "d", "e"), "length", {**GIVEN, "remote_block_ids": [2]}),
)


def body(path: str, text: str = "one two three", **fields: Any) -> dict[str, Any]:
    """A request for that path whose prompt, or only message, is the text."""
    prompt: dict[str, Any] = (
        {"messages": [{"role": "user", "content": text}]} if path == CHAT else {"prompt": text}
    )
    return {"model": "m", "max_tokens": 8, **prompt, **fields}


def handing_out(**fields: Any) -> Generation:
    """An answer with P's hand-off, with these fields of it changed."""
    return Generation(params={**GIVEN, **fields})


def parsed(served: Served) -> Mapping[str, Any]:
    """The object of a whole response."""
    assert served.status == 200, f"the server says {served.status}: {served.body[:300]!r}"
    found = json.loads(served.body)
    assert isinstance(found, dict), f"a JSON object expected: {served.body[:300]!r}"
    return found


def events(served: Served) -> list[str]:
    """The data of each event of a stream, ``[DONE]`` included."""
    assert served.status == 200, f"the server says {served.status}: {served.body[:300]!r}"
    lines = served.body.decode().splitlines()
    return [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]


def chunks(served: Served) -> list[Mapping[str, Any]]:
    """The objects of a stream."""
    return [json.loads(event) for event in events(served) if event != "[DONE]"]


def hand_offs(answer: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """All hand-offs in a stream's chunks, or in the one object of a whole response."""
    found = [chunk.get("kv_transfer_params") for chunk in answer]
    return [params for params in found if params]


def texts(answer: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Each choice's text, put together, by its index."""
    found: dict[int, str] = {}
    for chunk in answer:
        for choice in chunk.get("choices") or ():
            content = choice.get("delta") or choice.get("message") or choice
            piece = content.get("text") or content.get("content") or ""
            found[choice["index"]] = found.get(choice["index"], "") + piece
    return found


def finish_reasons(answer: Sequence[Mapping[str, Any]]) -> dict[int, list[str]]:
    """All finish reasons of each choice, in order."""
    found: dict[int, list[str]] = {}
    for chunk in answer:
        for choice in chunk.get("choices") or ():
            if choice.get("finish_reason"):
                found.setdefault(choice["index"], []).append(choice["finish_reason"])
    return found


def assert_openai_error(served: Served, what: str, lowest: int = 400, highest: int = 499) -> None:
    """The answer is an error as the OpenAI API words it."""
    assert lowest <= served.status <= highest, f"{what}: {served.status} {served.body[:200]!r}"
    found = json.loads(served.body)
    error = found.get("error") if isinstance(found, dict) else None
    assert isinstance(error, dict), f"{what}: no error object in {served.body[:200]!r}"
    assert isinstance(error.get("message"), str), f"{what}: the error has no message: {error}"
    assert error["message"], f"{what}: the error's message is empty"


class ServerSuite(Suite):
    """An engine's OpenAI server, with a scripted engine core behind it."""

    unit = Unit.SERVER

    # -- what comes back -----------------------------------------------------------------------

    @clause("SRV-001")
    def test_a_completion_carries_the_hand_off(self, make):
        served = make().ask(body(COMPLETIONS), generations=[handing_out()])
        assert parsed(served).get("kv_transfer_params") == GIVEN

    @clause("SRV-002")
    def test_a_streamed_completion_carries_the_hand_off_once(self, make):
        served = make().ask(body(COMPLETIONS, stream=True), generations=[handing_out()])
        assert hand_offs(chunks(served)) == [GIVEN]

    @clause("SRV-003")
    def test_a_chat_carries_the_hand_off(self, make):
        served = make().ask(body(CHAT), path=CHAT, generations=[handing_out()])
        assert parsed(served).get("kv_transfer_params") == GIVEN

    @clause("SRV-004")
    def test_a_streamed_chat_carries_the_hand_off_once(self, make):
        served = make().ask(body(CHAT, stream=True), path=CHAT, generations=[handing_out()])
        assert hand_offs(chunks(served)) == [GIVEN]

    # -- what goes in --------------------------------------------------------------------------

    @clause("SRV-005")
    def test_a_completions_params_reach_the_core(self, make):
        served = make().ask(body(COMPLETIONS, kv_transfer_params=ASKED))
        parsed(served)
        assert served.params == (ASKED,)

    @clause("SRV-006")
    def test_a_streamed_completions_params_reach_the_core(self, make):
        served = make().ask(body(COMPLETIONS, stream=True, kv_transfer_params=ASKED))
        chunks(served)
        assert served.params == (ASKED,)

    @clause("SRV-007")
    def test_a_chats_params_reach_the_core(self, make):
        served = make().ask(body(CHAT, kv_transfer_params=ASKED), path=CHAT)
        parsed(served)
        assert served.params == (ASKED,)

    @clause("SRV-008")
    def test_a_streamed_chats_params_reach_the_core(self, make):
        served = make().ask(body(CHAT, stream=True, kv_transfer_params=ASKED), path=CHAT)
        chunks(served)
        assert served.params == (ASKED,)

    @clause("SRV-009")
    def test_no_params_stay_no_params(self, make):
        server = make()
        for path in (COMPLETIONS, CHAT):
            for wanted in (body(path), body(path, kv_transfer_params=None)):
                served = server.ask(wanted, path=path)
                parsed(served)
                assert len(served.params) == 1
                assert not served.params[0], f"{wanted}: the core got {served.params[0]}"

    @clause("SRV-010")
    def test_no_hand_off_is_made_up(self, make):
        server = make()
        for path in (COMPLETIONS, CHAT):
            server.ask(body(path), path=path, generations=[handing_out()])
            whole = server.ask(body(path, "four", kv_transfer_params=ASKED), path=path)
            assert hand_offs([parsed(whole)]) == [], path
            streamed = server.ask(
                body(path, "five", stream=True, kv_transfer_params=ASKED), path=path
            )
            assert hand_offs(chunks(streamed)) == [], f"{path}, streamed"

    @clause("SRV-011")
    def test_requests_at_once_keep_their_own_params(self, make):
        server = make()

        def ask(number: int) -> None:
            stream = number % 2 == 0
            served = server.ask(
                body(
                    COMPLETIONS,
                    f"prompt number {number}.",
                    stream=stream,
                    kv_transfer_params={**ASKED, "transfer_id": number},
                ),
                generations=[
                    Generation((f"answer {number}", "."), params={**GIVEN, "transfer_id": -number})
                ],
            )
            answer = chunks(served) if stream else [parsed(served)]
            assert served.params == ({**ASKED, "transfer_id": number},)
            assert hand_offs(answer) == [{**GIVEN, "transfer_id": -number}]
            assert texts(answer) == {0: f"answer {number}."}

        with ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(ask, number) for number in range(1, 25)]:
                done.result()

    @clause("SRV-012")
    def test_ten_thousand_blocks_pass(self, make):
        server = make()
        asked = {**ASKED, "remote_block_ids": list(range(10_000, 0, -1))}
        given = {**GIVEN, "remote_block_ids": list(range(10_000))}
        for stream in (False, True):
            served = server.ask(
                body(COMPLETIONS, stream=stream, kv_transfer_params=asked),
                generations=[Generation(params=given)],
            )
            answer = chunks(served) if stream else [parsed(served)]
            # As one value: pytest would take its time to show how long lists differ.
            passed = served.params == (asked,) and hand_offs(answer) == [given]
            assert passed, f"stream={stream}: the hand-off was changed on its way"

    # -- several answers -----------------------------------------------------------------------

    @clause("SRV-013")
    def test_each_of_n_answers_gets_the_params(self, make):
        server = make()
        for path in (COMPLETIONS, CHAT):
            for stream in (False, True):
                served = server.ask(
                    body(path, n=2, temperature=1.0, stream=stream, kv_transfer_params=ASKED),
                    path=path,
                    generations=TWO,
                )
                assert served.status == 200, served.body[:300]
                assert served.params == (ASKED, ASKED), f"{path}, stream={stream}"

    @clause("SRV-014")
    def test_a_response_of_n_answers_carries_a_hand_off(self, make):
        server = make()
        for path in (COMPLETIONS, CHAT):
            served = server.ask(body(path, n=2, temperature=1.0), path=path, generations=TWO)
            found = parsed(served).get("kv_transfer_params")
            assert found in [each.params for each in TWO], f"{path}: {found}"

    @clause("SRV-015")
    def test_a_stream_of_n_answers_carries_a_hand_off(self, make):
        server = make()
        for path in (COMPLETIONS, CHAT):
            served = server.ask(
                body(path, n=2, temperature=1.0, stream=True), path=path, generations=TWO
            )
            found = hand_offs(chunks(served))
            assert found, f"{path}: no hand-off in {served.body!r}"
            assert all(params in [each.params for each in TWO] for params in found), path

    # -- the answer itself ---------------------------------------------------------------------

    @clause("SRV-016")
    def test_answers_come_whole(self, make):
        server = make()
        pieces = ("Once", " upon", " a", " time", ".")
        for path in (COMPLETIONS, CHAT):
            for params in (None, GIVEN):
                for stream in (False, True):
                    served = server.ask(
                        body(path, stream=stream),
                        path=path,
                        generations=[Generation(pieces, params=params)],
                    )
                    answer = chunks(served) if stream else [parsed(served)]
                    assert texts(answer) == {0: "Once upon a time."}, f"{path}, stream={stream}"

    @clause("SRV-017")
    def test_the_finish_reason_is_the_cores(self, make):
        server = make()
        for path in (COMPLETIONS, CHAT):
            for reason in ("length", "stop"):
                for stream in (False, True):
                    served = server.ask(
                        body(path, stream=stream),
                        path=path,
                        generations=[Generation(("a", "b"), reason, GIVEN)],
                    )
                    answer = chunks(served) if stream else [parsed(served)]
                    seen = set(finish_reasons(answer).get(0, ()))
                    assert seen == {reason}, f"{path}, stream={stream}: {reason} is seen as {seen}"

    @clause("SRV-018")
    def test_the_stream_ends_with_one_done(self, make):
        server = make()
        for path in (COMPLETIONS, CHAT):
            served = server.ask(body(path, stream=True), path=path, generations=[handing_out()])
            assert events(served).count("[DONE]") == 1, path
            assert events(served)[-1] == "[DONE]", f"{path}: something follows [DONE]"
            assert served.headers["content-type"].startswith("text/event-stream"), path

    @clause("SRV-019")
    def test_the_usage_counts_the_tokens(self, make):
        server = make()
        for path in (COMPLETIONS, CHAT):
            for pieces in (("a",), ("a", "b", "c")):
                served = server.ask(body(path), path=path, generations=[Generation(pieces)])
                assert parsed(served)["usage"]["completion_tokens"] == len(pieces), path

    # -- what is refused -----------------------------------------------------------------------

    @clause("SRV-020")
    def test_params_that_are_no_object_are_refused(self, make):
        server = make()
        for wrong in ("remote", 7, [ASKED], True):
            for stream in (False, True):
                served = server.ask(body(COMPLETIONS, stream=stream, kv_transfer_params=wrong))
                assert 400 <= served.status <= 499, f"{wrong!r}: {served.status}"
                assert served.params == (), f"{wrong!r} reached the core"

    @clause("SRV-021")
    def test_a_malformed_request_gets_an_openai_error(self, make):
        server = make()
        for path in (COMPLETIONS, CHAT):
            for what, raw in (
                ("no JSON", b'{"model": "m", "prompt'),
                ("no object", b"[1, 2]"),
                ("no prompt", b'{"model": "m", "max_tokens": 4}'),
            ):
                assert_openai_error(server.ask(raw, path=path), f"{path}, {what}")

    @clause("SRV-022")
    def test_another_model_gets_an_openai_error(self, make):
        server = make()
        for path in (COMPLETIONS, CHAT):
            served = server.ask(body(path, model="another"), path=path)
            assert_openai_error(served, path)
            assert served.params == (), "the core is not asked"

    @clause("SRV-023")
    def test_a_refusal_of_the_core_is_an_error(self, make):
        server = make()
        refused = Generation(refusal="the prompt is longer than the model's context")
        for path in (COMPLETIONS, CHAT):
            for stream in (False, True):
                served = server.ask(
                    body(path, stream=stream, kv_transfer_params=ASKED),
                    path=path,
                    generations=[refused],
                )
                assert_openai_error(served, f"{path}, stream={stream}", 400, 599)

    @clause("SRV-024")
    def test_a_routers_fields_do_no_harm(self, make):
        server = make()
        for path in (COMPLETIONS, CHAT):
            served = server.ask(
                body(
                    path,
                    max_tokens=1,
                    min_tokens=1,
                    echo=False,
                    skip_special_tokens=True,
                    ignore_eos=False,
                    x_unknown={"a": 1},
                    kv_transfer_params=ASKED,
                ),
                path=path,
                generations=[Generation(("a",), "length", GIVEN)],
            )
            assert texts([parsed(served)]) == {0: "a"}, path

    @clause("SRV-025")
    def test_a_message_of_parts_is_served(self, make):
        parts = [{"type": "text", "text": "one two"}]
        wanted = {"model": "m", "max_tokens": 8, "messages": [{"role": "user", "content": parts}]}
        served = make().ask(wanted, path=CHAT, generations=[Generation(("a", "b"))])
        assert texts([parsed(served)]) == {0: "ab"}

    # -- what clients ask beside ---------------------------------------------------------------

    @clause("SRV-026")
    def test_a_stream_has_its_usage_when_asked(self, make):
        server = make()
        for path in (COMPLETIONS, CHAT):
            for options in ({}, {"continuous_usage_stats": True}):
                asked = body(path, stream=True, stream_options={"include_usage": True, **options})
                served = server.ask(asked, path=path, generations=[Generation(("a", "b", "c"))])
                found = chunks(served)
                assert texts(found) == {0: "abc"}
                usage = found[-1].get("usage")
                assert usage, f"{path}: the last chunk before [DONE] has no usage: {found[-1]}"
                assert usage["completion_tokens"] == 3, f"{path}: three tokens, but {usage}"
                assert usage["prompt_tokens"] > 0, f"{path}: a prompt of no tokens: {usage}"

    @clause("SRV-027")
    def test_the_model_is_listed(self, make):
        listed = parsed(make().get("/v1/models"))
        assert "m" in [model.get("id") for model in listed.get("data") or ()], listed

    @clause("SRV-028")
    def test_a_live_engine_is_healthy(self, make):
        server = make()
        assert server.get("/health").status == 200
        parsed(server.ask(body(COMPLETIONS)))
        assert server.get("/health").status == 200, "after a request"
