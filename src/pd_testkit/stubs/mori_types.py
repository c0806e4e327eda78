"""The plain types of ``mori.cpp``: enumerations, configurations and descriptors.

Field order in the packed descriptors is that of mori's ``MSGPACK_DEFINE`` (include/mori/io).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn, TypeVar

from pd_testkit.stubs.pybind import PybindEnum

_D = TypeVar("_D", bound="_Descriptor")
_HANDLE_BYTES = 64


class BackendType(PybindEnum):
    """What carries a transfer."""

    Unknown = 0
    XGMI = 1
    RDMA = 2
    TCP = 3
    FABRIC = 4


class MemoryLocationType(PybindEnum):
    """Where registered memory lies."""

    Unknown = 0
    CPU = 1
    GPU = 2


class StatusCode(PybindEnum):
    """What became of a transfer; above 10 it failed."""

    SUCCESS = 0
    INIT = 1
    IN_PROGRESS = 2
    ERR_INVALID_ARGS = 11
    ERR_NOT_FOUND = 12
    ERR_RDMA_OP = 13
    ERR_BAD_STATE = 14
    ERR_GPU_OP = 15


class PollCqMode(PybindEnum):
    """How completions are looked for; without meaning on the fabric."""

    POLLING = 0
    EVENT = 1


class BackendConfig:
    """What all backends' configurations are."""

    __slots__ = ()


@dataclass(slots=True, eq=False)
class RdmaBackendConfig(BackendConfig):
    """Of these, the fabric heeds ``enable_notification``; the rest tunes real hardware."""

    qp_per_transfer: int = 1
    post_batch_size: int = -1
    num_worker_threads: int = -1
    poll_cq_mode: PollCqMode = PollCqMode.POLLING
    enable_notification: bool = True
    notif_per_qp: int = 1024
    enable_transfer_chunking: bool = False
    chunk_bytes: int = 65536
    max_chunks_per_transfer: int = 64
    num_nics_per_transfer: int = 1
    max_send_wr: int = field(default=0, init=False)
    max_cqe_num: int = field(default=0, init=False)
    max_msg_sge: int = field(default=0, init=False)


@dataclass(slots=True, eq=False)
class XgmiBackendConfig(BackendConfig):
    """Has no effect on the fabric."""

    num_streams: int = 64
    num_events: int = 64


@dataclass(slots=True, eq=False)
class FabricBackendConfig(BackendConfig):
    """Has no effect: the backend for AMD's scale-up fabric handles no pair of memories here."""

    num_streams: int = 64
    num_events: int = 64


@dataclass(slots=True, eq=False)
class IOEngineConfig:
    """Where an engine listens; port 0 takes a free one when the RDMA backend is created.

    Raises:
        TypeError: the port is no unsigned 16-bit number.
    """

    host: str = ""
    port: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise TypeError(f"port {self.port} is no unsigned 16-bit number")


class _Descriptor:
    """A read-only record that packs into a msgpack array of its fields, in `_WIRE`'s order."""

    _WIRE: ClassVar[dict[str, Any]]
    """Each field's default, in order."""
    _IDENTITY: ClassVar[tuple[str, ...]]
    """The fields that ``==`` compares."""
    __hash__ = None  # type: ignore[assignment]

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"attribute {name!r} of {type(self).__name__} is read-only")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self._IDENTITY)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._IDENTITY)
        return f"{type(self).__name__}({shown})"

    def pack(self) -> bytes:
        """The fields as a msgpack array."""
        import msgpack

        values = [getattr(self, name) for name in self._WIRE]
        packed: bytes = msgpack.packb(
            [int(value) if isinstance(value, PybindEnum) else value for value in values]
        )
        return packed

    @classmethod
    def _of(cls: type[_D], **values: Any) -> _D:
        made = cls.__new__(cls)
        vars(made).update({**cls._WIRE, **values})
        return made

    @classmethod
    def _unpacked(cls: type[_D], data: bytes) -> _D:
        import msgpack

        try:
            values = msgpack.unpackb(data)
        except (ValueError, msgpack.exceptions.UnpackException) as error:
            raise RuntimeError(f"not a packed {cls.__name__}: {error}") from error
        if not isinstance(values, list):
            raise RuntimeError(f"not a packed {cls.__name__}: no array")  # noqa: TRY004 as pybind11
        fields = dict(zip(cls._WIRE, values, strict=False))  # as msgpack-c: either may be longer
        for name, value in fields.items():
            kind = type(cls._WIRE[name])
            if not isinstance(value, int if issubclass(kind, PybindEnum) else kind):
                message = f"not a packed {cls.__name__}: {name} is {value!r}"
                raise RuntimeError(message)  # noqa: TRY004
            fields[name] = kind(value)
        return cls._of(**fields)


class EngineDesc(_Descriptor):
    """Where an engine is reached. Comes from ``IOEngine.get_engine_desc``."""

    key: str
    node_id: str
    hostname: str
    host: str
    port: int
    pid: int
    _WIRE: ClassVar[dict[str, Any]] = {
        "key": "",
        "node_id": "",
        "hostname": "",
        "host": "",
        "port": 0,
        "pid": 0,
    }
    _IDENTITY = tuple(_WIRE)

    def __init__(self) -> None:
        raise TypeError("mori.cpp.EngineDesc: No constructor defined!")

    @staticmethod
    def unpack(data: bytes) -> EngineDesc:
        """The inverse of `pack`; RuntimeError for anything else."""
        return EngineDesc._unpacked(data)


class MemoryDesc(_Descriptor):
    """Registered memory. Comes from ``IOEngine.register_memory``."""

    engine_key: str
    id: int
    device_id: int
    device_bus_id: str
    numa_node: int
    data: int
    size: int
    loc: MemoryLocationType
    ipc_handle: bytes
    _WIRE: ClassVar[dict[str, Any]] = {
        "engine_key": "",
        "id": 0,
        "device_id": -1,
        "device_bus_id": "",
        "data": 0,
        "size": 0,
        "loc": MemoryLocationType.Unknown,
        "ipc_handle": bytes(_HANDLE_BYTES),
        "numa_node": -1,
        "_ipc_offset": 0,
        "_fabric_handle": bytes(_HANDLE_BYTES),
        "_vpod_id": -1,
        "_vpod_ppod_id": "",
        "_fabric_offset": 0,
        "_fabric_alloc_size": 0,
    }
    _IDENTITY = (
        *("engine_key", "id", "device_id", "device_bus_id", "data", "size", "loc"),
        *("numa_node", "_ipc_offset"),
    )

    def __init__(self) -> None:
        vars(self).update(self._WIRE)

    @staticmethod
    def unpack(data: bytes) -> MemoryDesc:
        """The inverse of `pack`; RuntimeError for anything else."""
        return MemoryDesc._unpacked(data)
