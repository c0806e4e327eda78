"""A measurement's file is read as it was written, also where its writer was killed."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_testkit.bench import results
from pd_testkit.bench.results import Counted, End, NoResult, Request, Run, Writer

RUN = Run(
    schema=1,
    id="abc123",
    command="bench",
    began=1_700_000_000.25,
    seed=7,
    configuration={"rate": None, "tags": {"mode": "pd"}, "prompt_tokens": 64},
    environment={"cores": 2},
    label="here",
)
REQUESTS = (
    Request(index=0, due=0.0, sent=0.001, ended=0.5, pieces=(0.25, 0.5), output_tokens=2),
    Request(index=1, due=1.0, sent=1.0, ended=2.0, error="cut", detail="ü", warm_up=True),
)
COUNTED = Counted(began=0.0, ended=2.0, prefill={"computed": 3.0}, decode={}, turn=2)
END = End(ended=3.0, summary={"seconds": 2.0}, warnings=("late",))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "x.jsonl"


def written(path: Path, *lines: results.Line) -> Path:
    with Writer(path, RUN) as writer:
        for line in lines:
            writer.write(line)
    return path


def test_what_is_written_is_read(path: Path) -> None:
    result = results.read(written(path, REQUESTS[0], COUNTED, REQUESTS[1], END))
    assert result.run == RUN
    assert result.requests == REQUESTS
    assert result.measured == REQUESTS[:1]
    assert result.counted == (COUNTED,)
    assert result.end == END
    assert (result.path, result.name) == (path, "here")


@given(
    st.builds(
        Request,
        index=st.integers(0, 2**40),
        due=st.floats(0, 1e6),
        sent=st.floats(0, 1e6),
        ended=st.floats(0, 1e6),
        pieces=st.lists(st.floats(0, 1e6), max_size=4).map(tuple),
        prompt_tokens=st.none() | st.integers(0, 2**31),
        detail=st.text(max_size=20),
        finish_reason=st.text(max_size=5),
        mode=st.sampled_from(["", "pd", "ppd"]),
        turn=st.none() | st.integers(1, 9),
    )
)
def test_any_request_is_read_as_it_was_written(request_: Request) -> None:
    line = msgspec.json.encode(request_)
    assert b"\n" not in line
    assert msgspec.json.decode(line, type=results.Line) == request_


def test_the_schema_is_json_lines_with_the_names_that_the_guide_states(path: Path) -> None:
    lines = [json.loads(line) for line in written(path, REQUESTS[0], END).read_text().splitlines()]
    assert [line["type"] for line in lines] == ["run", "request", "end"]
    assert lines[0]["schema"] == 1
    assert lines[1] == {
        "type": "request",
        "index": 0,
        "due": 0.0,
        "sent": 0.001,
        "ended": 0.5,
        "pieces": [0.25, 0.5],
        "output_tokens": 2,
    }


def test_a_killed_runs_requests_count(path: Path) -> None:
    written(path, *REQUESTS)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"type":"request","index":2,"du')
    result = results.read(path)
    assert (result.requests, result.end) == (REQUESTS, None)


def test_a_file_goes_on_after_its_last_whole_line(path: Path) -> None:
    written(path, REQUESTS[0])
    path.write_bytes(path.read_bytes() + b'{"type":"requ')
    with Writer(path, RUN, goes_on=True) as writer:
        writer.write(REQUESTS[1])
        writer.write(END)
    result = results.read(path)
    assert (result.run, result.requests, result.end) == (RUN, REQUESTS, END)


def test_the_last_end_counts(path: Path) -> None:
    stopped = End(ended=1.0, summary={}, interrupted=True)
    assert results.read(written(path, stopped, REQUESTS[0], END)).end == END


def test_a_file_that_is_there_is_not_written_over(path: Path) -> None:
    written(path, REQUESTS[0])
    with pytest.raises(FileExistsError):
        Writer(path, RUN)
    assert results.read(path).requests == REQUESTS[:1]


def test_fields_that_were_added_later_are_no_obstacle(path: Path) -> None:
    written(path, REQUESTS[0])
    text = path.read_text().replace('"index":0', '"index":0,"colour":"red"')
    path.write_text(text)
    assert results.read(path).requests == REQUESTS[:1]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "its first line is no run"),
        ("hello\n", "no result of pd-testkit"),
        ('{"a": 1}\n', "no result of pd-testkit"),
        ('{"type":"run","schema":2}\n', "schema 2; this pd-testkit reads schema 1"),
        ('{"type":"run","schema":1}\n', "line 1: "),
    ],
)
def test_what_is_no_result_is_refused(path: Path, content: str, says: str) -> None:
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(NoResult, match=says):
        results.read(path)


def test_a_file_that_is_not_utf_8_is_refused(path: Path) -> None:
    written(path, REQUESTS[0])
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"here"', b'"h\xe9re"'))
    with pytest.raises(NoResult, match=r"line 1: .*utf-8"):
        results.read(path)
    path.write_bytes(whole.replace(b'"type":"run"', b'"type":"r\xfcn"'))
    with pytest.raises(NoResult, match="no result of pd-testkit"):
        results.read(path)


def test_a_torn_line_in_the_middle_is_refused_with_its_number(path: Path) -> None:
    written(path, REQUESTS[0])
    path.write_bytes(path.read_bytes() + b"{torn\n{}\n")
    with pytest.raises(NoResult, match="line 3: "):
        results.read(path)


def test_files_are_found_by_name_or_in_folders(tmp_path: Path) -> None:
    for name in ("b/2.jsonl", "b/1.jsonl", "a.jsonl", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = results.files([tmp_path / "b", tmp_path / "a.jsonl"])
    assert [file.name for file in found] == ["1.jsonl", "2.jsonl", "a.jsonl"]
    with pytest.raises(NoResult, match="there is no such file or folder"):
        results.files([tmp_path / "c"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoResult, match="no result in"):
        results.files([tmp_path / "empty"])


def test_where_nobody_says_the_file_is_named_after_the_run() -> None:
    one = results.begin("bench", {}, {}, 1)
    other = results.begin("bench", {}, {}, 1)
    assert one.id != other.id
    path = results.default_path(one)
    assert path.parent == Path("pd-results")
    assert path.name.startswith("bench-")
    assert path.name.endswith(f"{one.id[:4]}.jsonl")
