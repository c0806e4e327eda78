"""The flow's checks: connections and headers between the client, the proxy and the engines."""

from __future__ import annotations

import json

from pd_testkit.suites.base import clause
from pd_testkit.suites.flow_script import COMPLETIONS, asked, prompt_of


class Connections:
    """How requests travel: a part of `FlowSuite`."""

    @clause("FLOW-043")
    def test_one_connection_carries_request_after_request(self, engines, serve):
        client = serve(engines.p(), engines.d())
        connection = client.connect()
        own = connection.sock
        for turn, streamed in enumerate((True, False, True, False)):
            body = asked(f"turn {turn}", stream=streamed)
            answer = client.post(body, connection=connection)
            assert answer.status == 200
            assert f"turn {turn}".encode() in answer.body
            assert connection.sock is own, "the proxy closed the connection"
        assert client.post(b"{", connection=connection).status >= 400
        assert client.post(asked(), connection=connection).status == 200
        engines.ledger.assert_settled(fetched=5)

    @clause("FLOW-044")
    def test_a_body_that_is_sent_in_chunks_is_read_whole(self, engines, serve):
        p, d = engines.p(), engines.d()
        raw = json.dumps(asked("in chunks")).encode()
        pieces = iter([raw[:1], raw[1:30], raw[30:]])
        answer = serve(p, d).post(pieces)
        assert answer.status == 200
        for each in (p.next(), d.next()):
            assert prompt_of(each.body) == '"in chunks"'

    @clause("FLOW-045")
    def test_a_client_that_expects_100_continue_is_told_to(self, engines, serve):
        client = serve(engines.p(), engines.d())
        raw = json.dumps(asked()).encode()
        bare = client.connect().sock
        head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: proxy\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(raw)}\r\nExpect: 100-continue\r\n\r\n"
        bare.sendall(head.encode())
        assert bare.recv(65536).startswith(b"HTTP/1.1 100 "), "curl waits for it, a second long"
        bare.sendall(raw)
        assert bare.recv(65536).startswith(b"HTTP/1.1 200 ")

    @clause("FLOW-046")
    def test_who_asks_reaches_both_engines(self, engines, serve):
        p, d = engines.p(), engines.d()
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        said = {
            "Authorization": "Bearer sk-client",
            "X-Request-Id": "client-5",
            "Traceparent": trace,
        }
        assert serve(p, d).post(asked(), headers=said).status == 200
        first, second = p.next(), d.next()
        for each in (first, second):
            assert each.header("authorization") == "Bearer sk-client"
            assert each.header("traceparent") == trace
            assert "client-5" in (each.header("x-request-id") or "")
            assert each.header("content-type") == "application/json"
        assert first.header("x-request-id") == second.header("x-request-id")

    @clause("FLOW-047")
    def test_what_belongs_to_the_clients_connection_stays_there(self, engines, serve):
        p, d = engines.p(), engines.d()
        said = {
            "Host": "proxy.example",
            "Connection": "keep-alive, X-Private",
            "X-Private": "1",
            "Keep-Alive": "timeout=7777",
            "TE": "trailers",
            "Proxy-Authorization": "Basic c2VjcmV0",
        }
        assert serve(p, d).post(asked(), headers=said).status == 200
        for engine in (p, d):
            each = engine.next()
            assert each.header("host") == engine.url.removeprefix("http://")
            for name in ("x-private", "te", "proxy-authorization"):
                assert each.header(name) is None, name
            assert "7777" not in (each.header("keep-alive") or "")
