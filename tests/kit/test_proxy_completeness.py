"""A stream that goes by: whether it was a whole answer."""

from __future__ import annotations

import pytest

from pd_testkit.proxy.completeness import EventStream

DONE = b"data: [DONE]\n\n"
TEXT = b'data: {"choices": [{"text": "one"}]}\n\n'
QUOTED = b'data: {"choices": [{"text": "data: {\\"error\\" \\nevent: error [DONE]"}]}\n\n'
ERROR = b'data: {"error": {"message": "no"}}\n\n'


@pytest.mark.parametrize(
    ("stream", "complete"),
    [
        (TEXT + DONE, True),
        (TEXT + QUOTED + DONE, True),
        (DONE.rstrip(), True),
        (TEXT, False),
        (TEXT + QUOTED, False),
        (b"", False),
        (TEXT + DONE[:-4], False),
        (TEXT + ERROR + DONE, False),
        (b'data:{"error":1}\n\n' + DONE, False),
        (b"event: error\ndata: {}\n\n" + DONE, False),
        (TEXT + b"event: error\ndata: {}\n\n" + DONE, False),
    ],
)
def test_it_is_told_from_its_bytes_however_they_are_cut(stream: bytes, complete: bool) -> None:
    for size in (1, 2, 7, 30, len(stream) or 1):
        seen = EventStream()
        for at in range(0, len(stream), size):
            seen.feed(stream[at : at + size])
        assert seen.complete is complete, f"{size} bytes at a time"


def test_its_events_are_counted_however_they_are_cut() -> None:
    stream = TEXT + QUOTED + TEXT + DONE
    for size in (1, 2, 7, 30, len(stream)):
        seen = EventStream()
        for at in range(0, len(stream), size):
            seen.feed(stream[at : at + size])
        assert seen.events == 4, f"{size} bytes at a time"
