"""No page shows a command, an option, a target or an extra that is not there."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="not applicable: the engine's command needs torch")

from tests.docs.commands import ROOT, Shown, all_options, options_of_the_text, shown, wrong

PAGES = sorted(
    page
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("examples/**/*.md"))
    if page.name != "CHANGELOG.md"  # tells of what was there at its time
)

OF_OTHERS = {
    "examples/ci/README.md": {"--editable"},  # pip
    "docs/proxy.md": {"--profile", "--real"},  # benchmarks/modes.py
    "docs/stack.md": {"--cap-add", "--gpus", "--ulimit"},  # docker run
    "docs/targets-router.md": {"--max-body", "--vllm-pd-disaggregation", "--pd-disaggregation"},
    "docs/targets-vllm.md": {"--no-deps"},  # pip
}
"""Options of which a page says whose they are."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_shows_can_be_typed(page):
    told = {str(command): wrong(command.text) for command in shown(page)}
    # In the text an option may stand for itself, without its value.
    mistakes = {
        command: why
        for command, why in told.items()
        if why and not why.endswith("requires an argument.")
    }
    assert mistakes == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_calls_an_option_is_one(page):
    if page.parent.name == "findings":
        return  # of releases of others
    name = page.relative_to(ROOT).as_posix()
    options = {option.text for option in options_of_the_text(page)}
    assert options - all_options() - OF_OTHERS.get(name, set()) == set()


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("pd-testkit up --prefil 2", "No such option"),
        ("pd-testkit upp", "no command upp"),
        ("pd-testkit up --then 'pd-testkit bench --no-such-thing'", "No such option"),
        ("pd-testkit sweep --no-such-thing", "No such option"),
        ("pytest --pd-targt x", "no option --pd-targt"),
        ("make no-such-target", "no target"),
        ("make check NO_SUCH=1", "no variable"),
        ("pip install 'pd-testkit[nothing]'", "no extra nothing"),
        ("no-such-program --help", "an unknown program"),
        ("make check && pd-testkit nothing", "no command nothing"),
        ("python benchmarks/none.py", "no file"),
        ("pytest tests/none", "no file"),
        ("pytest --pd-target vllm:nothing", "no variant 'nothing'"),
        ("pd-testkit conform --target sglang:nothing", "no variant 'nothing'"),
        ("pd-testkit conform --router nothing-router", "no preset 'nothing-router'"),
        ("pd-testkit conform --clause AGG-999", "no clause AGG-999"),
    ],
)
def test_a_mistake_is_seen(command, why):
    assert why in wrong(command)


def test_the_pages_show_commands():
    found = [command for page in PAGES for command in shown(page)]
    assert len(found) > 100
    assert (
        Shown(
            "README.md",
            "make check     # the contract's 682 clauses against the embedded reference",
        )
        in found
    )
