"""Stubs come and go: what is there meanwhile, and that nothing of it is left."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pd_testkit import stubs
from pd_testkit.stubs import snapshot
from tests.kit import spawned

BUILDERS = importlib.import_module("pd_testkit.stubs.install")._BUILDERS

CONNECTOR = "from mori.io import IOEngine\nimport connector_parts\n"
PARTS = "LIMIT = 7\n"


@pytest.fixture(scope="module", autouse=True)
def _kit_is_loaded():
    """What the kit itself imports when it is used for the first time stays; not a stub's doing."""
    with stubs.installed("aiter", "mori"):
        code("mori.io").EngineDesc._of(key="k").pack()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes modules, given by file name, into an importable folder."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(**files: str) -> Path:
        for name, text in files.items():
            file = tmp_path / f"{name.replace('__in__', '/')}.py"
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        importlib.invalidate_caches()
        return tmp_path

    return write


def code(name: str) -> Any:
    return importlib.import_module(name)


def run_python(*arguments: str, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def state() -> dict[str, Any]:
    """What an installation may change. The kit's own modules, once loaded, stay."""
    return {
        "modules": {n: m for n, m in sys.modules.items() if not n.startswith("pd_testkit")},
        "finders": list(sys.meta_path),
        "paths": set(sys.path_importer_cache),
        "environment": dict(os.environ),
    }


def test_all_is_as_before_with_the_code_that_was_imported_meanwhile(tree) -> None:
    tree(connector=CONNECTOR, connector_parts=PARTS)
    before = state()
    with stubs.installed("aiter", "mori"):
        code("aiter.dist.parallel_state")
        assert code("connector").IOEngine is sys.modules["mori.io"].IOEngine
        assert "connector_parts" in sys.modules
    assert state() == before


def test_an_exception_inside_leaves_nothing_behind(tree) -> None:
    tree(connector=CONNECTOR + "def fail(): 1 / 0\n", connector_parts=PARTS)
    before = state()
    with pytest.raises(ZeroDivisionError), stubs.installed("mori"):
        code("connector").fail()
    assert state() == before


def test_a_stub_that_cannot_be_built_leaves_nothing_behind(tree, monkeypatch) -> None:
    tree(broken_stub="def build(context):\n    context.closing.callback(print)\n    1 / 0\n")
    monkeypatch.setitem(BUILDERS, "broken", "broken_stub")
    before = state()
    with pytest.raises(ZeroDivisionError):
        stubs.install("mori", "broken")
    assert state() == before
    with stubs.installed("mori"):
        code("mori.io")


def test_a_second_use_starts_afresh(tree) -> None:
    tree(connector=CONNECTOR, connector_parts=PARTS)
    seen = []
    for _ in range(2):
        with stubs.installed("mori") as active:
            seen.append((active.fabric, code("connector"), code("mori.io").IOEngine))
    assert all(first is not second for first, second in zip(*seen, strict=True))


def test_nested_use_has_its_own_stubs_and_gives_back_the_outer_ones(tree) -> None:
    tree(connector=CONNECTOR, connector_parts=PARTS)
    with stubs.installed("mori") as outer:
        outer_connector, outer_io = code("connector"), code("mori.io")
        with stubs.installed("mori", "aiter") as inner:
            assert inner.fabric is not outer.fabric
            assert code("mori.io") is not outer_io
            assert code("connector") is not outer_connector
            assert code("connector").IOEngine is code("mori.io").IOEngine
        assert code("connector") is outer_connector
        assert code("mori.io") is outer_io
        assert "aiter" not in sys.modules


def test_the_outer_stubs_cannot_go_first() -> None:
    outer = stubs.install("mori")
    inner = stubs.install("mori")
    with pytest.raises(RuntimeError, match="later first"):
        outer.uninstall()
    inner.uninstall()
    outer.uninstall()
    assert "mori" not in sys.modules


def test_a_second_uninstall_does_nothing() -> None:
    active = stubs.install("mori")
    active.uninstall()
    marker = sys.modules["mori"] = ModuleType("mori")
    try:
        active.uninstall()
        assert sys.modules["mori"] is marker
    finally:
        del sys.modules["mori"]


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no stub named nixl; there are aiter, mori, torch"):
        stubs.install("mori", "nixl")
    assert "mori" not in sys.modules


def test_a_real_package_is_used_and_named(tree) -> None:
    tree(mori="REAL = True\n")
    with stubs.installed("aiter", "mori") as active:
        assert active.real == ("mori",)
        assert code("mori").REAL
        assert code("aiter").__spec__.origin == "pd_testkit.stubs"


def test_a_package_that_is_blocked_is_not_there(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "mori", None)
    with stubs.installed("mori") as active:
        assert active.real == ()
        assert sys.modules["mori"] is active.modules["mori"]
    assert sys.modules["mori"] is None


def test_a_real_package_is_replaced_when_asked_for_and_comes_back(tree) -> None:
    tree(mori__in____init__="REAL = True\n", mori__in__io="REAL = True\n")
    real, real_io = code("mori"), code("mori.io")
    try:
        with stubs.installed("mori", replace=True) as active:
            assert active.real == ()
            assert code("mori.io") is not real_io
            with pytest.raises(AttributeError):
                _ = code("mori").REAL
        assert (code("mori"), code("mori.io"), real.io) == (real, real_io, real_io)
    finally:
        for name in ("mori", "mori.io"):
            sys.modules.pop(name, None)


@pytest.mark.parametrize("part_was_imported", [True, False])
def test_a_stub_below_a_real_package_is_its_attribute_meanwhile(
    tree, monkeypatch, part_was_imported
) -> None:
    tree(
        host__in____init__="",
        host__in__part="REAL = True\n",
        part_stub="from pd_testkit.stubs import StrictModule\n"
        "def build(context):\n    return {'host.part': StrictModule('host.part', REAL=False)}\n",
    )
    monkeypatch.setitem(BUILDERS, "host.part", "part_stub")
    host = code("host")
    if part_was_imported:
        code("host.part")
    before = dict(vars(host))
    try:
        with stubs.installed("host.part", replace=True):
            assert host.part.REAL is False
        assert vars(host) == before
        assert code("host.part").REAL is True
    finally:
        for name in ("host", "host.part"):
            sys.modules.pop(name, None)


class TestWhatStays:
    def test_a_package_with_an_extension_module_stays_whole(self) -> None:
        shown = run_python(
            "-c",
            "import sys, pd_testkit.stubs as stubs\n"
            "with stubs.installed('aiter') as active:\n"
            "    import aiter, numpy\n"
            "assert 'numpy.linalg' in active.kept, active.kept\n"
            "assert sys.modules['numpy'] is numpy and 'aiter' not in sys.modules\n"
            "import numpy.random\n"
            "print(numpy.random.default_rng(1).integers(10, size=2).shape)\n",
        )
        assert shown == "(2,)\n"

    def test_an_installed_package_stays_unless_a_stub_reached_it(
        self, tree, tmp_path, monkeypatch
    ) -> None:
        tree(
            apart="",
            holder="from mori.io import IOEngine\n",
            holders_user="from holder import IOEngine as Engine\n",
            asks_inside="def f():\n    import mori.io\n",
        )
        monkeypatch.setattr(snapshot, "SITE_PACKAGES", frozenset({tmp_path}))
        with stubs.installed("mori") as active:
            for name in ("apart", "holders_user", "asks_inside"):
                code(name)
        try:
            assert set(active.kept) >= {"apart", "asks_inside"}
            assert not {"holder", "holders_user"} & set(sys.modules)
        finally:
            for name in ("apart", "asks_inside"):
                sys.modules.pop(name, None)

    def test_the_standard_library_stays(self) -> None:
        code_run = (
            "import sys, pd_testkit.stubs as stubs\n"
            "with stubs.installed('mori') as active:\n    import sqlite3\n"
            "assert sys.modules['sqlite3'] is sqlite3\n"
            "assert 'sqlite3' in active.kept\n"
        )
        assert run_python("-c", code_run) == ""

    def test_a_module_that_the_code_made_up_goes(self) -> None:
        with stubs.installed("mori"):
            sys.modules["made_up"] = ModuleType("made_up")
        assert "made_up" not in sys.modules


class TestStrictness:
    @pytest.fixture(autouse=True)
    def _installed(self):
        with stubs.installed("aiter"):
            yield

    def test_a_missing_attribute_is_named_with_the_way_to_add_it(self) -> None:
        with pytest.raises(AttributeError) as error:
            _ = code("aiter.dist").no_such
        assert "'aiter.dist' has no attribute 'no_such'" in str(error.value)
        assert "pd_testkit.stubs.extend('aiter.dist', no_such=...)" in str(error.value)
        assert not hasattr(code("aiter.dist"), "no_such")

    @pytest.mark.parametrize(
        "statement",
        [
            "import aiter.no_such",
            "from aiter import no_such",
            "from aiter.dist.parallel_state import no_such",
            "import aiter.dist.no_such.deeper",
            "from aiter.no_such import anything",
        ],
    )
    def test_a_missing_import_is_named_with_the_way_to_add_it(self, statement) -> None:
        with pytest.raises(ImportError, match=r"no_such.*pd_testkit\.stubs\.extend\('aiter"):
            exec(statement, {})

    def test_what_is_there_is_found_as_any_module(self) -> None:
        assert importlib.util.find_spec("aiter.dist.shm_broadcast").name == (
            "aiter.dist.shm_broadcast"
        )
        assert importlib.util.find_spec("aiter.no_such") is None
        namespace: dict[str, Any] = {}
        exec("import aiter.dist.parallel_state\nfrom aiter.dist import utils", namespace)
        assert namespace["aiter"].dist.parallel_state is sys.modules["aiter.dist.parallel_state"]
        assert namespace["utils"] is sys.modules["aiter.dist.utils"]

    def test_a_star_import_gives_the_public_names(self) -> None:
        namespace: dict[str, Any] = {}
        exec("from aiter.dist.parallel_state import *", namespace)
        assert "get_tp_group" in namespace
        assert "GroupCoordinator" in namespace

    def test_introspection_takes_it_for_a_module(self) -> None:
        package = code("aiter")
        assert inspect.ismodule(package)
        assert package.__path__ == []
        assert not hasattr(package, "__wrapped__")
        assert not hasattr(package, "__file__")
        assert inspect.getmodule(code("aiter.dist.parallel_state").get_tp_group) is not None
        with pytest.raises(TypeError):
            inspect.getfile(package)

    def test_it_survives_being_dropped_and_reloaded(self) -> None:
        state_ = sys.modules.pop("aiter.dist.parallel_state")
        assert code("aiter.dist.parallel_state") is state_
        assert importlib.reload(state_) is state_


class TestExtend:
    def test_it_adds_attributes_and_modules_until_the_stubs_go(self) -> None:
        with stubs.installed("aiter"):
            stubs.extend("aiter.ops.shuffle", twice=lambda x: 2 * x)
            stubs.extend("aiter.made.up", answer=42)
            assert code("aiter.ops.shuffle").twice(4) == 8
            assert code("aiter.made").up.answer == 42
        with stubs.installed("aiter"):
            assert not hasattr(code("aiter.ops.shuffle"), "twice")
            with pytest.raises(ImportError):
                code("aiter.made")

    def test_nested_stubs_have_it_too(self) -> None:
        with stubs.installed("aiter"):
            stubs.extend("aiter", answer=42)
            with stubs.installed("aiter"):
                assert code("aiter").answer == 42

    def test_before_the_stubs_it_holds_for_all_later_ones(self) -> None:
        shown = run_python(
            "-c",
            "import pd_testkit.stubs as stubs\n"
            "stubs.extend('mori.io', answer=42)\n"
            "for _ in range(2):\n"
            "    with stubs.installed('mori'):\n"
            "        import mori.io\n"
            "        print(mori.io.answer)\n",
        )
        assert shown == "42\n42\n"

    def test_only_below_a_stub(self) -> None:
        with pytest.raises(ValueError, match="not below a stub"):
            stubs.extend("vllm.config", answer=42)
        with (
            stubs.installed("mori"),
            pytest.raises(ValueError, match="not below a stub; there are mori"),
        ):
            stubs.extend("aiter.ops", answer=42)


class TestRecording:
    def test_it_tells_what_was_asked_and_what_was_missing(self, tree) -> None:
        tree(
            asker="from aiter import QuantType\n"
            "from aiter.dist.parallel_state import get_tp_group\n"
            "try:\n    from aiter.ops.shuffle import no_such\nexcept ImportError:\n    pass\n"
        )
        with stubs.installed("aiter", record=True) as active:
            code("asker")
        assert active.touched["aiter"] == {"QuantType"}
        assert active.touched["aiter.dist.parallel_state"] == {"get_tp_group"}
        assert active.missing == {"aiter.ops.shuffle": {"no_such"}}

    def test_without_it_nothing_is_kept(self) -> None:
        with stubs.installed("aiter") as active:
            _ = code("aiter").QuantType
        assert active.touched == {}


class TestChildren:
    def test_a_new_python_has_the_same_stubs(self) -> None:
        with stubs.installed("mori") as active:
            shown = run_python(
                "-c",
                "import json, mori.io\n"
                "try:\n    import aiter\nexcept ImportError:\n    aiter = None\n"
                "print(json.dumps([mori.io.__spec__.origin, aiter]))",
                env=active.child_env(),
            )
        assert json.loads(shown) == ["pd_testkit.stubs", None]

    def test_a_spawned_process_has_the_same_stubs(self, monkeypatch) -> None:
        spawn = multiprocessing.get_context("spawn")
        receiver, sender = spawn.Pipe(duplex=False)
        with stubs.installed("mori") as active, receiver, sender:
            for name, value in active.child_env().items():
                monkeypatch.setenv(name, value)
            child = spawn.Process(target=spawned.name_the_stub, args=(sender,))
            child.start()
            assert receiver.poll(60)
            assert receiver.recv() == ("pd_testkit.stubs", 2)
            child.join()
            child.close()

    def test_a_hidden_sitecustomize_runs_too(self, tree) -> None:
        folder = tree(sitecustomize="print('mine')\n")
        with stubs.installed("mori") as active:
            env = active.child_env()
        env["PYTHONPATH"] = os.pathsep.join([env["PYTHONPATH"], str(folder)])
        assert run_python("-c", "import mori.io", env=env) == "mine\n"


def test_importing_the_stubs_imports_nothing_heavy() -> None:
    shown = run_python(
        "-c",
        "import sys, pd_testkit.stubs\n"
        "print([n for n in ('numpy', 'torch', 'zmq', 'msgpack', 'pytest') if n in sys.modules])",
    )
    assert shown == "[]\n"


def test_numpy_is_imported_by_the_first_engine_only() -> None:
    shown = run_python(
        "-c",
        "import sys, pd_testkit.stubs as stubs\n"
        "with stubs.installed('aiter', 'mori'):\n"
        "    import mori.io as io\n"
        "    print('numpy' in sys.modules)\n"
        "    io.IOEngine('k', io.IOEngineConfig()).create_backend(io.BackendType.RDMA)\n"
        "    print('numpy' in sys.modules, 'torch' in sys.modules)\n",
    )
    assert shown == "False\nTrue False\n"
