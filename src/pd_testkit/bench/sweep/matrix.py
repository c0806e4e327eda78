"""What a sweep goes through: cases, each some settings of ``pd-testkit up``.

In TOML, keys being those of ``pd-testkit up``'s own file::

    [settings]                        # of all cases
    prefill = 1
    decode = 2

    [[case]]                          # one case
    name = "gqa, replicated"          # default: its settings
    model = "tiny-gqa"
    decode_tp = 4

    [[matrix]]                        # all combinations of the values that are lists
    transport = ["shm", "zmq"]
    prefill_block_size = [16, 128]
    decode_block_size = 64

The built-in ones (`SWEEPS`) are the configurations that the scripts of vLLM and vllm-router go
through (tests/v1/kv_connector/nixl_integration, py_test/e2e/pd_disagg_vllm), and what they leave
out.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
"""tomli comes with pytest where Python has no tomllib."""

Settings = Mapping[str, Any]
"""By the names of `pd-testkit up`'s settings: texts, numbers and booleans."""

_MLA = "deepseek-ai/deepseek-vl2-tiny"


@dataclass(frozen=True)
class Case:
    """One deployment that is brought up and checked.

    Attributes:
        name: unique in its sweep.
    """

    name: str
    settings: Settings

    @property
    def key(self) -> str:
        """Of the settings: a case with others is another case, whatever its name."""
        told = json.dumps(dict(self.settings), sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:12]

    def with_settings(self, settings: Settings) -> Case:
        """The same with further settings; its own stand."""
        return Case(self.name, {**settings, **self.settings})

    @property
    def arguments(self) -> list[str]:
        """Of ``pd-testkit up``."""
        words = []
        for name, value in self.settings.items():
            flag = name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{'' if value else 'no-'}{flag}")
            else:
                words += [f"--{flag}", str(value)]
        return words


def _case(prefix: str = "", **settings: Any) -> Case:
    named = " ".join(f"{name}={value}" for name, value in settings.items())
    return Case(f"{prefix} {named}".strip(), settings)


def _pairs(prefix: str, names: str, values: Iterable[tuple[Any, Any]], **more: Any) -> list[Case]:
    """Of P's and D's values of a setting that both have."""
    return [
        Case(
            f"{prefix} {prefill}, {decode}",
            {**more, f"prefill_{names}": prefill, f"decode_{names}": decode},
        )
        for prefill, decode in values
    ]


_TP = ((1, 1), (2, 2), (1, 2), (2, 1))


def _tp(engine: str) -> list[Case]:
    if engine == "vllm":
        return [
            *_pairs("tp", "tp", _TP),
            *_pairs("tp, MLA", "tp", _TP, model=_MLA, gpu_memory_utilization=0.8),
        ]
    return [
        *_pairs("tp", "tp", (*_TP, (1, 4), (4, 1), (8, 2), (2, 8))),
        # More ranks than KV heads: each head is on several.
        *_pairs("tp, GQA", "tp", ((1, 4), (4, 1), (4, 2)), model="tiny-gqa"),
        *_pairs("tp, MLA", "tp", ((1, 2), (2, 1)), model="tiny-mla"),
    ]


def _block_size(_: str) -> list[Case]:
    sizes = ((128, 128), (64, 128), (128, 64), (16, 128), (128, 16), (16, 16), (48, 32))
    return _pairs("blocks", "block_size", sizes)


def _layout(_: str) -> list[Case]:
    layouts = (("HND", "HND"), ("HND", "NHD"), ("NHD", "HND"), ("NHD", "NHD"))
    return _pairs("layout", "kv_layout", layouts)


def _flashinfer(_: str) -> list[Case]:
    return _pairs("flashinfer, tp", "tp", _TP, engine="vllm", flashinfer=True)


def _connectors(engine: str) -> list[Case]:
    if engine == "vllm":
        names = ("nixl", "p2p_nccl", "moriio", "mooncake", "lmcache", "offloading", "multi")
        return [_case("vllm", connector=name) for name in names]
    moves = itertools.product(("shm", "zmq", "nixl", "mooncake"), ("read", "write"))
    return [
        *(_case(transport=transport, transfer_mode=mode) for transport, mode in moves),
        *(_case(connector=name) for name in ("nixl", "p2p_nccl", "moriio")),
        *(_case(router=name) for name in ("vllm-router", "sglang-router")),
    ]


def _dp(_: str) -> list[Case]:
    return [
        *_pairs("dp", "dp", ((1, 2), (2, 1), (2, 2))),
        Case(
            "dp 2, 2; tp 2, 1",
            {"prefill_dp": 2, "decode_dp": 2, "prefill_tp": 2, "decode_tp": 1},
        ),
    ]


def _buffer_device(_: str) -> list[Case]:
    return [_case(engine="vllm", kv_buffer_device=device) for device in ("cuda", "cpu")]


SWEEPS: Mapping[str, Callable[[str], list[Case]]] = {
    "tp": _tp,
    "block-size": _block_size,
    "layout": _layout,
    "flashinfer": _flashinfer,
    "connectors": _connectors,
    "dp": _dp,
    "buffer-device": _buffer_device,
}
"""By name: the cases for an engine, ``cpu`` or ``vllm``."""


def built_in(names: Iterable[str], settings: Settings) -> list[Case]:
    """The cases of these sweeps, with these settings in addition."""
    engine = str(settings.get("engine", "cpu"))
    cases = (case for name in names for case in SWEEPS[name](engine))
    return [case.with_settings(settings) for case in cases]


def read(file: Path, settings: Settings) -> list[Case]:
    """The cases of a TOML file, with these settings in addition.

    Raises:
        ValueError: it is none, names one case twice or none; says where.
    """
    try:
        document = tomllib.loads(file.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise ValueError(f"{file}: {problem}") from None
    if unknown := document.keys() - {"settings", "case", "matrix"}:
        raise ValueError(f"{file}: {unknown.pop()!r}; there may be settings, case and matrix")
    common = {**settings, **_table(file, "settings", document.get("settings", {}))}
    cases = [
        *(_told(table) for table in _tables(file, "case", document)),
        *(case for table in _tables(file, "matrix", document) for case in _combined(table)),
    ]
    if not cases:
        raise ValueError(f"{file}: no case and no matrix")
    names = [case.name for case in cases]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{file}: the case {twice!r} is there twice")
    for case in cases:
        for name, value in case.settings.items():
            if type(value) not in (str, int, float, bool):
                raise ValueError(f"{file}: {name} of the case {case.name!r} is {value!r}")
    return [case.with_settings(common) for case in cases]


def _tables(file: Path, name: str, document: Mapping[str, Any]) -> list[dict[str, Any]]:
    tables = document.get(name, [])
    if type(tables) is not list:
        raise ValueError(f"{file}: write [[{name}]]")
    return [_table(file, name, table) for table in tables]


def _table(file: Path, name: str, table: Any) -> dict[str, Any]:
    if type(table) is not dict:
        raise ValueError(f"{file}: {name} is no table")
    return dict(table)


def _told(table: dict[str, Any]) -> Case:
    settings = {name: value for name, value in table.items() if name != "name"}
    return Case(str(table.get("name", _case(**settings).name)), settings)


def _combined(table: dict[str, Any]) -> Iterator[Case]:
    prefix = f"{table.get('name', '')}"
    axes = {
        name: value if isinstance(value, list) else [value]
        for name, value in table.items()
        if name != "name"
    }
    for values in itertools.product(*axes.values()):
        yield _case(prefix, **dict(zip(axes, values, strict=True)))
