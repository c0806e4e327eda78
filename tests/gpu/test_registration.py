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

    from tests.gpu.device_side import DEADLINE_S

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
        ended = status.WaitFor(int(DEADLINE_S * 1000))
        assert status.Succeeded(), f"{ended} {status.Message()}"
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


def _vllm(variant: str) -> list[Any]:
    """Where the connector's own `register_kv_caches` is called. On a CPU the kit stands in for
    mori, and NIXL and Mooncake are the real ones."""
    package = [] if variant == "moriio" else [pytest.mark.requires_package(variant)]
    real = [pytest.mark.rdma, pytest.mark.requires_package("mori")] if variant == "moriio" else []
    vllm = [pytest.mark.requires_package("vllm"), *package]
    plain = [pytest.mark.pd_l2, pytest.mark.requires_package("torch"), *vllm]
    return [
        pytest.param(variant, "cpu", marks=plain, id=f"{variant}-cpu"),
        pytest.param(variant, "cuda:0", marks=[*l3(1), *vllm, *real], id=f"{variant}-gpu"),
    ]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("variant", "device"), [*_vllm("nixl"), *_vllm("mooncake"), *_vllm("moriio")]
)
def test_vllm_s_connectors_register_each_layer_as_it_is(
    variant: str, device: str, record_property
) -> None:
    """Real vLLM: `register_kv_caches` of two layers, and what a peer is told of them."""
    from pd_testkit.targets.vllm import ENVIRONMENT
    from pd_testkit.targets.vllm.places import Places
    from tests.kit.peer_process import Peer

    record_property("clauses", "XFER-038")
    environment = dict(Places(device, device).environment(ENVIRONMENT))
    with Peer(environment) as peer:
        found = peer.run(
            f"{LENIENT}\nfrom tests.gpu.vllm_registration import LAYER_BYTES, registered\n"
            "[LAYER_BYTES, registered(variant, device)]",
            variant=variant,
            device=device,
        )
        peer.kill()  # what listens there has no end
    nbytes, (layers, told) = found[0], (found[1]["layers"], found[1]["told"])
    assert len(layers) == 2
    assert {layer["bytes"] for layer in layers} == {nbytes}
    assert {layer["device"] for layer in layers} == {device.partition(":")[0]}
    assert told["memory"] == [[layer["address"], layer["bytes"]] for layer in layers]
    assert told["opaque"] > 0
    assert told["engine"]
    assert told.get("devices", [0, 0]) == [layer["index"] for layer in layers]
    assert all(told.get("again", ()))
    if variant == "nixl":
        assert told["kinds"] == ["DRAM" if device == "cpu" else "VRAM"] * 2


def test_memory_that_is_neither_a_host_s_nor_a_gpu_s_is_refused_in_one_line() -> None:
    """The fabric's and its sanitizer's; see `test_fabric.py` for a GPU's."""
    torch = pytest.importorskip("torch")

    from pd_testkit.fabric import Fabric

    engine = Fabric().engine("P")
    with pytest.raises(ValueError, match=r"^the tensor is on device 'meta'"):
        engine.register(torch.zeros(8, device="meta"))
