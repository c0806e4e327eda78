"""A P/D deployment of real processes is accurate, and the test of it notices when it is not."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from pd_testkit.bench.accuracy.check import Deployment, Outcome, Result, run
from pd_testkit.bench.accuracy.command import CHECKS
from pd_testkit.bench.endpoint import Endpoint
from pd_testkit.bench.kv.movement import Engines
from tests.e2e.forwarder import Forwarder
from tests.e2e.running import KIT, PATIENCE_S, Running, engine, running, stack
from tests.kit.toy_deployment import served

ADMIN_KEY = "e2e-key"
SEED = 3


@dataclass(frozen=True)
class Bed:
    """Two P, two D and a router; an engine that does either, the oracle and the forwarder's P; and
    a D that compares digests, on whose way a byte of each transfer is flipped."""

    stack: Running
    oracle: str
    careful: str
    folder: Path


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    folder = tmp_path_factory.mktemp("pd-accuracy")
    arguments = ("--prefill", "2", "--decode", "2", "--router", "pd-testkit")
    careful = ("--role", "decode", "--kv-digest", "--fault", "kv-corrupt")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as processes:
        patch.setenv("XDG_STATE_HOME", str(folder))
        patch.setenv("PD_ENGINE_ADMIN_KEY", ADMIN_KEY)
        up, *engines = map(
            processes.enter_context,
            (
                stack(folder, *arguments),
                engine(folder, "oracle", "--role", "both"),
                engine(folder, "careful", *careful),
            ),
        )
        oracle, own = (each.ready()["url"] for each in engines)
        yield Bed(running(up.ready()), oracle, own, folder)


def accuracy(bed: Bed, *arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    """The command's exit status, and what became of the checks."""
    file = bed.folder / "seen.json"
    file.unlink(missing_ok=True)
    ended = subprocess.run(
        [*KIT, "accuracy", "--seed", str(SEED), "--json", str(file), *arguments],
        env={**os.environ, **bed.stack.environment, "PD_ENGINE_ADMIN_KEY": ADMIN_KEY},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert file.exists(), ended.stderr
    checks = json.loads(file.read_text())["checks"]
    return ended.returncode, {check["name"]: check for check in checks}


def behind_forwarder(
    bed: Bed, decode: str, *names: str, forgets: bool, seed: int
) -> dict[str, Result]:
    """What these checks say of that D behind the forwarder. A forgotten hand-off's KV is kept by
    its P, which is therefore none of the stack's.

    Args:
        seed: one of its own for each call: what D has cached does not move again.
    """

    async def found() -> dict[str, Result]:
        async with aiohttp.ClientSession() as session:
            forwarder = Forwarder(session, bed.oracle, decode, forgets=forgets)
            async with served(forwarder.application()) as (url,):
                deployment = Deployment(
                    Endpoint(session, url, bed.stack.model),
                    oracle=Endpoint(session, bed.oracle, bed.stack.model),
                    engines=Engines([Endpoint(session, bed.oracle)], [Endpoint(session, decode)]),
                    seed=seed,
                )
                checks = [CHECKS[name] for name in names]
                return {result.name: result async for result in run(checks, deployment)}

    return asyncio.run(asyncio.wait_for(found(), PATIENCE_S))


def test_prefill_and_decode_are_as_accurate_as_one_engine(bed: Bed) -> None:
    """All checks, against an oracle that the command starts itself; then bytes are flipped."""
    status, checks = accuracy(bed, "--self-test")
    assert {name: check["got"] for name, check in checks.items() if check["got"]} == {}
    assert {check["outcome"] for check in checks.values()} == {"kept"}
    assert checks.keys() == CHECKS.keys() - {"questions"} | {"detector"}
    assert status == 0


def test_a_byte_flipped_in_flight_fails_the_test(bed: Bed) -> None:
    async def faults(method: str) -> None:
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        body = {"fault": "kv-corrupt"} if method == "POST" else None
        async with aiohttp.ClientSession(headers=headers) as session:
            for url in bed.stack.decode:
                async with session.request(method, f"{url}/admin/faults", json=body) as answer:
                    assert answer.status == 200

    asyncio.run(faults("POST"))
    try:
        arguments = ("--check", "block-edges", "--oracle", bed.oracle)
        status, checks = accuracy(bed, "--seed", "14", *arguments)
    finally:
        asyncio.run(faults("DELETE"))
    assert status == 1
    assert checks["block-edges"]["outcome"] == "failed"
    assert "as the oracle" in checks["block-edges"]["expected"]


def test_a_byte_flipped_in_flight_is_refused_where_digests_are_compared(bed: Bed) -> None:
    found = behind_forwarder(bed, bed.careful, "block-edges", forgets=False, seed=11)
    assert found["block-edges"].outcome is Outcome.FAILED
    assert found["block-edges"].expected == "status 200"

    async def failed() -> str:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{bed.careful}/metrics") as answer,
        ):
            return await answer.text()

    lines = asyncio.run(failed()).splitlines()
    (count,) = [x.split()[-1] for x in lines if x.startswith("pd_engine_failed_digests_total")]
    assert float(count) >= 1


def test_a_hand_off_that_a_router_forgets_fails_the_test_though_tokens_are_right(bed: Bed) -> None:
    found = behind_forwarder(bed, bed.stack.decode[0], "tokens", "kv-moved", forgets=True, seed=12)
    assert found["tokens"].outcome is Outcome.KEPT, found["tokens"]
    assert found["kv-moved"].outcome is Outcome.FAILED
    assert "D computed the rest again" in found["kv-moved"].got


def test_the_same_router_passes_when_it_remembers(bed: Bed) -> None:
    found = behind_forwarder(bed, bed.stack.decode[0], "tokens", "kv-moved", forgets=False, seed=13)
    assert {result.outcome for result in found.values()} == {Outcome.KEPT}, found
