"""The stubs promise what the real packages have, and drift from the record is seen."""

from __future__ import annotations

import enum
import importlib
from collections.abc import Collection
from pathlib import Path
from types import ModuleType

import pytest

from pd_testkit import stubs
from pd_testkit.stubs import surface

WHOLE = ("aiter", "mori")
"""Stubs that have all of the recorded modules but what they list as left out."""
PARTIAL: dict[str, dict[str, Collection[str]]] = {
    "torch.distributed": {},
    "zmq": {
        "zmq": ["Socket.__init__"],  # no shadow sockets
        "zmq.asyncio": [
            *("Socket.__init__", "Socket.get", "Socket.recv_into"),  # shared with zmq.Socket
            "Poller.poll",  # None and -1 mean the same
        ],
    },
}
"""Stubs that have a part of the recorded modules, and the signatures that differ on purpose."""


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_stub_has_what_the_real_package_has(name: str) -> None:
    source, real = surface.recorded(name)
    left_out = importlib.import_module(f"pd_testkit.stubs.{name}").left_out()
    with stubs.installed(name) as active:
        assert surface.diff(real, surface.read_modules(active.modules), left_out) == []
    assert source.startswith(f"ROCm/{name} ")


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_left_out_is_really_there(name: str) -> None:
    real = surface.recorded(name)[1]
    for module, names in importlib.import_module(f"pd_testkit.stubs.{name}").left_out().items():
        for left_out in names:
            owner, _, member = left_out.partition(".")
            assert owner in real[module], (module, left_out)
            assert not member or member in real[module][owner]["members"], (module, left_out)


@pytest.mark.parametrize("name", PARTIAL)
def test_a_partial_stub_has_nothing_that_the_real_package_has_not(name: str) -> None:
    _, real = surface.recorded(name)
    left_out = {module: ["*", *PARTIAL[name].get(module, ())] for module in real}
    with stubs.installed(name, replace=True) as active:
        # Where torch is absent, a bare one holds torch.distributed; that is not of the stub.
        modules = {
            module: stub
            for module, stub in active.modules.items()
            if f"{module}.".startswith(f"{name}.")
        }
        found = surface.read_modules(modules)
    assert surface.diff(real, found, left_out) == []
    assert found[name]


def test_every_stub_of_a_real_package_is_recorded() -> None:
    # A kernel language is its decorators: triton's stub has no more than what defines kernels.
    assert set(stubs.available()) == {*WHOLE, *PARTIAL, "triton"}


REAL = {
    "p": {
        "f": {"kind": "function", "signature": "(a, b=1, *, c=None)"},
        "g": {"kind": "function", "signature": None},
        "E": {"kind": "enum", "members": {"ON": 1, "OFF": 0}},
        "C": {
            "kind": "class",
            "members": {
                "run": {"kind": "function", "signature": "(self, x=...)"},
                "size": {"kind": "value"},
            },
        },
        "v": {"kind": "value"},
    }
}


def changed(**names: object) -> dict:
    return {"p": {**REAL["p"], **names}}


def function(signature: str) -> dict:
    return {"kind": "function", "signature": signature}


class TestDiff:
    def test_the_same_does_not_differ(self) -> None:
        assert surface.diff(REAL, REAL) == []

    @pytest.mark.parametrize(
        ("signature", "differs"),
        [
            ("(a, b=1, *, c=None)", False),
            ("(a, b=..., *, c=None)", False),  # a default that could not be read
            ("(*args, **kwargs)", False),
            ("(a, *args, **kwargs)", False),
            ("(a, b=1, **kwargs)", False),
            ("(a, b=2, *, c=None)", True),
            ("(a, b, *, c=None)", True),
            ("(a, b=1, c=None)", True),
            ("(a, *, b=1, c=None)", True),
            ("(a, b=1)", True),
            ("(b=1, a=2, *, c=None)", True),
            ("(a, b=1, *, c=None, d=0)", True),
            ("(*args)", True),
            ("(x, b=1, *, c=None)", True),
        ],
    )
    def test_a_signature_takes_the_same_calls(self, signature: str, differs: bool) -> None:
        lines = surface.diff(REAL, changed(f=function(signature)))
        assert lines == [f"p.f{signature}: really (a, b=1, *, c=None)"] * differs

    def test_an_unreadable_signature_equals_any(self) -> None:
        assert surface.diff(REAL, changed(g=function("(x)"))) == []

    def test_a_name_too_many_and_one_too_few(self) -> None:
        other = changed(new={"kind": "value"})
        del other["p"]["f"]
        assert surface.diff(REAL, other) == ["p.f: missing", "p.new: not in the real package"]
        assert surface.diff(REAL, other, {"p": ["f"]}) == ["p.new: not in the real package"]
        assert surface.diff(REAL, other, {"p": ["*"]}) == ["p.new: not in the real package"]

    def test_a_module_too_many_and_one_too_few(self) -> None:
        assert surface.diff(REAL, {"q": {}}) == [
            "p: missing",
            "q: no such module in the real package",
        ]

    def test_members_of_a_class(self) -> None:
        other = changed(
            C={"kind": "class", "members": {"run": function("(self)"), "stop": function("(self)")}}
        )
        assert surface.diff(REAL, other) == [
            "p.C.run(self): really (self, x=...)",
            "p.C.size: missing",
            "p.C.stop: not in the real package",
        ]
        assert surface.diff(REAL, other, {"p": ["C.run", "C.size", "C.stop"]}) == []

    @pytest.mark.parametrize(
        ("members", "partial", "differs"),
        [
            ({"OFF": 0, "ON": 1}, False, False),
            ({"ON": 1}, False, True),
            ({"ON": 1}, True, False),
            ({"ON": 2, "OFF": 0}, True, True),
            ({"ON": 1, "MAYBE": 2}, True, True),
        ],
    )
    def test_members_of_an_enumeration(self, members, partial, differs) -> None:
        other = changed(E={"kind": "enum", "members": members})
        assert bool(surface.diff(REAL, other, {"p": ["*"]} if partial else {})) is differs

    def test_another_kind(self) -> None:
        assert surface.diff(REAL, changed(f={"kind": "class", "members": {}})) == [
            "p.f: is a class, really a function"
        ]


PACKAGE = {
    "__init__.py": "from ._ops import *\nfrom . import sub\nfrom .sub import Late as Later\n",
    "_ops.py": (
        "import os\n"
        "from .sub import helper\n"
        "LIMIT: int = 3\n"
        "def gemm(x: int, /, y: 'str' = 'a', *rest, scale: float = 1.0, axis=-1,\n"
        "         fn=os.getcwd): ...\n"
        "def big(n=1024 * 1024 * 10, s=1 << 22): ...\n"
        "alias = gemm\n"
        "def _hidden(): ...\n"
        "if LIMIT:\n    def conditional(): ...\n"
        "try:\n    def tried(): ...\nexcept ImportError:\n    pass\n"
    ),
    "sub.py": (
        "from dataclasses import dataclass\n"
        "from enum import Enum\n"
        "import enum\n"
        "class Mode(Enum):\n    A = 'a'\n    B = 2\n"
        "class Auto(enum.Enum):\n    X = enum.auto()\n    Y = enum.auto()\n"
        "class Base:\n    def inherited(self, a): ...\n"
        "class Late(Base):\n"
        "    size: int\n"
        "    _private: int\n"
        "    def __init__(self, key, *, n=2): ...\n"
        "    @property\n    def world(self): ...\n"
        "    @staticmethod\n    def make(handle, rank): ...\n"
        "def helper(): ...\n"
    ),
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "python" / "kernels"
    folder.mkdir(parents=True)
    for name, text in PACKAGE.items():
        (folder / name).write_text(text)
    return tmp_path


LATE = {
    "kind": "class",
    "members": {
        "__init__": function("(self, key, *, n=2)"),
        "inherited": function("(self, a)"),
        "make": function("(handle, rank)"),
        "size": {"kind": "value"},
        "world": {"kind": "value"},
    },
}


class TestReadingSources:
    def test_a_package_has_what_it_takes_from_its_modules(self, checkout) -> None:
        found = surface.read_tree(checkout, "kernels", ["kernels", "kernels.sub"])
        assert found["kernels"] == {
            "LIMIT": {"kind": "value"},
            "Later": LATE,
            "alias": function("(x, /, y='a', *rest, scale=1.0, axis=-1, fn=...)"),
            "big": function("(n=10485760, s=4194304)"),
            "conditional": function("()"),
            "gemm": function("(x, /, y='a', *rest, scale=1.0, axis=-1, fn=...)"),
            "tried": function("()"),
        }
        assert found["kernels.sub"]["Mode"] == {"kind": "enum", "members": {"A": "a", "B": 2}}
        assert found["kernels.sub"]["Auto"] == {"kind": "enum", "members": {"X": 1, "Y": 2}}

    def test_what_a_module_only_imports_counts_when_named(self, checkout) -> None:
        names = surface.read_tree(checkout, "kernels", ["kernels._ops"])["kernels._ops"]
        assert "helper" not in names
        also = ["kernels._ops.helper"]
        names = surface.read_tree(checkout, "kernels", ["kernels._ops"], also)["kernels._ops"]
        assert names["helper"] == function("()")

    def test_a_module_that_is_gone_is_left_out(self, checkout) -> None:
        assert surface.read_tree(checkout, "kernels", ["kernels.gone"]) == {}

    def test_a_folder_without_the_package_is_refused(self, tmp_path) -> None:
        with pytest.raises(FileNotFoundError, match="no package aiter below"):
            surface.read_tree(tmp_path, "aiter", ["aiter"])


BINDINGS = """
void Register(py::module_& m) {
  m.def("set_log_level", &SetLogLevel);
  py::enum_<BackendType>(m, "BackendType")
      .value("XGMI", BackendType::XGMI)
      .value("RDMA", BackendType::RDMA)
      .export_values();
  py::class_<BackendConfig>(m, "BackendConfig").def_readwrite("type", &BackendConfig::type);
  py::class_<RdmaConfig, ns::BackendConfig>(m, "RdmaConfig")
      .def(py::init<int, bool, Mode>(), py::arg("qp") = 1, py::arg("notify") = true,
           py::arg("mode") = Mode::POLL)
      .def_readwrite("qp", &RdmaConfig::qp)
      .def("pack", [](const RdmaConfig& c) { auto b = f(c); return py::bytes(b); })
      .def("wait", &RdmaConfig::Wait, py::arg("timeout_ms") = -1);
  m.def("alloc", [](size_t n) -> int { return 1; }, py::arg("size"), py::arg("host") = "");
}
"""
HEADER = "enum class BackendType : uint32_t {\n  Unknown = 0,  // none\n  XGMI,\n  RDMA = 2,\n};"


def test_bindings_are_read_as_far_as_they_name_things(tmp_path: Path) -> None:
    for name, text in {
        "src/pybind/pybind_io.cpp": BINDINGS,
        "include/mori/io/enum.hpp": HEADER,
        "python/mori/__init__.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    found = surface.read_tree(tmp_path, "mori", ["mori.cpp"])["mori.cpp"]
    assert found == {
        "BackendType": {"kind": "enum", "members": {"XGMI": 1, "RDMA": 2}},
        "XGMI": {"kind": "value"},
        "RDMA": {"kind": "value"},
        "BackendConfig": {"kind": "class", "members": {"type": {"kind": "value"}}},
        "RdmaConfig": {
            "kind": "class",
            "members": {
                "type": {"kind": "value"},
                "__init__": function("(self, qp=1, notify=True, mode=...)"),
                "qp": {"kind": "value"},
                "pack": {"kind": "function", "signature": None},
                "wait": function("(self, timeout_ms=-1)"),
            },
        },
        "alloc": function("(size, host='')"),
        "set_log_level": {"kind": "function", "signature": None},
    }


def test_modules_are_read_from_the_process() -> None:
    class Mode(enum.Enum):
        A = 1

    class Engine:
        size: int

        def __init__(self, key: str, config: object = None) -> None: ...

        @staticmethod
        def make(n: int = 2) -> None: ...

    def run(a: int, *, by: object = Mode) -> None: ...

    module, elsewhere = ModuleType("m"), ModuleType("json")
    vars(module).update(Mode=Mode, Engine=Engine, run=run, LIMIT=3, json=elsewhere)
    assert surface.read_modules({"m": module}) == {
        "m": {
            "Engine": {
                "kind": "class",
                "members": {
                    "__init__": function("(self, key, config=None)"),
                    "make": function("(n=2)"),
                    "size": {"kind": "value"},
                },
            },
            "LIMIT": {"kind": "value"},
            "Mode": {"kind": "enum", "members": {"A": 1}},
            "run": function("(a, *, by=...)"),
        }
    }


class TestDiffPackage:
    """What has become of mori since the record, in a checkout that is nearly empty."""

    @pytest.fixture
    def mori(self, tmp_path: Path) -> Path:
        (tmp_path / "mori" / "io").mkdir(parents=True)
        (tmp_path / "mori" / "__init__.py").write_text("")
        (tmp_path / "mori" / "io" / "__init__.py").write_text("from .engine import *\n")
        (tmp_path / "mori" / "io" / "engine.py").write_text(
            "class IOEngine:\n"
            "    def __init__(self, key, config, device): ...\n"
            "    def get_engine_desc(self): ...\n"
            "def _private(): ...\n"
            "def brand_new(): ...\n"
        )
        return tmp_path

    def test_it_says_what_is_gone_new_and_changed(self, mori) -> None:
        lines = surface.diff_package("mori", mori)
        assert "mori.cpp: gone" in lines
        assert "mori.io.StatusCode: gone" in lines
        assert "mori.io.IOEngine.register_memory: gone" in lines
        assert "mori.io.brand_new: new" in lines
        assert (
            "mori.io.IOEngine.__init__(self, key, config, device): really (self, key, config)"
            in lines
        )
        assert not [line for line in lines if "get_engine_desc" in line or "_private" in line]

    def test_a_package_that_was_recorded_by_importing_it_is_imported_again(self, tmp_path) -> None:
        (tmp_path / "zmq").mkdir()
        (tmp_path / "zmq" / "__init__.py").write_text("def zmq_version(): ...\ndef extra(): ...\n")
        lines = surface.diff_package("zmq", tmp_path)
        assert "zmq.extra: new" in lines
        assert "zmq.Context: gone" in lines
        assert "zmq.asyncio: gone" in lines
        assert not [line for line in lines if "zmq_version(" in line]
        (tmp_path / "zmq" / "__init__.py").write_text("import no_such_extension\n")
        with pytest.raises(FileNotFoundError, match=r"cannot be imported.*no_such_extension"):
            surface.diff_package("zmq", tmp_path)

    @pytest.mark.parametrize("name", [*WHOLE, *PARTIAL])
    def test_a_package_that_is_not_there_is_refused(self, name, tmp_path) -> None:
        with pytest.raises(FileNotFoundError, match=rf"no package {name.partition('.')[0]} below"):
            surface.diff_package(name, tmp_path)

    def test_what_is_not_installed_or_not_recorded_is_refused(self, tmp_path) -> None:
        with pytest.raises(ImportError):
            surface.diff_package("mori")
        with pytest.raises(FileNotFoundError):
            surface.diff_package("triton", tmp_path)
