"""``pd-testkit engine``: its options, and its life as a process."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from click.testing import CliRunner

from pd_testkit.engine.command import engine

pytestmark = pytest.mark.xdist_group("test_engine_command")  # they share processes

WAIT_S = 60.0
KEY = "an-admin-key"
NO_TORCH = "not applicable: torch is not installed"


# Options: what is wrong is said in one line, before torch is imported


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--role", "both of them"], "'both of them' is not one of 'both', 'prefill', 'decode'"),
        (["--host", "0.0.0.0"], "'0.0.0.0'; give an address by which peers reach this engine"),
        (["--host", "no such host"], "--host no such host: "),
        (["--port", "65536"], "--port"),
        (["--model", "huge"], "'huge': choose of tiny, tiny-gqa, tiny-mla, small, medium, or name"),
        (["--tp", "3"], "--tp 3: tiny has 8 heads, which cannot be shared"),
        (["--tp", "9"], "--tp"),
        (["--block-size", "0"], "--block-size"),
        (["--hold", "0"], "--hold"),
        (["--layout", "NDH"], "--layout"),
        (["--transport", "tcp"], "--transport"),
        (["--protocol", "mooncake"], "--protocol"),
        (["--register", "127.0.0.1:1"], "'127.0.0.1:1'; give tcp://HOST:PORT"),
        (["--register", "tcp://127.0.0.1:0"], "give tcp://HOST:PORT"),
        (["--timing", "b200"], "'b200' is no profile; choose of real, a100, h100"),
        (["--fault", "explode"], "'explode' is no fault; choose of refuse"),
        (["--admin-key", " "], "empty, or not of printable ASCII characters"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(arguments: list[str], reason: str) -> None:
    result = CliRunner().invoke(engine, arguments)
    assert result.exit_code == 2
    assert reason in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert result.output.startswith("Error: ")


def test_a_port_that_is_taken_is_said_at_once() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = CliRunner().invoke(engine, ["--port", str(port)])
    assert result.exit_code == 2
    assert result.output == f"Error: --port {port}: Address already in use; choose another\n"


def test_a_cache_that_the_machine_cannot_have_is_refused() -> None:
    pytest.importorskip("torch", reason=NO_TORCH)
    one_thread = {"OMP_NUM_THREADS": "1"}  # as the command has it for its process
    result = CliRunner().invoke(engine, ["--num-blocks", "100000000"], env=one_thread)
    assert result.exit_code == 2
    # 16 tokens of 2 layers x 2 x 8 heads x 8 elements of 8 bytes, 1e8 times: 3.3e12 bytes
    assert "--num-blocks 100000000: a KV cache of 3052 GiB" in result.output


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(engine, ["--model", str(tmp_path)])
    assert (result.exit_code, "config.json" in result.output) == (2, True)


def test_help_imports_no_torch() -> None:
    code = "import sys; from pd_testkit.engine import command; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The process


@dataclass
class Running:
    """An engine, and what it said when it was ready."""

    process: subprocess.Popen[bytes]
    ready: dict[str, Any]
    log: Path

    def get(self, path: str, method: str = "GET", body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
        request = urllib.request.Request(self.ready["url"] + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            raw = answer.read()
            json_type = answer.headers.get_content_type() == "application/json"
            return json.loads(raw) if json_type else raw.decode()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Torch is imported once for all tests; the last of them to run does not end the engine."""
    pytest.importorskip("torch", reason=NO_TORCH)
    log = tmp_path_factory.mktemp("engine") / "log"
    with _serving([sys.executable, "-m", "pd_testkit"], log) as engine:
        yield engine


@contextmanager
def _serving(kit: Sequence[str], log: Path) -> Iterator[Running]:
    """Until it is told to end, and does."""
    command = [*kit, "engine", "--served-model-name", "m"]
    command += ["--register", "tcp://127.0.0.1:9", "--heartbeat", "0.5", "--access-log"]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "PD_ENGINE_ADMIN_KEY": KEY},
        )
    assert process.stdout is not None
    with process.stdout:
        line = process.stdout.readline()
        try:
            assert line, log.read_text()
            yield Running(process, json.loads(line), log)
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_S) == 0
            assert process.stdout.read() == b""
        finally:
            process.kill()
            process.wait()
    lines = [json.loads(each) for each in log.read_text().splitlines() if each[0] == "{"]
    assert [lines[0]["event"], lines[-1]["event"]] == ["serving", "ended"]
    assert KEY not in log.read_text()


def test_an_engine_says_where_it_serves(running: Running) -> None:
    ready = running.ready
    assert {**ready, "url": "", "side_channel": 0} == {
        "event": "ready",
        "url": "",
        "side_channel": 0,
        "model": "m",
        "role": "both",
    }
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", ready["url"])
    assert running.get("/health") == ""
    assert running.get("/v1/models")["data"][0]["id"] == "m"
    about = running.get("/server_info")
    assert about["disaggregation_bootstrap_port"] == ready["side_channel"]
    assert (about["model_path"], about["block_size"]) == ("tiny", 16)


def test_the_openai_client_is_served(running: Running) -> None:
    async def ask() -> None:
        url = running.ready["url"] + "/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            asked = {"model": "m", "temperature": 0, "max_tokens": 6}
            whole = await client.completions.create(prompt="Once", logprobs=2, **asked)
            choice = whole.choices[0]
            assert choice.finish_reason in ("length", "stop")
            assert len(choice.logprobs.tokens) == whole.usage.completion_tokens
            text = ""
            stream = await client.completions.create(prompt="Once", stream=True, **asked)
            async for chunk in stream:
                text += chunk.choices[0].text
            assert text == choice.text
            messages = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
            chat = await client.chat.completions.create(
                messages=messages, n=2, logprobs=True, top_logprobs=1, **asked
            )
            assert len({each.message.content for each in chat.choices}) == 1
            for each in chat.choices[0].logprobs.content:
                assert each.top_logprobs[0].logprob == each.logprob
            with pytest.raises(openai.NotFoundError):
                await client.completions.create(prompt="x", model="other")
            with pytest.raises(openai.BadRequestError) as refused:
                await client.completions.create(prompt="x", model="m", max_tokens=0)
            assert refused.value.param == "max_tokens"

    asyncio.run(ask())


def test_what_the_engine_computed_is_in_its_metrics(running: Running) -> None:
    def told(name: str) -> float:
        found = re.search(rf"^{name}{{.*}} (.*)$", running.get("/metrics"), re.MULTILINE)
        assert found is not None
        return float(found[1])

    before = told("vllm:generation_tokens_total"), told("vllm:prompt_tokens_total")
    running.get("/v1/completions", "POST", {"prompt": "abcde", "max_tokens": 4, "ignore_eos": True})
    after = told("vllm:generation_tokens_total"), told("vllm:prompt_tokens_total")
    assert (after[0] - before[0], after[1] - before[1]) == (4, 5)
    assert told("vllm:num_requests_running") == 0
    assert told("pd_engine_free_blocks") == told("pd_engine_blocks") == 2048


def test_faults_are_planned_with_the_key(running: Running) -> None:
    running.get("/admin/faults", "POST", {"fault": "refuse,count=1"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        running.get("/v1/completions", "POST", {"prompt": "x"})
    with refused.value as answer:
        assert answer.code == 503
    assert running.get("/admin/faults", "DELETE")["fired"]["refuse"] == 1


def test_the_log_has_a_line_per_request_where_it_is_told_to(running: Running) -> None:
    running.get("/v1/completions", "POST", {"prompt": "a secret prompt", "max_tokens": 1})
    running.get("/health")  # which comes after the line of the other one
    log = running.log.read_text()
    assert "POST /v1/completions 200" in log
    assert "secret" not in log


_ILL = """
import threading
from pd_testkit.cli import main
from pd_testkit.engine.process import EngineProcess

serves = EngineProcess._say_ready

def falls_ill(self, *args):
    serves(self, *args)
    part = threading.Thread(target=lambda: 1 / 0, name="nic")
    part.start()
    part.join()

EngineProcess._say_ready = falls_ill
main()
"""
"""An engine of which a thread has died before anybody asks it."""


def test_an_engine_of_which_a_thread_died_is_not_well_and_says_why(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason=NO_TORCH)
    with _serving([sys.executable, "-c", _ILL], tmp_path / "log") as ill:
        with pytest.raises(urllib.error.HTTPError) as refused:
            ill.get("/v1/completions", "POST", {"prompt": "x"})
        with refused.value as answer:
            assert answer.code in (500, 503)  # it ended under the request, or before
        with pytest.raises(urllib.error.HTTPError) as unwell:
            ill.get("/health")
        with unwell.value as answer:
            assert answer.code == 503
    log = ill.log.read_text()
    assert "Exception in thread nic:" in log
    assert "ZeroDivisionError: division by zero" in log
