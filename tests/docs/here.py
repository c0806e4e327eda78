"""How the commands of pages are run where the kit is tested."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tests.docs.blocks import ROOT, Command


@dataclass(frozen=True)
class Then(Command):
    """What ``pd-testkit up --then`` is to run."""


NOT_RUN = {
    ".github/scripts/gpu.sh": "GPUs and docker; test_ci_scripts runs the script with stand-ins",
    "VLLM_TARGET_DEVICE=empty": "a package index",
    "docker ": "docker",
    "pd-testkit conform --router sglang-router": "sglang-router; `make targets` has it",
    "pd-testkit conform --router vllm-router": "vllm-router; `make targets` has it",
    "pd-testkit conform --target sglang:": "SGLang; `make targets` has it",
    "pd-testkit conform --target vllm:": "vLLM; `make targets` has it",
    "pd-testkit stubs diff": "a checkout of mori; test_cli has one that is written for it",
    "pip install": "a package index",
    "pytest --pyargs pd_testkit.suites --pd-target atom": "a checkout of ATOM",
    "pytest --pyargs pd_testkit.suites --pd-target sglang:": "SGLang; `make targets` has it",
    "pytest --pyargs pd_testkit.suites --pd-target vllm:": "vLLM; `make targets` has it",
    "pytest -p pd_testkit.plugin --pd-stubs aiter,mori": "a checkout of ATOM, with its tests",
    "pytest tests ": "the kit's own tests: minutes, and this is one of them",
    "pytest tests/": "the same",
    "python -m tests.targets": "a package index",
    "python benchmarks/": "minutes of a quiet machine: `make bench`",
    "vllm serve": "vLLM and a GPU",
}
"""Commands that are not run, by how they begin, and what it would take. That there are such
options, targets, clauses and files is checked all the same, by `tests.docs.commands`."""

ONLY_SHOWN = {
    "PREFILLER_TP_SIZE=": "it runs until Ctrl-C",
    "make ": "minutes, and a package index",
    "pd-testkit sweep": "a deployment for each line of a grid: tests/e2e/test_sweep*.py",
    "pd-testkit up": "it runs until Ctrl-C; what --then names is run, on a stack that pages share",
}
"""Commands that are asked what they would do, by -n or --dry-run, and why."""

SMALLER = {
    "pd-testkit accuracy": "--check health --check at-once --check nothing-left "
    "--oracle http://alone:8300",
    "pd-testkit bandwidth": "--iterations 1 --warm-up 1",
    "pd-testkit bench --endpoint http://router:10001": "--requests 4 --max-tokens 4",
    "pd-testkit bench --endpoint http://router:8000": "--duration 1 --max-tokens 4",
    "pd-testkit bench --host": "--requests 4 --max-tokens 4",
    "pd-testkit bench --requests": "--requests 4 --max-tokens 4",
    "pd-testkit compare": "--turns 2 --repeats 1 --input-tokens 20 --output-tokens 4",
    "pd-testkit conform --router 'my-router": "--clause RTR-001",
    "pd-testkit conform --router 'pd-testkit": "--clause RTR-001",
    "pd-testkit conform --url": "--clause FLOW-001",
    "pd-testkit multiturn": "--turns 2 --input-tokens 20 --output-tokens 4",
    "pd-testkit up --detach": "--prefill-side-port 0 --decode-side-port 0",
    "pytest --pyargs pd_testkit.suites --pd-target my": "-k TestMetadata",
}
"""Options behind those of the page, of which the last counts: the same in seconds."""

_LENGTHS = re.compile(r" --prompt-lengths( \d+)+")
"""All of them count, so there is nothing to put behind."""

ONCE = (
    "pd-testkit accuracy --check",
    "pd-testkit compare --turns 5 --turns",
    "pd-testkit conform --router",
    "pd-testkit up",
    "pytest --pyargs pd_testkit.suites --pd-target my_pkg.pd:target",
)
"""Commands that several pages show, and that leave nothing behind which a page goes on with."""

JUDGES = ("pd-testkit doctor --require", "pd-testkit report")
"""Commands whose exit code depends on the machine: 0 or 1."""

SAYS = ("pd-testkit kv-size", "pd-testkit clauses")
"""Commands that print the same everywhere."""

SERVES = ("pd-testkit engine", "pd-testkit proxy")


UNABRIDGED = ("docs/accuracy.md", "pd-testkit accuracy")
"""The command that is run with all that the page shows of it."""

TARGET = """
from pd_testkit.contract import Unit
from pd_testkit.targets.reference import ReferenceTarget


class MyTarget(ReferenceTarget):
    name = "mine"
    units = (Unit.METADATA,)


target = MyTarget()
"""
"""A reader's."""


def beginning(text: str) -> str:
    """The longest one in a table that the command begins with; empty: it is run as it stands."""
    known = (*NOT_RUN, *ONLY_SHOWN, *SMALLER)
    return max((each for each in known if text.startswith(each)), key=len, default="")


def as_run(command: Command, page: str) -> Iterator[Command]:
    """What is run for it: nothing, it, or a command against the stack and the stack's plan."""
    text = command.text.removesuffix(" ...")
    program, *words = shlex.split(text, comments=True)
    found = beginning(text)
    if found in NOT_RUN:
        return
    if any(line.startswith("Error:") for line in command.shows) or "--dry-run" in words:
        yield command
    elif "--then" in words:
        at = words.index("--then")
        up = [program, *words[:at], *words[at + 2 :]]
        told = tuple(line for line in command.shows if " serves " not in line)
        (then,) = as_run(Command(words[at + 1], told), page)
        yield Command(f"{shlex.join(up)} --dry-run")
        yield Then(then.text, told)
    elif found in ONLY_SHOWN:
        if program == "make":
            yield Command(shlex.join([program, "-n", "-C", str(ROOT), *words]))
        else:
            yield Command(f"{text} --dry-run")
    elif (page, text) == UNABRIDGED:
        yield command
    else:
        text = _LENGTHS.sub(" --prompt-lengths 32 64 96", text)
        yield replace(command, text=f"{text} {SMALLER.get(found, '')}".rstrip())
