"""The target `vllm`: refused in one line where it cannot be had, told by names, driven by halves.

What needs vLLM's own code runs where vLLM is installed.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pd_testkit.contract import (
    EngineSpec,
    HandOff,
    Request,
    Role,
    Target,
    TargetError,
    Unit,
    WorkerReport,
    check_target,
)
from pd_testkit.contract.clauses import CLAUSES
from pd_testkit.targets import load
from pd_testkit.targets import vllm as target_module
from pd_testkit.targets.vllm.connectors import CONNECTORS, Connector
from pd_testkit.targets.vllm.known import failures_of
from pd_testkit.targets.vllm.versions import capabilities_of

ROOT = Path(__file__).parents[2]

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="not applicable: vLLM is not installed"
)
each_connector = pytest.mark.parametrize("connector", CONNECTORS.values(), ids=lambda c: c.variant)

V1 = "distributed/kv_transfer/kv_connector/v1"
FILES = {
    f"{V1}/base.py": """
class KVConnectorBase_V1:
    def get_num_new_matched_tokens(self, request, num_computed_tokens): ...
    def update_state_after_alloc(self, request, blocks, num_external_tokens): ...
    def build_connector_meta(self, scheduler_output): ...
    def request_finished(self, request, block_ids): ...
class SupportsHMA:
    def request_finished_all_groups(self, request, block_ids): ...
""",
    "distributed/kv_transfer/kv_connector/factory.py": """
class KVConnectorFactory:
    @classmethod
    def create_connector(cls, config, role, kv_cache_config): ...
""",
    "distributed/kv_transfer/kv_connector/utils.py": """
class KVOutputAggregator:
    def __init__(self, expected_finished_count): ...
    def aggregate(self, outputs, output_rank=0): ...
""",
    "v1/core/sched/scheduler.py": """
class Scheduler:
    def schedule(self): ...
    def update_from_output(self, scheduler_output, model_runner_output): ...
    def finish_requests(self, request_ids, finished_status): ...
""",
    "v1/request.py": """
class Request:
    def __init__(self, request_id, prompt_token_ids, sampling_params, pooling_params): ...
""",
    "v1/outputs.py": """
class KVConnectorOutput:
    invalid_block_ids: set[int] = set()
    failed_recving: set[str] = set()
""",
    f"{V1}/nixl/metadata.py": """
class NixlConnectorMetadata:
    def add_new_req_to_recv(self, request_id, local_block_ids, kv_transfer_params): ...
""",
    f"{V1}/nixl/base_worker.py": """
class NixlBaseConnectorWorker:
    def _apply_prefix_caching(self, decode_block_ids, prefill_block_ids, ours, theirs): ...
""",
}
"""The least that the target speaks to, for NIXL."""


def tree(root: Path, **changes: str) -> Path:
    """A folder with these files, some of them with another text."""
    for name, text in {**FILES, **changes}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


# -- refused, in one line --------------------------------------------------------------------


def refused(name: str) -> str:
    with pytest.raises(TargetError) as caught:
        load(name)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_an_unknown_connector_is_answered_with_the_known_ones() -> None:
    message = refused("vllm:p2p")
    assert "no variant 'p2p'" in message
    assert all(variant in message for variant in CONNECTORS)


def test_without_vllm_the_guide_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_module.importlib.util, "find_spec", lambda name: None)
    assert (
        refused("vllm") == "vLLM is not installed here: see docs/targets-vllm.md for how, on a CPU"
    )


def test_a_transport_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_loader("vllm", None, origin="vllm/__init__.py")
    found = {"vllm": spec}
    monkeypatch.setattr(target_module.importlib.util, "find_spec", found.get)
    message = refused("vllm:mooncake")
    assert message == (
        "the connector mooncake needs mooncake: pip install mooncake-transfer-engine-non-cuda"
    )


def test_looking_for_it_imports_nothing_of_it() -> None:
    program = (
        "import sys\n"
        "from pd_testkit.targets import load\n"
        "try: load('vllm:nixl')\n"
        "except Exception: pass\n"
        "print([n for n in sys.modules if n.partition('.')[0] in ('vllm', 'torch', 'nixl')])\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout == "[]\n", run.stderr


# -- told by names ---------------------------------------------------------------------------


def test_a_vllm_with_the_names_is_known(tmp_path: Path) -> None:
    found = capabilities_of(tree(tmp_path), CONNECTORS["nixl"], "9.9")
    assert found == CONNECTORS["nixl"].capabilities


def test_failures_by_request_are_told_by_their_field(tmp_path: Path) -> None:
    old = tree(tmp_path, **{"v1/outputs.py": "class KVConnectorOutput:\n    sent: int = 0\n"})
    assert not capabilities_of(old, CONNECTORS["nixl"], "0.1").failure_reporting


@pytest.mark.parametrize(
    ("changed", "text", "missing"),
    [
        (f"{V1}/base.py", "", "get_num_new_matched_tokens(request, num_computed_tokens)"),
        (
            "distributed/kv_transfer/kv_connector/utils.py",
            "class KVOutputAggregator:\n    def __init__(self, world_size): ...\n",
            "KVOutputAggregator.__init__(expected_finished_count)",
        ),
        (
            f"{V1}/nixl/metadata.py",
            "class NixlConnectorMetadata: ...\n",
            "vllm.distributed.kv_transfer.kv_connector.v1.nixl.metadata has no "
            "NixlConnectorMetadata.add_new_req_to_recv",
        ),
    ],
    ids=["without connectors", "other parameters", "another metadata"],
)
def test_a_vllm_with_other_names_is_refused_in_one_line(
    tmp_path: Path, changed: str, text: str, missing: str
) -> None:
    with pytest.raises(TargetError) as caught:
        capabilities_of(tree(tmp_path, **{changed: text}), CONNECTORS["nixl"], "0.7.3")
    message = str(caught.value)
    assert "\n" not in message
    assert missing in message
    assert "vLLM 0.7.3" in message


def test_a_connector_asks_for_its_own_names_only(tmp_path: Path) -> None:
    capabilities_of(tree(tmp_path), CONNECTORS["offloading"], "9.9")
    with pytest.raises(TargetError, match="moriio"):
        capabilities_of(tree(tmp_path), CONNECTORS["moriio"], "9.9")


# -- what is known ---------------------------------------------------------------------------


@each_connector
def test_known_failures_name_clauses_of_the_units_once(connector: Connector) -> None:
    clauses = [failure.clause for failure in failures_of(connector)]
    assert clauses == sorted(set(clauses)), "each clause once"
    for failure in failures_of(connector):
        clause = CLAUSES[failure.clause]
        assert clause.unit in connector.units, failure
        assert not connector.capabilities.missing(clause.needs), failure
        function, _, wrong = failure.reason.partition(" ")
        assert function.startswith("vllm."), "the cause names the function"
        assert ":" in function
        assert wrong


@each_connector
def test_the_guide_lists_every_known_failure(connector: Connector) -> None:
    guide = (ROOT / "docs" / "targets-vllm.md").read_text()
    for failure in failures_of(connector):
        function, _, wrong = failure.reason.partition(" ")
        name = function.rpartition(":")[2]
        rows = [line for line in guide.splitlines() if wrong in line and name in line]
        assert any(failure.clause in row for row in rows), failure


# -- vLLM itself -----------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["nixl", "moriio"])
def vllm(request: pytest.FixtureRequest) -> Iterator[Target]:
    target = check_target(load(f"vllm:{request.param}"))
    target.open()
    try:
        yield target
    finally:
        target.close()


@needs_vllm
def test_a_hand_off_goes_from_p_to_the_workers_of_d(vllm: Target) -> None:
    p = vllm.scheduler_side(EngineSpec(Role.PRODUCER, handshake_port=17000, tp_size=2))
    p.add(Request("p-1", tuple(range(10)), max_tokens=1, remote_decode=True))
    p.match("p-1")
    p.allocated("p-1", [8, 3, 21], 0)
    finish = p.finished("p-1", [8, 3, 21])
    assert finish.keeps_blocks
    hand_off = finish.hand_off
    assert isinstance(hand_off, HandOff)
    assert (hand_off.block_ids, hand_off.tp_size) == ((8, 3, 21), 2)
    d = vllm.scheduler_side(EngineSpec(Role.CONSUMER))
    d.add(Request("d-1", tuple(range(10)), max_tokens=2, source=hand_off))
    match = d.match("d-1")
    assert match.tokens == (10 if match.asynchronous else 9)
    d.allocated("d-1", [5, 6, 7], match.tokens)
    meta = d.build_metadata().receive["d-1"]
    assert meta.pairs == ((5, 8), (6, 3), (7, 21))
    assert meta.remote_handshake_port == hand_off.handshake_port
    for driver in (p, d):
        driver.close()


@needs_vllm
def test_a_child_serves_hundreds_of_drivers(vllm: Target) -> None:
    """It keeps no thread and no file of those that were closed."""

    def used() -> tuple[int, int]:
        process = Path("/proc") / str(child.pid)
        return len(list((process / "task").iterdir())), len(list((process / "fd").iterdir()))

    def serve(drivers: int) -> None:
        for _ in range(drivers):
            vllm.scheduler_side(EngineSpec(Role.CONSUMER)).close()
            vllm.metadata().close()

    serve(20)  # pools of threads fill with their first uses
    child = vllm._children.get("consumer")
    before = used()
    serve(200)
    assert used() == before


@needs_vllm
def test_a_failed_receive_is_given_out_when_all_have_reported(vllm: Target) -> None:
    aggregator = vllm.aggregator(world_size=2)
    failed, received = WorkerReport.of(failed=["r"]), WorkerReport.of(received=["r"])
    assert not aggregator.step([failed, WorkerReport()])
    assert aggregator.pending() == 1
    assert aggregator.step([WorkerReport(), received]) == failed
    assert aggregator.pending() == 0


@needs_vllm
def test_what_the_children_leave_goes_with_the_target() -> None:
    target = load("vllm:multi")
    target.open()
    folder = Path(target._folder.name)
    target.scheduler_side(EngineSpec(Role.CONSUMER)).close()
    assert list(folder.iterdir()), "the model's configuration"
    target.close()
    assert not folder.exists()


def test_stores_have_no_unit_of_hand_offs() -> None:
    for variant in ("offloading", "example"):
        assert not {Unit.METADATA, Unit.SCHEDULER} & set(CONNECTORS[variant].units)
