"""Fixtures of the kit's own tests."""

from __future__ import annotations

import pytest

from tests.kit.plugin_runs import Repository


@pytest.fixture
def repository(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """An empty connector repository to run pytest in, without other people's plugins."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_PLUGINS", raising=False)
    return Repository(pytester)
