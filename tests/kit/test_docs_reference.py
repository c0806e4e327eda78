"""``docs/reference`` and the front page say what the code says."""

from __future__ import annotations

import click
import pytest

pytest.importorskip("torch", reason="not applicable: the engine's command needs torch")

from tests.docs import reference


@pytest.fixture(scope="module")
def pages():
    return reference.pages()


@pytest.mark.parametrize("name", reference.WRITERS)
def test_a_page_is_current(pages, name):
    assert (reference.FOLDER / name).read_text("utf-8") == pages[name], "run `make docs`"


def test_no_page_is_left_behind():
    assert {page.name for page in reference.FOLDER.iterdir()} == set(reference.WRITERS)


def test_the_front_page_has_the_table_of_the_record():
    text = reference.INDEX.read_text("utf-8")
    assert text == reference.index(text), "run `make docs`"
    assert "| reference |" in text


def test_each_option_of_each_command_is_told(pages):
    sections = pages["cli.md"].split("\n## ")
    told = {section.partition("\n")[0]: section for section in sections}
    for path, command in reference.commands():
        section = told[" ".join(path)]
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                assert option.opts[0] in section, (path, option.opts)


def test_each_setting_is_told_by_flag_variable_and_key(pages):
    text = pages["settings.md"]
    assert "| `--prefill-tp` | `PREFILLER_TP_SIZE` | `prefill-tp` |" in text
    assert "| `--api-key` |" in text


def test_the_metrics_are_those_that_a_scrape_gets(pages):
    text = pages["metrics.md"]
    for name in (
        "pd_proxy_requests_total",
        "pd_proxy_engine_up",
        "vllm:request_success_total",
        "vllm:nixl_bytes_transferred",
        "pd_engine_faults_fired_total",
    ):
        assert f"| `{name}` |" in text


def test_the_schemas_have_every_field(pages):
    text = pages["schemas.md"]
    for field in ("schema", "configuration", "pieces", "warm_up", "prefill", "summary"):
        assert f"| `{field}` |" in text
