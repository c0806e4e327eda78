"""Drivers in a process of their own: values, exceptions, deaths, and what is given back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pd_testkit.contract import HandOff, TargetError, WorkerReport
from pd_testkit.targets.process import Child, ChildGone, Children, RemoteError
from tests.kit.child_objects import Notebook

ROOT = Path(__file__).parents[2]
NOTEBOOK = "tests.kit.child_objects:Notebook"


@pytest.fixture
def children() -> Iterator[Children]:
    made = Children({"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])})
    yield made
    made.close()


@pytest.fixture
def child(children: Children) -> Child:
    return children.get("a child")


@pytest.fixture
def notebook(child: Child) -> Notebook:
    return child.make(Notebook, NOTEBOOK, title="diary", lines=["one"])


def test_an_object_lives_in_another_process(notebook: Notebook, child: Child) -> None:
    assert notebook.pid() == child.pid != os.getpid()
    assert notebook.add("two") == 2
    assert notebook.lines() == ("one", "two")
    assert notebook.title == "diary"


def test_two_objects_of_a_child_are_apart(notebook: Notebook, child: Child) -> None:
    other = child.make(Notebook, NOTEBOOK, title="other")
    other.add("x")
    assert (notebook.lines(), other.lines()) == (("one",), ("x",))


def test_values_arrive_as_what_the_signature_says(notebook: Notebook) -> None:
    merged = notebook.merge([WorkerReport.of(sent=["a"]), WorkerReport.of(sent=["b"])])
    assert merged == WorkerReport.of(sent=["a", "b"])
    moved = notebook.move(HandOff(block_ids=(4, 7)), {4: b"\0" * 3, 7: b""})
    assert moved == HandOff(block_ids=(7, 7))
    assert notebook.move(None, {}) is None


def test_a_value_of_a_wrong_type_is_refused_in_the_child(notebook: Notebook) -> None:
    with pytest.raises(RemoteError, match=r"ValidationError: Expected `str`, got `int`"):
        notebook.add(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "raised"), [("value", ValueError), ("key", KeyError), ("target", TargetError)]
)
def test_an_exception_that_both_know_is_raised_here(
    notebook: Notebook, kind: str, raised: type[Exception]
) -> None:
    with pytest.raises(raised, match=f"the {kind} is wrong") as caught:
        notebook.refuse(kind)
    assert "in refuse" in str(caught.value.__cause__), "where it was raised, in the child"


def test_an_exception_of_the_childs_own_names_its_class(notebook: Notebook) -> None:
    with pytest.raises(RemoteError, match="Torn: the own is wrong"):
        notebook.refuse("own")
    assert notebook.lines() == ("one",), "the child goes on"


def test_a_child_that_dies_is_told_with_what_it_said_last(notebook: Notebook) -> None:
    with pytest.raises(
        ChildGone, match=r"a child died \(exit status 7\) in say_and_die\n.*farewell"
    ):
        notebook.say_and_die("farewell")


def test_a_child_that_leaves_is_gone_whatever_threads_it_has(notebook: Notebook) -> None:
    with pytest.raises(
        ChildGone, match=r"(?s)a child died \(exit status 1\) in leave\n.*SystemExit: 3"
    ):
        notebook.leave()


def test_a_child_that_hangs_up_and_stays_is_ended(
    notebook: Notebook, child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pd_testkit.targets.process.child.END_S", 0.1)
    with pytest.raises(ChildGone, match=r"a child died \(exit status -9\) in hang_up"):
        notebook.hang_up()
    assert not child.alive


def test_a_child_that_hangs_is_ended_at_the_deadline(child: Child) -> None:
    notebook = child.make(Notebook, NOTEBOOK, title="slow", deadline_s=1.0)
    with pytest.raises(ChildGone, match=r"did not answer hang in 1 s\n.*wait for me"):
        notebook.hang("wait for me")
    assert not child.alive


def test_after_a_death_there_is_a_new_child(children: Children, notebook: Notebook) -> None:
    before = notebook.pid()
    with pytest.raises(ChildGone):
        notebook.say_and_die("")
    again = children.get("a child").make(Notebook, NOTEBOOK, title="next")
    assert again.pid() != before


def test_an_object_is_closed_in_the_child(child: Child, tmp_path: Path) -> None:
    notebook = child.make(Notebook, NOTEBOOK, title="x", lines=[str(tmp_path / "told")])
    notebook.close()
    assert (tmp_path / "told").read_text() == "closed"


def test_closing_what_was_in_a_dead_child_is_harmless(child: Child, notebook: Notebook) -> None:
    child.kill()
    child.kill()
    notebook.close()


def test_a_closed_target_leaves_no_process(children: Children) -> None:
    processes = [children.get("p"), children.get("d")]
    children.close()
    children.close()
    assert not any(each.alive for each in processes)
    for each in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(each.pid, 0)
