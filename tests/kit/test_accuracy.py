"""The accuracy test against deployments that are right, and wrong in one way each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import aiohttp
import pytest

from pd_testkit.bench.accuracy.check import Deployment, Outcome, Result, run, succeeded
from pd_testkit.bench.accuracy.command import CHECKS
from pd_testkit.bench.accuracy.detector import DETECTOR_CHECKS
from pd_testkit.bench.accuracy.expectations import Band, Question
from pd_testkit.bench.endpoint import Endpoint
from pd_testkit.bench.kv import movement as kv_movement
from pd_testkit.bench.kv.movement import Engines
from tests.kit.toy_deployment import ADMIN_KEY, BLOCK, DEFECTS, MODEL, Toy, continuation, served

PATIENCE_S = 60.0
SEED = 11
EVERY = CHECKS | {check.name: check for check in DETECTOR_CHECKS}


def check(toy: Toy, names: Sequence[str] = (), **about: Any) -> dict[str, Result]:
    """What the checks (all, or those named) find of a deployment, by name."""

    async def found() -> dict[str, Result]:
        right = Toy()
        apps = (toy.router(), toy.engine("prefill"), toy.engine("decode"), right.router())
        async with served(*apps) as urls, aiohttp.ClientSession() as session:
            router, prefill, decode, oracle = (Endpoint(session, url, MODEL) for url in urls)
            deployment = Deployment(
                **{
                    "endpoint": router,
                    "oracle": oracle,
                    "engines": Engines([prefill], [decode]),
                    "block_sizes": (BLOCK,),
                    "seed": SEED,
                    "admin_key": ADMIN_KEY,
                    **about,
                }
            )
            checks = [EVERY[name] for name in names or EVERY]
            return {result.name: result async for result in run(checks, deployment)}

    return asyncio.run(asyncio.wait_for(found(), PATIENCE_S))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy's counters are true at once."""
    monkeypatch.setattr(kv_movement, "SETTLING_S", 0.0)


def test_a_right_deployment_keeps_all() -> None:
    found = check(Toy())
    outcomes = {name: result.outcome for name, result in found.items()}
    assert outcomes.pop("questions") is Outcome.NOT_APPLICABLE
    assert set(outcomes.values()) == {Outcome.KEPT}, [r for r in found.values() if r.got]
    assert succeeded(found.values())


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_noticed_by_its_check(defect: str) -> None:
    name = DEFECTS[defect]
    result = check(Toy(defect), [name])[name]
    assert result.outcome is Outcome.FAILED, result
    assert result.asked
    assert result.expected
    assert result.got
    assert result.again.startswith(("curl ", "pd-testkit accuracy "))
    assert not succeeded([result])


def test_the_detector_leaves_no_fault_behind() -> None:
    toy = Toy()
    result = check(toy, ["detector"])["detector"]
    told = "4 bytes flipped: of 4 answers 4 were wrong and 0 refused"
    assert (result.outcome, result.detail) == (Outcome.KEPT, told)
    assert not toy.corrupting


def test_the_detector_needs_the_key() -> None:
    result = check(Toy(), ["detector"], admin_key="another")["detector"]
    assert (result.outcome, result.got) == (Outcome.FAILED, "status 401: ")


def test_bytes_alone_show_what_moved() -> None:
    assert check(Toy(bytes_only=True), ["kv-moved"])["kv-moved"].outcome is Outcome.KEPT


@pytest.mark.parametrize("defect", ["recomputes", "moves-nothing"])
def test_bytes_alone_show_what_did_not(defect: str) -> None:
    result = check(Toy(defect, bytes_only=True), ["kv-moved"])["kv-moved"]
    assert result.outcome is Outcome.FAILED


def test_without_the_engines_nothing_shows_that_kv_moved() -> None:
    result = check(Toy(), ["kv-moved"], engines=Engines((), ()))["kv-moved"]
    assert result.outcome is Outcome.FAILED
    assert "--no-kv-check" in result.expected


def test_kv_may_go_unchecked_where_that_is_said() -> None:
    about = {"engines": Engines((), ()), "kv_check": False}
    result = check(Toy(), ["kv-moved"], **about)["kv-moved"]
    assert (result.outcome, result.detail) == (Outcome.NOT_APPLICABLE, "--no-kv-check")


def test_nothing_kept_is_no_success() -> None:
    assert not succeeded(check(Toy(), ["questions"]).values())


def test_a_failure_gives_the_command_that_asks_the_same() -> None:
    result = check(Toy("usage-off-by-one"), ["completion"])["completion"]
    *_, option, body = result.again.split(" ", 7)
    assert option == "-d"
    asked = json.loads(body.strip("'"))
    assert (asked["model"], asked["max_tokens"], asked["temperature"]) == (MODEL, 12, 0)


# Questions with a stated expectation. The toy answers with letters, and so never right.

QUESTIONS = tuple(Question(f"{n} and 1?", f"It is #### {n + 1}") for n in range(9))


def test_questions_without_a_stated_expectation_fail() -> None:
    result = check(Toy(), ["questions"], questions=QUESTIONS)["questions"]
    assert result.outcome is Outcome.FAILED
    assert "--expect" in result.expected


def test_a_share_within_the_band_is_kept() -> None:
    about = {"questions": QUESTIONS, "band": Band(0.04, 0.05)}
    result = check(Toy(), ["questions"], **about)["questions"]
    assert result.outcome is Outcome.KEPT
    assert result.detail == "0 of 4 right: 0.000, expected 0.040 ± 0.050"


def test_a_share_beyond_the_band_fails() -> None:
    about = {"questions": QUESTIONS, "band": Band(0.41, 0.05)}
    result = check(Toy(), ["questions"], **about)["questions"]
    assert (result.outcome, result.got) == (Outcome.FAILED, "0 of 4 right: 0.000")


def test_the_toy_tells_prompts_apart() -> None:
    assert continuation("a", 16) != continuation("b", 16)
