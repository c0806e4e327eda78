"""The report: one page that needs nothing else, tells what was measured, and runs nobody's code."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner

from tests.kit import measured as made

pytest.importorskip("matplotlib")

from pd_testkit.plots.report_command import report

VOID = {"meta", "br", "hr", "img", "input", "link"}
EVIL = "</title><script>alert(1)</script><img src=x onerror=alert(2)> \" onfocus='a(3)' {{7*7}}"


class Page(HTMLParser):
    """Reads a page, strictly: what is opened is closed, in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.words, self.ids = [], [], [], []
        self.tables, self._cell = [], None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if "id" in dict(attributes):
            self.ids.append(dict(attributes)["id"])
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._cell = ""

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self.tables[-1][-1].append(self._cell)
            self._cell = None

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)
        if self._cell is not None:
            self._cell += data

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def table(self, head):
        """The rows of the table whose head has this cell."""
        (found,) = [table for table in self.tables if head in table[0]]
        return found


def made_page(tmp_path, *arguments, code=0):
    output = tmp_path / "report.html"
    told = CliRunner().invoke(report, [*map(str, arguments), "--output", str(output)])
    assert told.exit_code == code, told.output
    return Page(output.read_text("utf-8")), told


@pytest.fixture
def folder(tmp_path):
    data = tmp_path / "data"
    for concurrency in (1, 2):
        made.load(data / f"b{concurrency}.jsonl", concurrency=concurrency, requests=5)
    made.comparison(data / "compare.jsonl", turns=2)
    made.bandwidth(data / "bandwidth.jsonl")
    return data


def one(path, ttft, **fields):
    """A run of three requests."""
    requests = [made.answered(index, due=index, ttft=ttft, **fields) for index in range(3)]
    return made.written(path, made.run_of(concurrency=1), requests)


def test_the_page_is_whole_and_loads_nothing(tmp_path, folder):
    page, _ = made_page(tmp_path, folder)
    assert len(page.ids) == len(set(page.ids))
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "img", "base")
        assert not (tag == "script" and "src" in attributes)
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            assert attributes.get(name, "#").startswith("#")
        assert not [name for name in attributes if name.startswith("on")]
    text = (tmp_path / "report.html").read_text("utf-8")
    assert not re.search(r"@import|url\((?!#)", text)
    targets = {a["href"] for tag, a in page.tags if tag in ("a", "use") and "href" in a}
    assert {target.removeprefix("#") for target in targets} <= set(page.ids)


def test_the_page_is_the_same_for_the_same_results(tmp_path):
    run = made.bandwidth(tmp_path / "bandwidth.jsonl")
    made_page(tmp_path, run)
    first = (tmp_path / "report.html").read_bytes()
    made_page(tmp_path, run)
    assert (tmp_path / "report.html").read_bytes() == first


def test_a_run_is_told_with_all_that_it_depends_on(tmp_path):
    requests = [
        made.answered(0, ttft=0.1),
        made.answered(1, ttft=0.3),
        made.answered(2, error="cut", detail="after 3 of 9 bytes", ttft=0.1),
    ]
    run = made.run_of(label="mine", seed=4711, concurrency=2, prompt_tokens=64)
    warning = "the generator was at 91 % of its capacity"
    made.written(tmp_path / "a.jsonl", run, requests, warnings=(warning,))
    page, _ = made_page(tmp_path, tmp_path / "a.jsonl")
    head, row = page.table("throughput")
    told = dict(zip(head, row, strict=True))
    assert (told["run"], told["requests"], told["errors"]) == ("mine", "3", "1")
    assert (told["TTFT p50"], told["E2E p50"]) == ("200 ms", "220 ms")
    assert page.table("for example")[1] == ["cut", "1", "after 3 of 9 bytes"]
    for words in ("4711", "abc123def456", "2023-11-14 22:13:20 UTC", warning, "python 3.11.9"):
        assert words in page.text


def test_modes_turns_and_bandwidth_have_tables(tmp_path, folder):
    page, _ = made_page(tmp_path, folder)
    turns = page.table("speed-up")
    assert turns[0][5] == "difference (95 %)"
    assert turns[2] == [
        *("2", "ppd against pd", "164 ms", "124 ms", "1.32x"),
        *("-40.0 ms (-46.0 to -35.0)", "5", "D-direct"),
    ]
    assert turns[3][0] == "whole"
    assert ["ppd", "80.0 %", "10.0 %", "1.00 MB"] in [row for table in page.tables for row in table]
    assert page.table("TTFT without transfer")[1] == [
        *("128", "16.8 MB", "58.4 ms", "50.0 ms", "5.59 ms", "2.00 GB/s")
    ]
    assert "plausible for loopback" in page.text


def test_one_conversation_is_told_without_an_interval(tmp_path):
    page, _ = made_page(tmp_path, made.comparison(tmp_path / "c.jsonl", turns=2, alone=True))
    assert page.table("speed-up")[2][5] == "-40.0 ms"
    assert ["1", "0", "–", "–", "–", "–", "–", "–", "–", "–", "–"] in [
        row for table in page.tables for row in table
    ]


def test_runs_that_did_not_end_say_so(tmp_path):
    made.load(tmp_path / "a.jsonl", concurrency=1, requests=2, ends=False)
    made.load(tmp_path / "b.jsonl", concurrency=2, requests=2, interrupted=True)
    page, _ = made_page(tmp_path, tmp_path)
    assert [row[1] for row in page.table("throughput")[1:]] == [
        "bench, killed",
        "bench, interrupted",
    ]
    assert "killed: what is here is what it had measured by then" in page.text


def test_what_others_wrote_stays_text(tmp_path):
    run = made.run_of(label=EVIL, concurrency=1, note=EVIL, tags={EVIL: EVIL})
    requests = [made.answered(0), made.answered(1, error=EVIL, detail=EVIL)]
    made.written(tmp_path / "a.jsonl", run, requests, warnings=(EVIL,))
    made.load(tmp_path / "b.jsonl", concurrency=2, requests=2, label="other")
    (tmp_path / "acc.json").write_text(
        json.dumps({"succeeded": False, "checks": [{"name": EVIL, "outcome": EVIL, "got": EVIL}]})
    )
    clauses = [{"id": EVIL, "outcome": "broken"}]
    (tmp_path / "conf.json").write_text(
        json.dumps({"targets": [{"name": EVIL, "version": EVIL, "clauses": clauses}]})
    )
    more = ["--accuracy", tmp_path / "acc.json", "--conformance", tmp_path / "conf.json"]
    page, _ = made_page(tmp_path, tmp_path / "a.jsonl", tmp_path / "b.jsonl", *more)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "img" not in [tag for tag, _ in page.tags]
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert EVIL in page.text
    assert "49" not in [word for word in page.words if "7*7" not in word]


def test_two_sides_are_put_beside_one_another(tmp_path):
    now, then = tmp_path / "now", tmp_path / "then"
    for number, ttft in enumerate((0.20, 0.21, 0.22)):
        one(now / f"{number}.jsonl", ttft)
        one(then / f"{number}.jsonl", ttft - 0.1)
    page, _ = made_page(tmp_path, now, "--baseline", then)
    rows = {row[0]: row[1:] for row in page.table("difference")[1:]}
    assert rows["p50_ttft"] == ["110 ms", "210 ms", "+90.9 %", "worse, beyond noise"]
    assert rows["p50_itl"] == ["10.0 ms", "10.0 ms", "+0.0 %", "within noise"]
    assert "3 runs, 3 of the baseline" in page.text


GATE = "p95_ttft > 1.1 * baseline"


@pytest.mark.parametrize(
    ("now", "then", "gates", "code", "told"),
    [
        (0.23, 0.2, [GATE], 1, f"{GATE} FAILS: now: p95_ttft 230 ms, baseline 200 ms"),
        (0.21, 0.2, [GATE], 0, ""),
        (0.21, None, [GATE], 2, f"{GATE} cannot be judged: now: p95_ttft 210 ms, baseline –"),
        (0.21, None, ["errors > 0"], 0, ""),
        (0.21, None, [GATE, "errors < 1"], 1, "errors < 1 FAILS: now: errors 0"),
        (0.21, 0.2, ["goodput < 3"], 2, "goodput < 3 cannot be judged: now: goodput –; not known"),
        (0.21, 0.2, ["nothing > 3"], 2, "no measure 'nothing'; there are throughput, "),
    ],
)
def test_a_gate_sets_the_exit_code(tmp_path, now, then, gates, code, told):
    arguments = [str(one(tmp_path / "now.jsonl", now)), "--output", str(tmp_path / "r.html")]
    if then is not None:
        arguments += ["--baseline", str(one(tmp_path / "then.jsonl", then))]
    for gate in gates:
        arguments += ["--fail-if", gate]
    ran = CliRunner().invoke(report, arguments)
    assert ran.exit_code == code, ran.output
    assert told in ran.stderr
    assert len(ran.stderr.splitlines()) == (0 if not told else len(gates))


def test_conformance_is_read_in_both_forms(tmp_path):
    recorded = [
        {
            "target": "one",
            "version": "1.0",
            "clauses": {"kept": ["AGG-001", "SCH-001"], "known broken": ["AGG-002"]},
        }
    ]
    clauses = [{"id": "AGG-001", "outcome": "kept"}, {"id": "AGG-002", "outcome": "not applicable"}]
    reported = {"targets": [{"name": "two", "version": "2.0", "clauses": clauses}]}
    for name, told in (("recorded", recorded), ("reported", reported)):
        (tmp_path / f"{name}.json").write_text(json.dumps(told))
    run = one(tmp_path / "a.jsonl", 0.1)
    files = [tmp_path / "recorded.json", "--conformance", tmp_path / "reported.json"]
    page, _ = made_page(tmp_path, run, "--conformance", *files)
    assert page.table("broken")[1:] == [
        ["one", "1.0", "2", "1", "0"],
        ["two", "2.0", "1", "0", "1"],
    ]
    assert page.table("clauses") == [
        ["clauses", "one", "two"],
        ["AGG", "1/2", "1/1"],
        ["SCH", "1/1", "–"],
    ]


def test_accuracy_is_told(tmp_path):
    checks = [
        {"name": "tokens", "outcome": "kept", "detail": "8 prompts", "got": "", "seconds": 1.25},
        {"name": "kv", "outcome": "failed", "detail": "", "got": "0 bytes", "seconds": 0.5},
    ]
    (tmp_path / "acc.json").write_text(json.dumps({"succeeded": False, "checks": checks}))
    run = one(tmp_path / "a.jsonl", 0.1)
    page, _ = made_page(tmp_path, run, "--accuracy", tmp_path / "acc.json")
    assert "NOT ACCURATE" in page.text
    assert page.table("outcome")[2] == ["kv", "failed", "0 bytes", "0.5 s"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["nowhere"], "nowhere: there is no such file or folder"),
        (["a.jsonl", "--baseline", "nowhere"], "nowhere: there is no such file or folder"),
        (["a.jsonl", "--conformance", "a.jsonl"], "a.jsonl: neither of --pd-report nor as"),
        (["a.jsonl", "--accuracy", "a.jsonl"], "a.jsonl: no"),
        (["a.jsonl", "--accuracy", "empty.json"], "empty.json: not of pd-testkit accuracy --json"),
        (["a.jsonl", "--fail-if", "1 +"], "'1 +' is no expression such as"),
        (["a.jsonl", "--output", "a.jsonl/r.html"], "a.jsonl"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, monkeypatch, arguments, why):
    monkeypatch.chdir(tmp_path)
    one(tmp_path / "a.jsonl", 0.1)
    (tmp_path / "empty.json").write_text("{}")
    told = CliRunner().invoke(report, arguments)
    assert told.exit_code == 2
    assert why in told.stderr
    assert len(told.stderr.splitlines()) == 1
