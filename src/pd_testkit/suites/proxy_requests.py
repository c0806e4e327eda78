"""The proxy's checks: what P and D are asked."""

from __future__ import annotations

import copy

from pd_testkit.contract import Reply
from pd_testkit.suites.base import clause
from pd_testkit.suites.proxy_script import (
    BODY,
    CHAT,
    HAND_OFF,
    body,
    d,
    on_d,
    on_p,
    p,
    params,
    prefilled,
    serving,
)

# Fields that decide what the KV of a prompt is, and one that no proxy can know.
_PASSED_THROUGH = {
    "cache_salt": "tenant-3",
    "add_special_tokens": False,
    "truncate_prompt_tokens": 128,
    "chat_template_kwargs": {"enable_thinking": True, "nested": {"list": [1, {"deep": None}]}},
    "x_vendor": [1.5, "kept", None],
}

_SAMPLING = {
    "n": 2,
    "best_of": 3,
    "min_tokens": 5,
    "temperature": 0.7,
    "top_p": 0.9,
    "seed": 11,
    "stop": ["\n\n", "END"],
    "ignore_eos": True,
    "logprobs": 3,
    "presence_penalty": 0.5,
    "logit_bias": {"50256": -100},
}


class Requests:
    """What the proxy makes of the client's request for each leg: a part of `ProxySuite`."""

    # -- P -------------------------------------------------------------------------------------

    @clause("PRX-024")
    def test_p_computes_one_token(self, make):
        proxy = serving(make)
        for max_tokens in (1, 2, 16, 4096):
            assert on_p(proxy.send(body(max_tokens=max_tokens))).body["max_tokens"] == 1

    @clause("PRX-025")
    def test_p_does_not_stream(self, make):
        proxy = serving(make)
        for stream in (True, False):
            assert not on_p(proxy.send(body(stream=stream))).body.get("stream")

    @clause("PRX-026")
    def test_p_completes_one_token(self, make):
        proxy = serving(make)
        asked = on_p(proxy.send(body(max_completion_tokens=16))).body
        assert asked.get("max_completion_tokens", 1) == 1

    @clause("PRX-027")
    def test_p_is_given_no_minimum_above_its_maximum(self, make):
        proxy = serving(make)
        for min_tokens in (1, 2, 16):
            asked = on_p(proxy.send(body(min_tokens=min_tokens))).body
            assert asked.get("min_tokens", 0) <= 1, f"min_tokens={min_tokens} reached P"

    @clause("PRX-028")
    def test_p_gets_no_stream_options(self, make):
        proxy = serving(make)
        wanted = body(stream=True, stream_options={"include_usage": True})
        assert "stream_options" not in on_p(proxy.send(wanted)).body

    @clause("PRX-029")
    def test_p_computes_one_choice(self, make):
        proxy = serving(make)
        for n in (1, 2, 8):
            assert on_p(proxy.send(body(n=n))).body.get("n", 1) == 1

    @clause("PRX-030")
    def test_p_computes_no_siblings_to_choose_from(self, make):
        asked = on_p(serving(make).send(body(n=2, best_of=4))).body
        assert asked.get("best_of", 1) == 1

    @clause("PRX-031")
    def test_p_gets_top_logprobs_only_with_logprobs(self, make):
        proxy = serving(make)
        asked = on_p(proxy.send(body(logprobs=True, top_logprobs=5), path=CHAT)).body
        assert not asked.get("top_logprobs") or asked.get("logprobs"), asked

    @clause("PRX-032")
    def test_both_legs_carry_the_prompt_as_it_came(self, make):
        proxy = serving(make)
        parts = [{"type": "text", "text": "one"}, {"type": "text", "text": " two\u2028\U0001f600"}]
        for path, name, prompt in (
            ("/v1/completions", "prompt", " leading space and \u00e9\n"),
            ("/v1/completions", "prompt", [1, 2, 3, 128009]),
            ("/v1/completions", "prompt", ["one", "two"]),
            ("/v1/completions", "prompt", [[1, 2], [3]]),
            (CHAT, "messages", [{"role": "user", "content": "one"}]),
            (CHAT, "messages", [{"role": "system", "content": ""}, {"content": parts}]),
        ):
            exchange = proxy.send({"model": "m", "max_tokens": 4, name: prompt}, path=path)
            assert on_p(exchange).body[name] == prompt, "P computes another prompt"
            assert on_d(exchange).body[name] == prompt, "D continues another prompt"

    @clause("PRX-033")
    def test_unknown_fields_reach_both_legs(self, make):
        exchange = serving(make).send(body(**_PASSED_THROUGH))
        for leg, call in (("P", on_p(exchange)), ("D", on_d(exchange))):
            got = {name: call.body.get(name) for name in _PASSED_THROUGH}
            assert got == _PASSED_THROUGH, f"on {leg}"

    @clause("PRX-034")
    def test_p_keeps_the_kv_and_fetches_none(self, make):
        asked = params(on_p(serving(make).send(BODY)))
        assert asked.get("do_remote_decode") is True
        assert not asked.get("do_remote_prefill")

    @clause("PRX-035")
    def test_the_callers_body_is_left_as_it_was(self, make):
        wanted = body(
            stream=True,
            stream_options={"include_usage": True},
            kv_transfer_params={"nested": {"mine": [1]}},
            **_SAMPLING,
        )
        before = copy.deepcopy(wanted)
        proxy = serving(make)
        exchanges = [proxy.send(wanted), proxy.send(wanted)]
        assert wanted == before
        first, second = (on_p(each).body for each in exchanges)
        assert first == second, "the same request gives P the same the second time"

    # -- D -------------------------------------------------------------------------------------

    @clause("PRX-036")
    def test_d_computes_as_many_tokens_as_the_client_asked_for(self, make):
        proxy = serving(make)
        for wanted in ({"max_tokens": 16}, {"max_tokens": 16, "max_completion_tokens": 9}):
            asked = on_d(proxy.send(body(**wanted))).body
            assert {name: asked.get(name) for name in wanted} == wanted

    @clause("PRX-037")
    def test_a_request_without_max_tokens_is_served_without_a_limit(self, make):
        exchange = serving(make).send({"model": "m", "prompt": "one two three"})
        asked = on_d(exchange).body
        assert exchange.status == 200
        assert asked.get("max_tokens") is None
        assert asked.get("max_completion_tokens") is None

    @clause("PRX-038")
    def test_a_request_for_one_token_gets_one_from_d(self, make):
        exchange = serving(make).send(body(max_tokens=1))
        assert exchange.status == 200
        assert on_d(exchange).body["max_tokens"] == 1

    @clause("PRX-039")
    def test_d_streams_as_the_client_asked(self, make):
        proxy = serving(make)
        options = {"include_usage": True, "continuous_usage_stats": True}
        asked = on_d(proxy.send(body(stream=True, stream_options=options))).body
        assert asked["stream"] is True
        assert asked["stream_options"] == options
        assert not on_d(proxy.send(body(stream=False))).body.get("stream")

    @clause("PRX-040")
    def test_d_samples_as_the_client_asked(self, make):
        asked = on_d(serving(make).send(body(**_SAMPLING))).body
        assert {name: asked.get(name) for name in _SAMPLING} == _SAMPLING

    @clause("PRX-041")
    def test_d_is_told_of_ps_engine_blocks_and_transfer(self, make):
        told = params(on_d(serving(make).send(BODY, prefill=prefilled())))
        assert told.get("remote_engine_id") == "engine-7"
        assert told.get("remote_block_ids") == [9, 2, 4], "the blocks, in prompt order"
        assert told.get("transfer_id") == 77

    @clause("PRX-042")
    def test_the_hand_off_reaches_d_whole(self, make):
        extra = {"sentinel": "kept", "nested": {"per_rank": [[1, 2], [3]], "none": None}}
        told = params(on_d(serving(make).send(BODY, prefill=prefilled(**extra))))
        wanted = {**HAND_OFF, **extra}
        assert {name: told.get(name) for name in wanted} == wanted
        assert set(wanted) <= set(told), "a null is carried, too"

    @clause("PRX-043")
    def test_d_fetches_the_kv_and_keeps_none(self, make):
        told = params(on_d(serving(make).send(BODY, prefill=prefilled())))
        assert told.get("do_remote_prefill") is True
        assert not told.get("do_remote_decode")

    @clause("PRX-044")
    def test_each_d_gets_its_own_requests_hand_off(self, make):
        proxy = serving(make, p(1), p(2), d(1), d(2), d(3))
        for number in range(6):
            own = prefilled(remote_engine_id=f"engine-{number % 2}", remote_block_ids=[number])
            told = params(on_d(proxy.send(BODY, prefill=own)))
            assert told["remote_block_ids"] == [number], f"request {number}"
            assert told["remote_engine_id"] == f"engine-{number % 2}", f"request {number}"

    @clause("PRX-045")
    def test_d_is_sent_to_the_rank_that_prefilled(self, make):
        proxy = serving(make, p(1, dp_size=4), d(1, dp_size=2))
        for rank in (3, 0, 2, 1):
            told = params(on_d(proxy.send(BODY, prefill=prefilled(dp_rank=rank))))
            ranks = {told[name] for name in ("dp_rank", "remote_dp_rank") if name in told}
            assert ranks == {rank}, f"P's rank {rank} prefilled, D is sent to {ranks}"

    @clause("PRX-046")
    def test_a_missing_hand_off_is_no_silent_recompute(self, make):
        proxy = serving(make)
        for answer in (
            Reply(body={"choices": []}),
            Reply(body={"choices": [], "kv_transfer_params": None}),
            Reply(body={"choices": [], "kv_transfer_params": {}}),
        ):
            exchange = proxy.send(BODY, prefill=answer)
            if exchange.recompute_reported:
                told = on_d(exchange).body.get("kv_transfer_params") or {}
                assert not told.get("do_remote_prefill"), "there is nothing to fetch"
            else:
                assert exchange.status >= 500, f"P says {answer.body}"
                assert exchange.decode == (), "D recomputes in silence"

    @clause("PRX-047")
    def test_a_prefill_answer_without_json_is_an_error(self, make):
        proxy = serving(make)
        for raw in (b"<html>gateway</html>", b'{"choices": [', b"[]", b"null"):
            exchange = proxy.send(BODY, prefill=Reply(raw=(raw,), content_type="text/html"))
            assert exchange.status >= 500, f"P says {raw!r}"
            assert exchange.decode == ()

    # -- who asks ------------------------------------------------------------------------------

    @clause("PRX-048")
    def test_both_legs_carry_the_same_request_id(self, make):
        proxy = serving(make)
        for headers in ({}, {"X-Request-Id": "client-5"}):
            exchange = proxy.send(BODY, headers=headers)
            request_id = on_p(exchange).headers.get("x-request-id")
            assert request_id, "P gets a request id"
            assert on_d(exchange).headers.get("x-request-id") == request_id

    @clause("PRX-049")
    def test_each_request_gets_an_id_of_its_own(self, make):
        proxy = serving(make)
        ids = [on_p(proxy.send(BODY)).headers.get("x-request-id") for _ in range(8)]
        assert len(set(ids)) == 8, ids

    @clause("PRX-050")
    def test_the_request_id_contains_the_clients(self, make):
        exchange = serving(make).send(BODY, headers={"X-Request-Id": "client-5"})
        for call in (on_p(exchange), on_d(exchange)):
            assert "client-5" in call.headers.get("x-request-id", "")

    @clause("PRX-051")
    def test_the_clients_authorization_reaches_both_legs(self, make):
        exchange = serving(make).send(BODY, headers={"Authorization": "Bearer sk-client"})
        for call in (on_p(exchange), on_d(exchange)):
            assert call.headers.get("authorization") == "Bearer sk-client"

    @clause("PRX-052")
    def test_no_authorization_is_invented(self, make, monkeypatch):
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        exchange = serving(make).send(BODY)
        for call in (on_p(exchange), on_d(exchange)):
            assert "authorization" not in call.headers

    @clause("PRX-053")
    def test_a_clients_own_transfer_parameters_are_not_used(self, make):
        forged = {
            "do_remote_prefill": True,
            "do_remote_decode": True,
            "remote_engine_id": "forged",
            "remote_block_ids": [666],
            "remote_host": "forged",
            "forged": True,
        }
        exchange = serving(make).send(body(kv_transfer_params=forged), prefill=prefilled())
        for call in (on_p(exchange), on_d(exchange)):
            assert "forged" not in str(call.body), f"in {call.body}"
            assert "666" not in str(call.body.get("kv_transfer_params"))
