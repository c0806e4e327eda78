"""What a test needs, by its markers."""

from __future__ import annotations

import pytest

from pd_testkit.hardware.needs import Needs


def needs_of(item: pytest.Item) -> Needs:
    """Of the item, its class and its module; of two numbers the closest one counts.

    Raises:
        pytest.UsageError: a marker lacks its argument.
    """
    gpus, memory = item.get_closest_marker("gpus"), item.get_closest_marker("gpu_memory")
    try:
        return Needs(
            rdma=item.get_closest_marker("rdma") is not None,
            gpus=int(gpus.args[0]) if gpus is not None else 0,
            gpu_memory=float(memory.args[0]) if memory is not None else 0.0,
            packages=tuple(
                _package(*mark.args, **mark.kwargs)
                for mark in item.iter_markers("requires_package")
            ),
        )
    except (IndexError, TypeError, ValueError) as wrong:
        raise pytest.UsageError(f"{item.nodeid}: a marker of what it needs: {wrong}") from None


def _package(name: str, at_least: str = "") -> tuple[str, str]:
    return name, at_least
