"""Registered tensors have metadata by which a peer reaches exactly their bytes."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.gpu.places import LENIENT, PATHS, Path, l3

if TYPE_CHECKING:
    from pd_testkit.stubs import Installation

SIZE = 1 << 16

MORI = [
    pytest.param(
        "cpu", marks=(pytest.mark.pd_l2, pytest.mark.requires_package("torch")), id="stub-on-cpu"
    ),
    pytest.param(
        "cuda",
        marks=(*l3(1), pytest.mark.rdma, pytest.mark.requires_package("mori")),
        id="mori-on-gpu",
    ),
]
ATOM_SOURCE = "PD_ATOM_SOURCE"
"""Names a checkout of ATOM."""


@pytest.fixture
def mori(request: pytest.FixtureRequest, pd_stubs: Callable[..., Installation]) -> Any:
    """``mori.io``: the strict stand-in on the CPU, the real one on a GPU."""
    if request.node.callspec.params["device"] == "cpu":
        pd_stubs("mori", replace=True)
    return importlib.import_module("mori.io")


@pytest.mark.parametrize("path", PATHS)
def test_a_tensor_s_handle_names_its_bytes(path: Path, record_property) -> None:
    """Its own address and size, and a key by which another process reads it."""
    from tests.gpu.device_side import SIZE as WHOLE
    from tests.gpu.device_side import digest, here, other, pattern

    record_property("clauses", "XFER-038")
    with here(path, "registers", 5) as side, other(path, "registers-too", 6) as peer:
        address, nbytes, kind = side.where()
        assert kind == path.here.partition(":")[0]
        assert (side.handle().address, side.handle().size) == (address, nbytes)
        assert side.handle().key
        assert [peer.handle().address, peer.handle().size] == peer.ask("where")[:2]
        assert side.end(side.post("read", peer.handle(), [0], [0], [WHOLE])) == "SUCCESS"
        assert side.digest() == digest(pattern(6))


@pytest.mark.parametrize("device", MORI)
def test_a_tensor_s_packed_metadata_round_trips_and_moves_its_bytes(device: str, mori: Any) -> None:
    """Two engines; the reader has nothing of the other but packed bytes."""
    import torch

    random = torch.Generator().manual_seed(7)
    source = torch.randint(0, 256, (SIZE,), dtype=torch.uint8, generator=random)
    memory = {"P": source.to(device), "D": torch.zeros(SIZE, dtype=torch.uint8, device=device)}
    engines = {
        key: mori.IOEngine(key, mori.IOEngineConfig(host="127.0.0.1", port=0)) for key in memory
    }
    for engine in engines.values():
        engine.create_backend(mori.BackendType.RDMA)
    regions = {key: engines[key].register_torch_tensor(memory[key]) for key in memory}
    try:
        packed = regions["P"].pack()
        theirs = mori.MemoryDesc.unpack(packed)
        assert theirs == regions["P"]
        assert theirs.pack() == packed
        assert (theirs.data, theirs.size) == (memory["P"].data_ptr(), SIZE)
        location = "GPU" if device == "cuda" else "CPU"
        assert theirs.loc == getattr(mori.MemoryLocationType, location)
        engines["D"].register_remote_engine(
            mori.EngineDesc.unpack(engines["P"].get_engine_desc().pack())
        )
        session = engines["D"].create_session(regions["D"], theirs)
        status = session.batch_read(
            [0, SIZE // 2], [SIZE // 2, 0], [SIZE // 2, 100], session.allocate_transfer_uid()
        )
        status.Wait()
        assert status.Succeeded(), status.Message()
        expected = torch.zeros(SIZE, dtype=torch.uint8)
        expected[: SIZE // 2] = source[SIZE // 2 :]
        expected[SIZE // 2 : SIZE // 2 + 100] = source[:100]
        assert torch.equal(memory["D"].cpu(), expected)
        assert torch.equal(memory["P"].cpu(), source)
    finally:
        for key, engine in engines.items():
            engine.deregister_memory(regions[key])


@pytest.mark.parametrize("device", MORI)
def test_atom_registers_each_cache_as_it_is(device: str, record_property) -> None:
    """Real ATOM: `register_kv_caches` of K and V caches of two layers."""
    from tests.gpu.atom_registration import BLOCK_SIZE, BLOCKS, HEAD_DIM, HEADS, LAYERS
    from tests.kit.peer_process import Peer

    source = os.environ.get(ATOM_SOURCE)
    if not source:
        pytest.skip(f"not applicable: {ATOM_SOURCE} names no checkout of ATOM")
    record_property("clauses", "XFER-038")
    with Peer({"PYTHONPATH": source}) as peer:
        found = peer.run(
            f"{LENIENT}\nfrom tests.gpu.atom_registration import registered\nregistered(device)",
            device=device,
        )
        peer.kill()  # its listener's thread has no end
    assert len(found) == 2 * LAYERS
    for cache in found:
        assert cache["bytes"] == BLOCKS * HEADS * BLOCK_SIZE * HEAD_DIM * 2
        assert (cache["data"], cache["size"]) == (cache["address"], cache["bytes"])
        assert cache["again"]
        assert cache["engine"]
    if device == "cuda":
        assert {cache["device"] for cache in found} == {0}


@pytest.mark.parametrize(
    "device",
    [
        pytest.param(
            "meta", marks=(pytest.mark.pd_l2, pytest.mark.requires_package("torch")), id="meta"
        ),
        pytest.param("cuda", marks=l3(1), id="cuda"),
    ],
)
def test_the_fabric_and_its_sanitizer_refuse_device_memory_in_one_line(device: str) -> None:
    """They move host memory by its address: one of a device would be a crash."""
    import torch

    from pd_testkit.fabric import Fabric

    engine = Fabric().engine("P")
    with pytest.raises(ValueError, match=f"^the tensor is on device '{device}'"):
        engine.register(torch.zeros(8, device=device))
