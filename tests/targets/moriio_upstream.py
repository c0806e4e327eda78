"""vLLM's own unit tests for MoRIIO, run against the kit's mori.

    python -m tests.targets.moriio_upstream --sdist download    # or a file fetched before

Run it with a Python that has vLLM (the pinned version, torch for a CPU) and this kit. It takes the
tests out of vLLM's sdist, opens their gate (they ask for a ROCm platform, and need nothing of a GPU
behind it), gives them the kit's mori and aiter, and compares what does not pass with
`NOT_PASSING`. The exit status is 1 when that differs. As ``-p moriio_upstream`` it is the pytest
plugin that opens the gate.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

VERSION = "0.33.0"
"""Of vLLM."""
PASSING = 871
NOT_PASSING: dict[str, str] = {
    "test_moriio_toy_proxy_server": "imports quart, which is no dependency of vLLM's",
}
"""Tests, or modules, that are skipped or fail, each with its reason."""

UNIT = "tests/v1/kv_connector/unit"
PROXY = "examples/disaggregated/disaggregated_serving/moriio_toy_proxy_server.py"
MODEL = "facebook/opt-125m"
"""Its configuration is all that the tests need of it; a folder of that name spares the download."""
CONFIG = {
    "model_type": "opt",
    "architectures": ["OPTForCausalLM"],
    **{"hidden_size": 768, "word_embed_proj_dim": 768, "ffn_dim": 3072, "vocab_size": 50272},
    **{"num_hidden_layers": 12, "num_attention_heads": 12, "max_position_embeddings": 2048},
    "torch_dtype": "float16",
}


def pytest_configure(config: pytest.Config) -> None:
    """To the tests themselves the platform is ROCm; to vLLM it stays what it is."""
    from vllm.platforms import current_platform

    def is_rocm(self: object) -> bool:
        return Path(sys._getframe(1).f_code.co_filename).name.startswith("test_moriio_")

    type(current_platform).is_rocm = is_rocm


@dataclass(frozen=True)
class Outcomes:
    """How many passed, and why each of the others did not, by test or by module."""

    passed: int
    failed: Mapping[str, str]
    skipped: Mapping[str, str]

    @classmethod
    def read(cls, report: Path) -> Outcomes:
        """From a JUnit report of pytest's."""
        passed, failed, skipped = 0, {}, {}
        for case in ElementTree.parse(report).iter("testcase"):
            module = case.get("classname", "").rpartition(".")[2]
            name = case.get("name", "")
            test = f"{module}::{name}" if module else name.rpartition(".")[2]
            trouble = next((each for each in case if each.tag != "properties"), None)
            if trouble is None:
                passed += 1
            else:
                kind = skipped if trouble.tag == "skipped" else failed
                kind[test] = (trouble.get("message") or "no reason given").splitlines()[0]
        return cls(passed, failed, skipped)

    def differences(self) -> list[str]:
        """From what is recorded here; empty when there are none."""
        others = {**self.failed, **self.skipped}
        found = [f"{test}: {why}" for test, why in others.items() if test not in NOT_PASSING]
        found += [f"{test}: passes, or is gone" for test in NOT_PASSING if test not in others]
        if self.passed != PASSING:
            found.append(f"{self.passed} passed and not {PASSING}")
        return found


def download(cache: Path) -> Path:
    """vLLM's sdist, kept in a folder for the next time."""
    sdist = cache / f"vllm-{VERSION}.tar.gz"
    if not sdist.exists():
        cache.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--dest", str(cache), "--quiet"]
        command += ["--no-deps", "--no-build-isolation", "--no-binary", "vllm", f"vllm=={VERSION}"]
        # Its metadata is built too: without a compiler, and of the version that it is.
        build = {"VLLM_TARGET_DEVICE": "empty", "VLLM_VERSION_OVERRIDE": VERSION}
        subprocess.run(command, env={**os.environ, **build}, check=True)
    return sdist


def unpack(sdist: Path, to: Path) -> None:
    """Only MoRIIO's unit tests and what they read: not vLLM, of which the installed one is tested,
    nor the conftest of all its tests, which needs a GPU's worth of packages."""
    with tarfile.open(sdist) as archive:
        # Not as an argument, which Python has since 3.10.12 and 3.11.4; Debian's is 3.11.2.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        for member in archive:
            inside = member.name.partition("/")[2]
            if inside == PROXY or (inside.startswith(f"{UNIT}/") and _is_wanted(Path(inside))):
                member.name = inside
                archive.extract(member, to)
    folder = to / MODEL
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))


def _is_wanted(path: Path) -> bool:
    return path.parent.name == "unit" and (
        path.name.startswith("test_moriio_")
        or path.name in ("__init__.py", "conftest.py", "utils.py")
    )


def run(folder: Path) -> Outcomes:
    """Run the unpacked tests; what pytest prints is printed."""
    report = folder / "report.xml"
    tests = sorted(str(path) for path in (folder / UNIT).glob("test_moriio_*.py"))
    command = [sys.executable, "-m", "pytest", *tests, "-q", "--tb=short", f"--junitxml={report}"]
    command += [
        "-p",
        "pd_testkit",
        "-p",
        "moriio_upstream",
        "--pd-stubs",
        "mori,aiter",
        f"--rootdir={folder}",
    ]
    command += ["-p", "no:randomly", "-p", "no:cacheprovider", "-W", "ignore"]
    settings = {
        "VLLM_TARGET_DEVICE": "cpu",
        "HF_HUB_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        ),
    }
    subprocess.run(command, cwd=folder, env={**os.environ, **settings}, check=False)
    return Outcomes.read(report)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sdist", required=True, help=f"of vLLM {VERSION}: a file, or 'download'")
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache" / "pd-testkit", help="for downloads"
    )
    options = parser.parse_args()
    sdist = download(options.cache) if options.sdist == "download" else Path(options.sdist)
    with tempfile.TemporaryDirectory(prefix="pd-moriio-") as folder:
        unpack(sdist, Path(folder))
        outcomes = run(Path(folder))
    counts = Counter(failed=len(outcomes.failed), skipped=len(outcomes.skipped))
    print(f"{outcomes.passed} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    for test, why in {**outcomes.failed, **outcomes.skipped}.items():
        print(f"  {test}: {NOT_PASSING.get(test, why)}")
    differences = outcomes.differences()
    for difference in differences:
        print(f"differs: {difference}")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
