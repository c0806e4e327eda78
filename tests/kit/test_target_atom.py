"""The target `atom`: found or refused in one line, told apart, driven, and taken away again.

What needs ATOM's own code runs with PD_ATOM_SOURCE set to checkouts, parted as in PATH.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pd_testkit.contract import (
    EngineSpec,
    HandOff,
    Instance,
    Reply,
    Request,
    Role,
    Target,
    TargetError,
    Unit,
    check_target,
)
from pd_testkit.contract.clauses import CLAUSES
from pd_testkit.targets import load
from pd_testkit.targets.atom import checkout, versions
from pd_testkit.targets.atom.known_failures import failures_of
from pd_testkit.targets.atom.network import Network, Received

ROOT = Path(__file__).parents[2]
SOURCES = [Path(path) for path in os.environ.get("PD_ATOM_SOURCE", "").split(os.pathsep) if path]

needs_atom = pytest.mark.skipif(
    not SOURCES, reason="not applicable: PD_ATOM_SOURCE names no ATOM checkout"
)
each_atom = pytest.mark.parametrize(
    "source", SOURCES or [Path("none")], ids=lambda source: source.name
)


def tree(root: Path, *files: str, **texts: str) -> Path:
    """A folder with an ``atom`` package of these modules, given as dotted names below it."""
    for name in ("__init__", *files, *texts):
        path = (root / "atom").joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts.get(name, ""))
    return root


DISAGGREGATION = "kv_transfer.disaggregation"
OLD = (f"{DISAGGREGATION}.kv_transfer_engine", f"{DISAGGREGATION}.proxy")
NEW = (f"{DISAGGREGATION}.moriio.moriio_connector",)


# -- refused, in one line --------------------------------------------------------------------


def refused(source: Path | None) -> str:
    with pytest.raises(TargetError) as caught:
        load("atom", source)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert str(tmp_path / "nowhere") in refused(tmp_path / "nowhere")


def test_a_folder_without_the_package_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path) == f"{tmp_path} is no ATOM checkout: it has no package 'atom'"


def test_a_package_of_the_same_name_is_not_atom(tmp_path: Path) -> None:
    assert "has no P/D connector that the target 'atom' knows" in refused(tree(tmp_path))


def test_without_source_an_importable_package_is_asked_for() -> None:
    if importlib.util.find_spec("atom") is not None:
        pytest.skip("not applicable: an atom is installed here")
    assert refused(None) == "no package 'atom' is importable: name a checkout by --pd-source"


def test_missing_packages_are_named_with_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkout, "PACKAGES", ("json", "no_such_package", "nor_this"))
    assert refused(tree(tmp_path, *OLD)) == (
        "ATOM's import needs no_such_package, nor_this: pip install 'pd-testkit[atom]'"
    )


# -- told apart ------------------------------------------------------------------------------


def test_the_versions_are_told_by_their_modules(tmp_path: Path) -> None:
    old = versions.detect(tree(tmp_path / "old", *OLD) / "atom")
    new = versions.detect(tree(tmp_path / "new", *NEW) / "atom")
    assert (old.shape, new.shape) == ("#253", "moriio package")
    assert set(old.units) == set(Unit) - {Unit.POLLING}, "its connector reports, nobody polls"
    its_own = {Unit.PROXY, Unit.DISCOVERY, Unit.FLOW, Unit.ROUTER}
    assert set(new.units) == set(old.units) - its_own, "its router is no Python"


def test_capabilities_follow_from_what_is_defined(tmp_path: Path) -> None:
    plain = versions.detect(tree(tmp_path / "plain", *NEW) / "atom").capabilities
    assert not plain.failure_reporting
    assert not plain.abort
    assert not plain.chunked_prefill
    full = {
        f"{DISAGGREGATION}.types": "class KVConnectorOutput:\n    failed_recving: set = set()\n",
        "model_engine.engine_utility": (
            "class EngineUtilityHandler:\n    def _handle_abort_request(self): return\n"
        ),
        "model_engine.scheduler": (
            "class Scheduler:\n    def _chunked_prefill_size(self): return 0\n"
        ),
    }
    capable = versions.detect(tree(tmp_path / "full", *NEW, **full) / "atom").capabilities
    assert capable.failure_reporting
    assert capable.abort
    assert capable.chunked_prefill


def test_a_tree_without_git_has_no_commit(tmp_path: Path) -> None:
    assert checkout.commit(tree(tmp_path, *OLD) / "atom") is None


def test_a_git_checkout_tells_its_commit(tmp_path: Path) -> None:
    package = tree(tmp_path, *OLD) / "atom"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    assert checkout.commit(package) == head.stdout[:9]
    (package / "__init__.py").write_text("changed = True\n")
    assert checkout.commit(package) == f"{head.stdout[:9]}-dirty"


@pytest.mark.parametrize("modules", [OLD, NEW], ids=["#253", "moriio"])
def test_known_failures_name_clauses_of_the_units_once(
    tmp_path: Path, modules: tuple[str, ...]
) -> None:
    version = versions.detect(tree(tmp_path, *modules) / "atom")
    known = failures_of(version)
    clauses = [failure.clause for failure in known]
    assert clauses == sorted(set(clauses)), "each clause once"
    for failure in known:
        assert CLAUSES[failure.clause].unit in version.units
        assert "{" not in failure.reason + failure.link, "every place is filled in"
        assert failure.link.startswith("https://github.com/ROCm/ATOM/blob/")


@pytest.mark.parametrize("modules", [OLD, NEW], ids=["#253", "moriio"])
def test_the_guide_lists_every_known_failure(tmp_path: Path, modules: tuple[str, ...]) -> None:
    guide = (ROOT / "docs" / "targets-atom.md").read_text().replace("|", " ")
    for failure in failures_of(versions.detect(tree(tmp_path, *modules) / "atom")):
        _, _, wrong = failure.reason.partition(" ")
        rows = [line for line in guide.splitlines() if wrong in line and failure.link in line]
        assert any(failure.clause in row for row in rows), failure


# -- the network that the proxy calls on -------------------------------------------------------


async def post(url: str) -> tuple[int, bytes]:
    import aiohttp

    async with aiohttp.ClientSession() as session, session.post(url, json={"n": 1}) as response:
        return response.status, await response.read()


def test_any_address_leads_to_the_scripted_engines() -> None:
    pytest.importorskip("aiohttp", reason="not applicable: the extra proxy is not installed")
    network = Network()
    seen: list[Received] = []
    try:
        network.answer = lambda received: seen.append(received) or Reply(418, {"a": 1})
        assert network.run(post("http://10.9.8.7:1234/v1/x")) == (418, b'{"a": 1}')
        assert (seen[0].host, seen[0].path, seen[0].body) == ("10.9.8.7:1234", "/v1/x", {"n": 1})
    finally:
        network.close()


def test_patience_is_measured_on_the_networks_clock() -> None:
    pytest.importorskip("aiohttp", reason="not applicable: the extra proxy is not installed")

    async def ask(seconds: float | None) -> None:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=seconds)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session:
                await session.post("http://10.0.0.1:1")
        except asyncio.TimeoutError:
            return

    network = Network()
    try:
        network.answer = lambda received: None
        assert network.patience(ask(7200)) == pytest.approx(7200, abs=60)
        assert network.patience(ask(None)) == math.inf
    finally:
        network.close()


# -- ATOM itself -----------------------------------------------------------------------------


@pytest.fixture
def atom(source: Path) -> Target:
    target = check_target(load("atom", source))
    target.open()
    try:
        yield target
    finally:
        target.close()


@needs_atom
@each_atom
def test_closing_leaves_no_module_and_no_global(source: Path) -> None:
    root = logging.getLogger()
    before = (list(sys.path), list(root.handlers), root.level, threading.active_count())
    for _ in range(2):
        target = load("atom", source)
        target.open()
        assert Path(sys.modules["atom"].__file__).parents[1] == source.resolve()
        target.close()
        loaded = [n for n in sys.modules if n.partition(".")[0] in ("atom", "aiter", "mori")]
        assert loaded == []
    assert before == (list(sys.path), list(root.handlers), root.level, threading.active_count())
    assert os.environ.get("ATOM_HOST_IP") is None


@needs_atom
@each_atom
def test_a_hand_off_goes_from_p_to_d(atom: Target) -> None:
    p = atom.engine_scheduler(EngineSpec(Role.PRODUCER, handshake_port=17000))
    d = atom.engine_scheduler(EngineSpec(Role.CONSUMER))
    p.add(Request("p-1", tuple(range(10)), max_tokens=1, remote_decode=True))
    assert p.step().scheduled == {"p-1": 10}
    assert p.complete() == {"p-1"}
    hand_off = p.hand_off("p-1")
    assert hand_off == HandOff(
        engine_id="None",
        host="127.0.0.1",
        port=hand_off.port,
        handshake_port=17000,
        block_ids=p.block_table("p-1"),
        transfer_id=1,
        tp_size=1,
        dp_size=1,
        dp_rank=0,
    )
    d.add(Request("d-1", tuple(range(10)), max_tokens=2, source=hand_off))
    load_of = d.step().metadata.receive["d-1"]
    assert load_of.remote_block_ids == p.block_table("p-1")
    assert load_of.remote_handshake_port == 17000
    for driver in (p, d):
        driver.close()


@needs_atom
@each_atom
def test_a_new_transfer_driver_has_no_role_yet(atom: Target) -> None:
    first = atom.transfer()
    first.set_role(Role.PRODUCER)
    first.close()
    assert atom.transfer().role() is None


@needs_atom
@each_atom
def test_the_proxy_calls_the_engines_that_registered(atom: Target) -> None:
    if Unit.PROXY not in atom.units:
        pytest.skip("not applicable: this ATOM has no proxy of its own")
    proxy = atom.proxy()
    proxy.register(Instance(Role.PRODUCER, "http://10.0.0.1:8000"))
    proxy.register(Instance(Role.CONSUMER, "http://10.0.1.1:8000"))
    exchange = proxy.send({"prompt": "a", "max_tokens": 3}, decode=Reply(raw=(b"x", b"y")))
    assert (exchange.status, exchange.body) == (200, b"xy")
    assert exchange.prefill[0].body["max_tokens"] == 1
    assert exchange.decode[0].body["kv_transfer_params"]["remote_host"] == "10.0.0.1"
    proxy.close()


@needs_atom
@each_atom
@pytest.mark.parametrize(("layer", "kept"), [("l1", 100), ("l2", 50)])
def test_the_suites_are_green_with_the_known_failures(
    source: Path, tmp_path: Path, layer: str, kept: int
) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "pytest", "tests/disaggregation", "-q"]
    command += ["--pd-target", "atom", "--pd-source", str(source), "--pd-report", str(report)]
    command += ["--pd-seed", "1"]  # a property must find what is known, so its examples are fixed
    ours = ("PYTEST_", "COV_")
    run = subprocess.run(
        [*command, "--pd-layer", layer, "-p", "no:cacheprovider"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith(ours)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (target,) = json.loads(report.read_text())["targets"]
    outcomes = [clause["outcome"] for clause in target["clauses"]]
    assert outcomes.count("kept") > kept
    assert outcomes.count("broken") == 0
