"""The flow's checks: requests that no engine can serve."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pd_testkit.suites.base import clause
from pd_testkit.suites.flow_client import assert_error
from pd_testkit.suites.flow_script import CHAT, COMPLETIONS, asked


class Mistakes:
    """What the proxy says itself: a part of `FlowSuite`."""

    @clause("FLOW-037")
    def test_without_engines_the_client_is_told_to_come_again(self, engines, serve):
        client, p = serve(), engines.p()
        for joining in (None, p):
            if joining is not None:
                client.proxy.add(joining.instance)
            for streamed in (False, True):
                answer = client.post(asked(stream=streamed))
                assert_error(answer, 503)
                assert int(answer.headers.get("retry-after", 0)) > 0, "no Retry-After"
        assert p.requests == []

    @clause("FLOW-038")
    def test_a_body_that_is_no_json_object_is_a_400(self, engines, serve):
        p, d = engines.p(), engines.d()
        client = serve(p, d)
        for path in (COMPLETIONS, CHAT):
            for raw in (b"", b"{", b'{"a": 1', b"[]", b'"one"', b"7", b"null", b"\xff\xfe{}"):
                assert_error(client.post(raw, path), 400)
        assert client.post(asked()).status == 200
        assert (len(p.requests), len(d.requests)) == (1, 1)

    @clause("FLOW-039")
    def test_a_body_beyond_the_limit_is_a_413(self, engines, serve):
        p, d = engines.p(), engines.d()
        client = serve(p, d, max_body_bytes=1000)
        for size in (1000, 100_000, 1_000_000):
            assert_error(client.post(asked("x" * size)), 413)
            assert_error(client.post(_pieces(asked("x" * size))), 413)
        assert client.post(asked("x" * 500)).status == 200
        assert (len(p.requests), len(d.requests)) == (1, 1)

    @clause("FLOW-040")
    def test_an_unknown_path_is_a_404(self, engines, serve):
        p, d = engines.p(), engines.d()
        client = serve(p, d)
        for path in ("/", "/v1", "/v1/completion", "/v1/completions/x", "/v1/no/such%20path"):
            assert_error(client.post(asked(), path), 404)
        assert p.requests == d.requests == []

    @clause("FLOW-041")
    def test_a_wrong_method_is_a_405(self, engines, serve):
        p, d = engines.p(), engines.d()
        client = serve(p, d)
        for path in (COMPLETIONS, CHAT):
            for method in ("GET", "PUT", "DELETE"):
                answer = client.post(b"", path, method=method)
                assert_error(answer, 405)
                assert "POST" in answer.headers.get("allow", ""), "no Allow"
        assert p.requests == d.requests == []

    @clause("FLOW-042")
    def test_bytes_that_are_no_http_harm_nobody(self, engines, serve):
        client = serve(engines.p(), engines.d())
        for raw in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"POST\r\n\r\n"):
            bare = client.connect().sock
            bare.sendall(raw)
            answer = bare.recv(65536)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), f"to {raw!r}: {answer!r}"
            assert client.post(asked()).status == 200


def _pieces(body: Mapping[str, Any]) -> Iterator[bytes]:
    """The body in chunks, whose length is not told ahead."""
    raw = json.dumps(body).encode()
    for at in range(0, len(raw), 500):
        yield raw[at : at + 500]
