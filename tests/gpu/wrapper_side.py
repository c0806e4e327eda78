"""One of two processes with a MoRIIO wrapper of a real implementation and a tensor that it has
registered."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch

from tests.gpu.device_side import DEADLINE_S, digest, pattern

WRAPPERS = {
    "atom": (
        "atom.kv_transfer.disaggregation.moriio.moriio_engine",
        "atom.kv_transfer.disaggregation.kv_transfer_engine",
    ),
    "vllm": ("vllm.distributed.kv_transfer.kv_connector.v1.moriio.moriio_engine",),
}
"""Modules that have a ``MoRIIOWrapper``: of ATOM's main and of its #253, and vLLM's."""


class WrapperSide:
    """All bytes that it holds at first are `pattern`'s."""

    def __init__(self, implementation: str, device: str, name: str, seed: int) -> None:
        from mori.io import BackendType, IOEngine, IOEngineConfig

        self.tensor = torch.from_numpy(pattern(seed)).to(device)
        self.wrapper = _wrapper(implementation)(tp_rank=0, dp_rank=0)
        self.wrapper.set_moriio_engine(IOEngine(name, IOEngineConfig(host="127.0.0.1", port=0)))
        self.wrapper.set_backend_type(BackendType.RDMA)
        self.packed = self.wrapper.register_local_tensor(self.tensor)

    def told(self) -> tuple[str, str]:
        """All that a peer is told: packed descriptors of the engine and of the tensor, in hex."""
        return self.wrapper.get_agent_metadata().hex(), self.packed.hex()

    def memory(self) -> dict[str, Any]:
        """Where torch has the tensor, and what the packed metadata says once it is unpacked."""
        unpacked = self.wrapper.get_unpack_memory_metadata(self.packed)
        return {
            "address": self.tensor.data_ptr(),
            "bytes": self.tensor.numel() * self.tensor.element_size(),
            "index": self.tensor.device.index,
            "data": unpacked.data,
            "size": unpacked.size,
            "device": unpacked.device_id,
            "engine": unpacked.engine_key,
            "again": unpacked.pack() == self.packed,
        }

    def read(self, told: Sequence[str], *ranges: Sequence[int]) -> str:
        """Local offsets, remote offsets and sizes; what becomes of it: ``done``, or why not."""
        engine, theirs = map(bytes.fromhex, told)
        unpack = self.wrapper.get_unpack_memory_metadata
        ours, there, sizes = ranges
        try:
            self.wrapper.register_remote_engine(engine)
            session = self.wrapper.build_session(unpack(self.packed), unpack(theirs))
            if session is None:
                return "failed: there is no session"
            status = self.wrapper.read_remote_data(sizes, ours, there, session)
            ended = status.WaitFor(int(DEADLINE_S * 1000))
        except RuntimeError as error:
            return f"failed: {error}"
        return "done" if status.Succeeded() else f"failed: {ended} {status.Message()}"

    def digest(self) -> str:
        """Of what the device holds."""
        if self.tensor.device.type != "cpu":
            torch.cuda.synchronize(self.tensor.device)
        return digest(self.tensor.cpu().numpy())


def _wrapper(implementation: str) -> Any:
    for name in WRAPPERS[implementation]:
        try:
            return importlib.import_module(name).MoRIIOWrapper
        except ModuleNotFoundError as missing:
            if missing.name is None or not name.startswith(missing.name):
                raise
    raise ModuleNotFoundError(f"none of {', '.join(WRAPPERS[implementation])}")
