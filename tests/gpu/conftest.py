"""L3 tests share a machine's GPUs: one after the other, in one worker. Drivers' packages may warn
there of what no CPU shows."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "gpu":
            item.add_marker(pytest.mark.xdist_group("gpu"))
            if "pd_l3" in item.keywords:
                item.add_marker(pytest.mark.filterwarnings("default"))
