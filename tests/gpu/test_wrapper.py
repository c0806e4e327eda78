"""ATOM's and vLLM's MoRIIO wrappers: what they register is what another process reads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.gpu.places import LENIENT, l3

if TYPE_CHECKING:
    from pd_testkit.stubs import Installation
    from tests.kit.peer_process import Peer

ATOM_SOURCE = "PD_ATOM_SOURCE"
"""Names a checkout of ATOM."""
STUBS = {"atom": ("aiter", "mori", "triton"), "vllm": ("mori",)}
"""What the kit stands in for on a CPU, by implementation."""
BLOCK = 4096
OURS = [0, 7 * BLOCK, 3 * BLOCK]
THEIRS = [11 * BLOCK, 2 * BLOCK, 30 * BLOCK]
SIZES = [BLOCK, 4 * BLOCK, BLOCK - 3]


class Places(NamedTuple):
    here: str
    there: str


def _real(gpus: int) -> tuple[pytest.MarkDecorator, ...]:
    return (*l3(gpus), pytest.mark.rdma, pytest.mark.requires_package("mori"))


PLACES = [
    pytest.param(
        Places("cpu", "cpu"),
        marks=(pytest.mark.pd_l2, pytest.mark.requires_package("torch")),
        id="stub-on-cpu",
    ),
    pytest.param(Places("cuda:0", "cuda:0"), marks=_real(1), id="mori-one-gpu"),
    pytest.param(Places("cuda:0", "cuda:1"), marks=_real(2), id="mori-two-gpus"),
]
pytestmark = pytest.mark.timeout(900)
"""Real packages take their time to be imported, in three processes."""

IMPLEMENTATIONS = ["atom", pytest.param("vllm", marks=pytest.mark.requires_package("vllm"))]


def everywhere(test: Callable[..., None]) -> Callable[..., None]:
    """Each implementation, in each of the places."""
    implementations = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
    return implementations(pytest.mark.parametrize("places", PLACES)(test))


class Side:
    """A `WrapperSide` in a process of its own."""

    def __init__(self, peer: Peer, implementation: str, device: str, name: str, seed: int) -> None:
        self.peer = peer
        peer.run(
            f"{LENIENT}\nfrom tests.gpu.wrapper_side import WrapperSide\n"
            "side = WrapperSide(implementation, device, name, seed)",
            implementation=implementation,
            device=device,
            name=name,
            seed=seed,
        )

    def read(self, told: list[str], *ranges: list[int]) -> str:
        said = self.peer.run("side.read(told, *ranges)", told=told, ranges=ranges)
        return str(said)


Start = Callable[[str, str, int], Side]


@pytest.fixture
def start(request: pytest.FixtureRequest, pd_stubs: Callable[..., Installation]) -> Iterator[Start]:
    """``start(device, name, seed)``: a side of the implementation."""
    from tests.kit.peer_process import Peer

    given = request.node.callspec.params
    implementation, environment = given["implementation"], {"VLLM_LOGGING_LEVEL": "WARNING"}
    if given["places"].here == "cpu":
        stubs = pd_stubs(*STUBS[implementation], replace=True)
        stubs.serve()
        environment |= {"VLLM_TARGET_DEVICE": "cpu", **stubs.child_env()}
    if implementation == "atom":
        source = os.environ.get(ATOM_SOURCE)
        if not source:
            pytest.skip(f"not applicable: {ATOM_SOURCE} names no checkout of ATOM")
        paths = [source, environment.get("PYTHONPATH", os.environ.get("PYTHONPATH", ""))]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    with ExitStack() as peers:

        def start(device: str, name: str, seed: int) -> Side:
            # None is needed any more when the test is over, and engines' threads have no end.
            peer = Peer(environment)
            peers.callback(peer.kill)
            return Side(peer, implementation, device, name, seed)

        yield start


@everywhere
def test_a_tensor_s_packed_metadata_is_valid_and_round_trips(
    places: Places, implementation: str, start: Start, record_property
) -> None:
    """It names the tensor's own address, size and GPU, and packs again to the same bytes."""
    record_property("clauses", "XFER-038")
    seen = start(places.there, "P", 2).peer.run("side.memory()")
    assert (seen["data"], seen["size"]) == (seen["address"], seen["bytes"])
    assert seen["again"]
    assert seen["engine"] == "P"
    assert seen["device"] == (-1 if seen["index"] is None else seen["index"])


@everywhere
def test_a_consumer_reads_a_producer_s_blocks_and_no_other_byte_changes(
    places: Places, implementation: str, start: Start, record_property
) -> None:
    """Two processes; D has nothing of P but packed bytes. Both whole memories are compared."""
    from tests.gpu.device_side import digest, pattern

    record_property("clauses", "PAIR-001 PAIR-002 PAIR-003 PAIR-004")
    producer, consumer = start(places.there, "P", 2), start(places.here, "D", 1)
    ours, theirs = pattern(1), pattern(2)
    told = producer.peer.run("side.told()")
    assert consumer.read(told, OURS, THEIRS, SIZES) == "done"
    for at, come_from, size in zip(OURS, THEIRS, SIZES, strict=True):
        ours[at : at + size] = theirs[come_from : come_from + size]
    assert consumer.peer.run("side.digest()") == digest(ours)
    assert producer.peer.run("side.digest()") == digest(theirs)


@everywhere
def test_a_read_from_a_producer_that_was_killed_fails_and_its_next_life_is_read(
    places: Places, implementation: str, start: Start, record_property
) -> None:
    from tests.gpu.device_side import SIZE, digest, pattern

    record_property("clauses", "PAIR-067 PAIR-068")
    producer, consumer = start(places.there, "P", 2), start(places.here, "D", 1)
    told = producer.peer.run("side.told()")
    assert consumer.read(told, [0], [0], [SIZE]) == "done"
    producer.peer.kill()
    assert consumer.read(told, [0], [0], [SIZE]).startswith("failed: ")
    told = start(places.there, "P-again", 3).peer.run("side.told()")
    assert consumer.read(told, [0], [0], [SIZE]) == "done"
    assert consumer.peer.run("side.digest()") == digest(pattern(3))
