"""Ports that follow each other are looked for where clients have none."""

from __future__ import annotations

import pytest

from pd_testkit.targets.neighbours import bases


@pytest.mark.parametrize("ports", [1, 2, 8, 16])
def test_what_is_offered_lies_below_the_systems_ports_for_clients(ports: int) -> None:
    for base in bases(ports):
        assert 20_000 <= base < base + ports <= 32_000


def test_nothing_is_offered_again_soon() -> None:
    offered = [port for base in bases(8) for port in range(base, base + 8)]
    assert len(offered) == len(set(offered)) == 800
