"""Ports that follow each other are looked for where clients have none, and nobody else looks."""

from __future__ import annotations

import socket
from itertools import combinations

import pytest

from pd_testkit.targets import neighbours
from pd_testkit.targets.neighbours import bases, free_port, own


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (neighbours.SHARE, "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("ports", [1, 2, 8, 16])
def test_what_is_offered_lies_below_the_systems_ports_for_clients(ports: int) -> None:
    for base in bases(ports):
        assert 20_000 <= base < base + ports <= 32_000


def test_nothing_is_offered_again_soon() -> None:
    offered = [port for base in bases(8) for port in range(base, base + 8)]
    assert len(offered) == len(set(offered)) == 800


def test_a_share_is_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PD_PORTS", "2/3")
    for base in bases(16):
        assert 24_000 <= base < base + 16 <= 28_000


def test_shares_and_the_workers_in_them_have_no_port_in_common() -> None:
    each = [
        own(
            {
                "PD_PORTS": f"{share}/3",
                "PYTEST_XDIST_WORKER": f"gw{worker}",
                "PYTEST_XDIST_WORKER_COUNT": "2",
            }
        )
        for share in (1, 2, 3)
        for worker in (0, 1)
    ]
    assert all(len(ports) == 2_000 for ports in each)
    assert not any(set(one) & set(other) for one, other in combinations(each, 2))


@pytest.mark.parametrize("share", ["", "3", "0/3", "4/3", "a/b", "1/11", "-1/3"])
def test_what_is_no_share_is_refused_by_name(share: str) -> None:
    with pytest.raises(ValueError, match=f"PD_PORTS is {share!r}: give a share"):
        own({"PD_PORTS": share})


def test_ports_of_which_somebody_has_one_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    free = free_port("127.0.0.1", 2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        monkeypatch.setattr(neighbours, "bases", lambda ports: iter((taken - 1, free)))
        assert free_port("127.0.0.1", 2) == free
        monkeypatch.setattr(neighbours, "bases", lambda ports: iter((taken,)))
        with pytest.raises(OSError, match=r"1 free ports in a row: none on 127\.0\.0\.1"):
            free_port("127.0.0.1")
