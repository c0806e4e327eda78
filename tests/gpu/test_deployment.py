"""Proxy, prefill and decode as processes, with real inference on a device."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import running
from tests.gpu.places import DEVICES

REQUESTS = 40
AT_ONCE = 16
SHORT_LEASE = ("--hold", "0.2")
SLOW = (
    ("netem", "delay", "20ms", "rate", "50mbit"),
    ("tbf", "rate", "50mbit", "burst", "256kb", "latency", "400ms"),
)
"""Late and slow; where the kernel has no netem, slow."""
LEAST_SENT = 1 << 20
"""Bytes that prompts and their KV are at least."""
SLOWED = "PD_L3_SLOW_DEVICE"
"""Names a network device that `tc` may slow down, such as ``lo``; that needs CAP_NET_ADMIN."""

pytestmark = pytest.mark.requires_package("rich")


@dataclass(frozen=True)
class Bed:
    """A stack on a device, and an engine that does both legs there: the oracle, which keeps KV for
    a D for a moment only."""

    ready: dict[str, Any]
    oracle: str
    folder: Path

    @property
    def stack(self) -> running.Running:
        return running.running(self.ready)


@pytest.fixture(scope="module", params=DEVICES)
def bed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    folder = tmp_path_factory.mktemp(f"l3-{request.param}")
    on = f"--device {request.param}"
    with pytest.MonkeyPatch.context() as patch, ExitStack() as processes:
        patch.setenv("XDG_STATE_HOME", str(folder))
        up, oracle = map(
            processes.enter_context,
            (
                running.stack(folder, "--kv-digest", "--prefill-args", on, "--decode-args", on),
                running.engine(folder, "oracle", "--role", "both", *SHORT_LEASE, *on.split()),
            ),
        )
        yield Bed(up.ready(), oracle.ready()["url"], folder)


def accuracy(folder: Path, environment: dict[str, str], *arguments: str) -> dict[str, str]:
    """What became of each check."""
    file = folder / "accuracy.json"
    ended = subprocess.run(
        [*running.KIT, "accuracy", "--seed", "5", "--json", str(file), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=running.PATIENCE_S,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return {check["name"]: check["outcome"] for check in json.loads(file.read_text())["checks"]}


@contextmanager
def slow(device: str) -> Iterator[Callable[[], int]]:
    """What the device sends waits in a queue of `tc`'s, which tells how many bytes went by it."""
    for queue in SLOW:
        ended = subprocess.run(
            ["tc", "qdisc", "add", "dev", device, "root", *queue], capture_output=True, text=True
        )
        if ended.returncode == 0:
            break
    else:
        pytest.skip(f"not applicable: tc does not slow {device} down: {ended.stderr.strip()}")

    def sent() -> int:
        command = ["tc", "-s", "qdisc", "show", "dev", device, "root"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return sum(map(int, re.findall(r"Sent (\d+) bytes", shown)))

    try:
        yield sent
    finally:
        subprocess.run(["tc", "qdisc", "del", "dev", device, "root"], check=True)


def test_three_processes_answer_as_one_engine_and_the_kv_moved(bed: Bed) -> None:
    checks = ("tokens", "block-edges", "kv-moved")
    arguments = [word for name in checks for word in ("--check", name)]
    seen = accuracy(bed.folder, bed.stack.environment, "--oracle", bed.oracle, *arguments)
    assert seen == dict.fromkeys(checks, "kept")


def test_many_requests_at_once_are_each_answered_as_alone(bed: Bed) -> None:
    """And all blocks are free again on both sides."""
    import aiohttp

    from tests.e2e.kills import all_given_back, asked_all

    async def seen() -> None:
        async with aiohttp.ClientSession() as session:
            numbers = range(REQUESTS)
            expected = await asked_all(session, bed.oracle, 1, numbers)
            assert await asked_all(session, bed.stack.url, 1, numbers) == expected
            for engine in (*bed.stack.prefill, *bed.stack.decode):
                counts = await all_given_back(session, engine)
                assert counts["pd_engine_free_blocks"] == counts["pd_engine_blocks"] > 0, engine

    asyncio.run(asyncio.wait_for(seen(), running.PATIENCE_S))


def test_a_hand_off_that_nobody_reads_is_given_back_after_a_short_lease(bed: Bed) -> None:
    """Its D never comes; P's blocks are free again."""
    import aiohttp

    from tests.e2e.kills import all_given_back, prompt

    async def seen() -> None:
        async with aiohttp.ClientSession() as session:
            hand_off = {"do_remote_decode": True, "do_remote_prefill": False}
            body = {"model": "tiny", "prompt": prompt(2, 4), "max_tokens": 1, "temperature": 0}
            body["kv_transfer_params"] = hand_off
            async with session.post(f"{bed.oracle}/v1/completions", json=body) as answer:
                assert answer.status == 200, await answer.text()
                assert (await answer.json())["kv_transfer_params"]["do_remote_prefill"] is True
            counts = await all_given_back(session, bed.oracle)
            assert counts["pd_engine_free_blocks"] == counts["pd_engine_blocks"] > 0
            assert counts["pd_engine_held_requests"] == 0

    asyncio.run(asyncio.wait_for(seen(), running.PATIENCE_S))


@pytest.mark.timeout(6 * running.PATIENCE_S)
@pytest.mark.parametrize("device", DEVICES[1:])
def test_p_d_and_router_may_be_killed_under_load_and_engines_start_again(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property
) -> None:
    """The same as on the CPU, where `tests/e2e/test_stack_kills.py` runs it."""
    from tests.e2e import kills
    from tests.e2e.test_stack_kills import KILLED, PREFILL

    record_property("clauses", "FLOW-018 FLOW-019 PAIR-065 PAIR-067 PAIR-068")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    on = f"--device {device}"
    options = ("--prefill", "2", "--decode", "2", "--prefill-args", f"{PREFILL} {on}")
    with (
        running.engine(tmp_path, "oracle", "--role", "both", *on.split()) as oracle,
        running.stack(tmp_path, *options, "--decode-args", on) as starting,
    ):
        bed = kills.of_stack(starting.ready(), oracle.ready()["url"], tmp_path)
        kills.kill_one_after_the_other(bed, *KILLED)


@pytest.mark.parametrize("device", DEVICES)
def test_a_slow_nic_changes_no_answer(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property
) -> None:
    """By `tc`, so of what goes by TCP: NICs' RDMA goes past the kernel's queues."""
    record_property("clauses", "PAIR-050")
    slowed = os.environ.get(SLOWED)
    if not slowed:
        pytest.skip(f"not applicable: {SLOWED} names no network device that may be slowed down")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    on = f"--device {device}"
    options = ("--transport", "zmq", "--prefill-args", on, "--decode-args", on, "--kv-digest")
    with slow(slowed) as sent, running.stack(tmp_path, *options) as starting:
        stack = running.running(starting.ready())
        seen = accuracy(tmp_path, stack.environment, "--check", "tokens", "--check", "kv-moved")
        assert set(seen.values()) == {"kept"}
        assert sent() > LEAST_SENT
