"""The stacks of these tests are of the kit's engines."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def torch() -> None:
    """They compute with it."""
    pytest.importorskip("torch", reason="not applicable: torch is not installed")
