"""Children that are forked from a nursery: what they share, and how they end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pd_testkit.targets.process import ChildGone, Children
from pd_testkit.targets.process.nursery import Nursery
from tests.kit.child_objects import Notebook

ROOT = Path(__file__).parents[2]
NOTEBOOK = "tests.kit.child_objects:Notebook"
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}


@pytest.fixture
def children() -> Iterator[Children]:
    made = Children(ENVIRONMENT, imports=["tests.kit.child_objects"])
    yield made
    made.close()


def notebook(children: Children, name: str) -> Notebook:
    return children.get(name).make(Notebook, NOTEBOOK, title=name, lines=[])


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_each_child_is_a_process_of_its_own_and_of_one_parent(children: Children) -> None:
    pids = {notebook(children, name).pid() for name in ("prefill", "decode")}
    assert len(pids) == 2
    (nursery,) = {parent_of(pid) for pid in pids}
    assert nursery not in {*pids, os.getpid()}
    assert parent_of(nursery) == os.getpid()


def test_a_child_that_dies_is_told_of_and_the_next_is_another(children: Children) -> None:
    first = notebook(children, "prefill")
    other = notebook(children, "decode")
    pid = first.pid()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ChildGone, match=r"prefill died \(exit status -9\)"):
        first.add("a line")
    assert notebook(children, "prefill").pid() != pid
    assert other.add("it goes on") == 1


def test_several_threads_may_see_a_child_end(children: Children) -> None:
    notebook(children, "prefill")
    child = children.get("prefill")
    child.kill()
    seen: list[bool] = []
    threads = [threading.Thread(target=lambda: seen.append(child.alive)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [False] * 4
    assert notebook(children, "prefill").add("a line") == 1


def test_a_nursery_whose_import_fails_is_told_of() -> None:
    children = Children(ENVIRONMENT, imports=["tests.kit.no_such_module"])
    with pytest.raises(RuntimeError, match="nursery has ended"):
        children.get("prefill")
    children.close()


def test_a_nursery_that_hangs_is_told_of_with_what_it_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "endless.py").write_text("import threading\nthreading.Event().wait()\n")
    path = os.pathsep.join([ENVIRONMENT["PYTHONPATH"], str(tmp_path)])
    monkeypatch.setattr("pd_testkit.targets.process.nursery.START_S", 0.1)
    monkeypatch.setattr("pd_testkit.targets.process.nursery.END_S", 0.1)
    children = Children({"PYTHONPATH": path}, imports=["json", "endless"])
    with pytest.raises(RuntimeError, match=r"not answered in 0\.1 s; it imports json, endless"):
        children.get("prefill")
    children.close()
    nursery = Nursery(["endless"], {"PYTHONPATH": path})
    nursery.close()


def test_nothing_outlives_the_children() -> None:
    children = Children(ENVIRONMENT, imports=["tests.kit.child_objects"])
    pid = notebook(children, "prefill").pid()
    nursery = parent_of(pid)
    children.close()
    assert not Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{nursery}").exists()
