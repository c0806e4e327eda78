"""The proxy's checks: what the client gets, and what happens when an engine fails."""

from __future__ import annotations

import json

from pd_testkit.contract import Reply
from pd_testkit.suites.base import clause
from pd_testkit.suites.proxy_script import BODY, body, failed, on_d, on_p, serving

_STATUSES = (400, 401, 404, 422, 429, 500, 503)


class Answers:
    """What the client gets: a part of `ProxySuite`."""

    # -- failures ------------------------------------------------------------------------------

    @clause("PRX-054")
    def test_ps_error_status_is_the_clients(self, make):
        proxy = serving(make)
        for status in _STATUSES:
            assert proxy.send(BODY, prefill=failed(status)).status == status

    @clause("PRX-055")
    def test_ps_error_body_is_the_clients(self, make):
        proxy = serving(make)
        for status in _STATUSES:
            exchange = proxy.send(BODY, prefill=failed(status))
            assert json.loads(exchange.body) == failed(status).body

    @clause("PRX-056")
    def test_after_a_failed_prefill_d_is_not_called(self, make):
        proxy = serving(make)
        for prefill in (*map(failed, _STATUSES), Reply(lost=True)):
            exchange = proxy.send(BODY, prefill=prefill)
            assert exchange.decode == (), f"P said {prefill}"
            assert exchange.status >= 400

    @clause("PRX-057")
    def test_ds_error_status_is_the_clients(self, make):
        proxy = serving(make)
        for stream in (False, True):
            for status in _STATUSES:
                exchange = proxy.send(body(stream=stream), decode=failed(status))
                assert exchange.status == status, f"stream={stream}"

    @clause("PRX-058")
    def test_ds_error_body_is_the_clients(self, make):
        proxy = serving(make)
        for status in _STATUSES:
            exchange = proxy.send(BODY, decode=failed(status))
            assert json.loads(exchange.body) == failed(status).body

    @clause("PRX-059")
    def test_a_p_that_dies_is_a_5xx(self, make):
        exchange = serving(make).send(BODY, prefill=Reply(lost=True))
        on_p(exchange)
        assert 500 <= exchange.status <= 599

    @clause("PRX-060")
    def test_a_d_that_dies_is_a_5xx(self, make):
        proxy = serving(make)
        for stream in (False, True):
            exchange = proxy.send(body(stream=stream), decode=Reply(lost=True))
            on_d(exchange)
            assert 500 <= exchange.status <= 599, f"stream={stream}"

    @clause("PRX-061")
    def test_a_failed_request_leaves_the_next_one_unharmed(self, make):
        proxy = serving(make)
        for prefill, decode in (
            (failed(500), None),
            (Reply(lost=True), None),
            (Reply(body={"choices": []}), None),
            (None, failed(400)),
            (None, Reply(lost=True)),
        ):
            proxy.send(BODY, prefill=prefill, decode=decode)
            after = proxy.send(BODY)
            assert after.status == 200, f"after {prefill} from P and {decode} from D"
            on_p(after)
            on_d(after)

    @clause("PRX-062")
    def test_a_silent_engine_is_given_up_within_an_hour(self, make):
        patience = serving(make).patience()
        assert 0 < patience <= 3600, f"the proxy waits {patience / 3600:.0f} h for an engine"

    @clause("PRX-063")
    def test_a_body_that_is_no_json_object_is_a_400(self, make):
        proxy = serving(make)
        for raw in (b"", b"{", b"prompt=one", b"[]", b'"one"', b"null", b"\xff\xfe"):
            exchange = proxy.send(raw, headers={"Content-Type": "application/json"})
            assert exchange.status == 400, f"the body is {raw!r}"
            assert (exchange.prefill, exchange.decode) == ((), ())

    @clause("PRX-064")
    def test_the_proxys_own_errors_are_openai_error_objects(self, make):
        for what, exchange in (
            ("no engines", make().send(BODY)),
            ("P is gone", serving(make).send(BODY, prefill=Reply(lost=True))),
            ("D is gone", serving(make).send(BODY, decode=Reply(lost=True))),
        ):
            try:
                message = json.loads(exchange.body)["error"]["message"]
            except (ValueError, KeyError, TypeError):
                message = None
            assert isinstance(message, str), f"{what}: {exchange.body!r}"
            assert message, f"{what}: the error says nothing"

    # -- success -------------------------------------------------------------------------------

    @clause("PRX-065")
    def test_the_client_gets_ds_answer(self, make):
        answer = b'{ "id":"d-1", "choices": [{"text": "\\u00e9\xc3\xa9", "x": 1.0}]}\n'
        exchange = serving(make).send(BODY, decode=Reply(raw=(answer,)))
        assert exchange.status == 200
        assert exchange.body == answer

    @clause("PRX-066")
    def test_the_client_gets_ds_stream_to_its_end(self, make):
        # The cuts are where a network makes them: within an event, and within a character.
        events = b'data: {"choices":[{"text":"\xc3\xa9"}]}\n\n: ping\n\ndata: [DONE]\n\n'
        cuts = (events[:9], events[9:28], events[28:60], events[60:])
        exchange = serving(make).send(
            body(stream=True), decode=Reply(raw=cuts, content_type="text/event-stream")
        )
        assert exchange.status == 200
        assert exchange.body == events

    @clause("PRX-067")
    def test_the_content_type_is_ds(self, make):
        proxy = serving(make)
        for stream, content_type in ((False, "application/json"), (True, "text/event-stream")):
            reply = Reply(raw=(b"data: [DONE]\n\n",), content_type=content_type)
            exchange = proxy.send(body(stream=stream), decode=reply)
            got = exchange.headers.get("content-type", "")
            assert got.partition(";")[0].strip() == content_type
