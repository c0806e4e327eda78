"""The router's checks: long prompts, slow readers, a thousand streams."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pd_testkit.suites.base import clause
from pd_testkit.suites.flow_engines import decoded
from pd_testkit.suites.flow_script import DONE, asked, event, prompt_of, stream
from pd_testkit.suites.router_crowd import Crowd

_PROMPT_BYTES = 4 * 2**20

_BLOCK = bytes(range(256)) * 256  # 64 KiB
_MUCH = 1024  # of them: 64 MiB
_BOUND_BYTES = 32 * 2**20
"""What the sockets on the way hold, and some more."""

_STREAMS = 1000
_AT_A_TIME = 50
"""Streams that begin together: the next ones use P's connections again."""

_CROWD = 100
_CROWDS = 4
"""In which what is used again is all there, if nothing is lost."""


class Masses:
    """Much of everything: a part of `RouterSuite`."""

    @clause("RTR-039")
    def test_a_prompt_of_megabytes_reaches_both(self, engines, serve):
        p, d = engines.p(), engines.d(lambda received: stream(event("one"), DONE))
        client = serve(p, d)
        prompt = "".join(map(chr, range(0x4E00, 0x9E00))) * (_PROMPT_BYTES // (3 * 0x5000) + 1)
        raw = json.dumps(asked(prompt, stream=True), ensure_ascii=False).encode()
        assert len(raw) > _PROMPT_BYTES
        assert client.post(raw).status == 200
        for each in (p.next(), d.next()):
            assert each.body["prompt"] == prompt
        engines.ledger.assert_settled(fetched=1)

    @clause("RTR-040")
    def test_a_client_that_does_not_read_holds_its_engine_up(self, engines, serve):
        d = engines.d(_much)
        client = serve(engines.p(), d)
        slow = client.ask(asked("much", stream=True))
        assert slow.read(len(_BLOCK)) == _BLOCK
        assert _held_up(client, d) < _BOUND_BYTES, "D made so much that nobody read"

    @clause("RTR-041")
    def test_memory_does_not_grow_by_what_is_not_read(self, engines, serve):
        d = engines.d(_much)
        client = serve(engines.p(), d)
        before = _resident_bytes(client.proxy.pid)
        slow = [client.ask(asked(f"much {number}", stream=True)) for number in range(2)]
        for answer in slow:
            assert answer.read(len(_BLOCK)) == _BLOCK
        _held_up(client, d)
        grown = _resident_bytes(client.proxy.pid) - before
        assert grown < _BOUND_BYTES, f"the proxy's process grew by {grown >> 20} MiB"

    @clause("RTR-042")
    def test_a_thousand_streams_come_whole(self, engines, serve):
        gate = engines.gate()

        def script(received):
            own = event(prompt_of(received.body))
            return stream(own, gate, own + DONE)

        client = serve(engines.p(), engines.d(script))
        prompts = [f"prompt {number}" for number in range(_STREAMS)]
        with _files(8 * _STREAMS), Crowd(client.proxy.url, engines.patience_s) as crowd:
            for first in range(0, _STREAMS, _AT_A_TIME):
                some = prompts[first : first + _AT_A_TIME]
                crowd.ask(asked(prompt, stream=True) for prompt in some)
                crowd.until_all(b"data: ")
            gate.open()
            bodies = crowd.bodies()
        for prompt, body in zip(prompts, bodies, strict=True):
            own = event(json.dumps(prompt))
            assert body == own + own + DONE, f"{prompt} got {body[:200]!r}"
        engines.ledger.assert_settled(fetched=_STREAMS)

    @clause("RTR-043")
    def test_sockets_are_given_back_when_a_crowd_has_gone(self, engines, serve):
        d = engines.d()
        client = serve(engines.p(), d)

        def crowd_comes_and_goes() -> tuple[int, int]:
            """Sockets while it was there, and when it had gone."""
            gate = engines.gate()
            d.script = lambda received: stream(event("one"), gate, DONE)
            with Crowd(client.proxy.url, engines.patience_s) as crowd:
                crowd.ask(asked(f"prompt {number}", stream=True) for number in range(_CROWD))
                crowd.until_all(b"data: ")
                most = _open_files(client.proxy.pid)
                gate.open()
                crowd.bodies()
            d.script = decoded
            left, tries = most, 100
            while most - left < _CROWD * 0.9 and tries:
                assert client.post(asked()).status == 200
                left, tries = _open_files(client.proxy.pid), tries - 1
            return most, left

        with _files(16 * _CROWD):
            most, left = crowd_comes_and_goes()
            assert most - left >= _CROWD * 0.9, f"of {most} files {left} are open when all are gone"
            taken = [(most, left)]
            for _ in range(_CROWDS):
                again, still = crowd_comes_and_goes()
                taken.append((again, still))
                if again <= most + _CROWD / 2 and still <= left + _CROWD / 2:
                    break
                most, left = again, still  # more of them were with P at once, it may be
            else:
                pytest.fail(f"files while a crowd was there, and after it, each time: {taken}")


def _much(received):
    if "much" in prompt_of(received.body):
        return stream(*[_BLOCK] * _MUCH)
    return stream(event("one"), DONE)


def _held_up(client, d) -> int:
    """Bytes that D has made for its slowest readers, when they are no more between requests."""
    made, same = -1, 0
    while same < 5:
        for _ in range(10):
            assert client.post(asked(stream=True)).body == event("one") + DONE
        now = sum(each.written for each in d.requests if "much" in prompt_of(each.body))
        same = same + 1 if now == made else 0
        made = now
    return made


def _resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _open_files(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


@contextmanager
def _files(count: int) -> Iterator[None]:
    """So many may be open in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = max(soft, count if hard == resource.RLIM_INFINITY else min(count, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
