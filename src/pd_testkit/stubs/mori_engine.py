"""``mori.cpp.IOEngine`` and its session, and the classes of ``mori.io`` around them."""

from __future__ import annotations

import ctypes
import itertools
import logging
import os
import socket
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pd_testkit.stubs.mori_backend import Backend, BackendSession
from pd_testkit.stubs.mori_status import TransferStatus, wait_all
from pd_testkit.stubs.mori_types import (
    BackendConfig,
    BackendType,
    EngineDesc,
    FabricBackendConfig,
    IOEngineConfig,
    MemoryDesc,
    MemoryLocationType,
    RdmaBackendConfig,
    StatusCode,
    XgmiBackendConfig,
)

if TYPE_CHECKING:
    from pd_testkit.stubs.install import StubContext

_logger = logging.getLogger("mori")
_PREFERRED = (BackendType.XGMI, BackendType.FABRIC, BackendType.RDMA)
_NO_BACKEND = "No available backend found, create backend first"

_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]

TORCH_DEVICE_TYPE_MAP = {"cpu": MemoryLocationType.CPU, "cuda": MemoryLocationType.GPU}


class CppSession:
    """``mori.cpp.IOEngineSession``."""

    def __init__(self, engine: CppEngine, session: BackendSession) -> None:
        self._engine = engine
        self._session = session

    def AllocateTransferUniqueId(self) -> int:  # noqa: N802
        return self._engine.AllocateTransferUniqueId()

    def Read(  # noqa: N802
        self, local_offset: int, remote_offset: int, size: int, status: TransferStatus, uid: int
    ) -> None:
        self._session.post("read", [local_offset], [remote_offset], [size], status, uid)

    def Write(  # noqa: N802
        self, local_offset: int, remote_offset: int, size: int, status: TransferStatus, uid: int
    ) -> None:
        self._session.post("write", [local_offset], [remote_offset], [size], status, uid)

    def BatchRead(  # noqa: N802
        self, local_offsets: Any, remote_offsets: Any, sizes: Any, status: TransferStatus, uid: int
    ) -> None:
        self._session.post("read", local_offsets, remote_offsets, sizes, status, uid)

    def BatchWrite(  # noqa: N802
        self, local_offsets: Any, remote_offsets: Any, sizes: Any, status: TransferStatus, uid: int
    ) -> None:
        self._session.post("write", local_offsets, remote_offsets, sizes, status, uid)

    def Alive(self) -> bool:  # noqa: N802
        """True, whatever has become of the peer: so it is over RDMA."""
        return True


class CppEngine:
    """``mori.cpp.IOEngine``. Its backends leave the fabric with it, as its destructor does."""

    _context: ClassVar[StubContext]

    def __init__(self, key: str, config: IOEngineConfig) -> None:
        self._key = key
        self._config = IOEngineConfig(config.host, config.port)
        self._backends: dict[BackendType, Backend] = {}
        self._memory_ids = itertools.count()
        self._transfer_uids = itertools.count()
        self._finalizer = weakref.finalize(self, _close_all, self._backends)

    def GetEngineDesc(self) -> EngineDesc:  # noqa: N802
        """The port is 0, if 0 was given, until the RDMA backend listens."""
        hostname = socket.gethostname()
        return EngineDesc._of(
            key=self._key,
            node_id=hostname,
            hostname=hostname,
            host=self._config.host,
            port=self._config.port,
            pid=os.getpid(),
        )

    def CreateBackend(self, via: BackendType, config: BackendConfig) -> None:  # noqa: N802
        """Does nothing for a second one of its type.

        Raises:
            RuntimeError: the port is taken, or there is no such backend.
        """
        if not isinstance(config, BackendConfig):
            raise TypeError(f"{config!r} is no BackendConfig")
        if via not in _PREFERRED:
            raise RuntimeError(f"there is no {via} backend")
        if via in self._backends:
            _logger.warning("Backend type %s already exists, skip duplicate creation", int(via))
            return
        notify = isinstance(config, RdmaBackendConfig) and config.enable_notification
        backend = Backend(
            self._context.fabric, via, self._key, self._config.host, self._config.port, notify
        )
        self._backends[via] = backend
        self._config.port = backend.port

    def RemoveBackend(self, via: BackendType) -> None:  # noqa: N802
        backend = self._backends.pop(via, None)
        if backend is not None:
            backend.close()

    def RegisterRemoteEngine(self, desc: EngineDesc) -> None:  # noqa: N802
        """Known to the backends that there are now."""
        for backend in self._backends.values():
            backend.register_remote(desc)

    def DeregisterRemoteEngine(self, desc: EngineDesc) -> None:  # noqa: N802
        for backend in self._backends.values():
            backend.deregister_remote(desc)

    def RegisterMemory(  # noqa: N802
        self, data: Any, size: int, device_id: int, loc: MemoryLocationType
    ) -> MemoryDesc:
        """``data`` is a PyCapsule around the address."""
        memory = MemoryDesc._of(
            engine_key=self._key,
            id=next(self._memory_ids),
            device_id=device_id,
            data=_capsule_pointer(data, None),
            size=size,
            loc=loc,
        )
        for backend in self._backends.values():
            backend.register(memory)
        return memory

    def DeregisterMemory(self, desc: MemoryDesc) -> None:  # noqa: N802
        for backend in self._backends.values():
            backend.deregister(desc)

    def AllocateTransferUniqueId(self) -> int:  # noqa: N802
        return next(self._transfer_uids)

    def Read(  # noqa: N802
        self,
        local: MemoryDesc,
        local_offset: int,
        remote: MemoryDesc,
        remote_offset: int,
        size: int,
        status: TransferStatus,
        uid: int,
    ) -> None:
        self._post("read", local, [local_offset], remote, [remote_offset], [size], status, uid)

    def Write(  # noqa: N802
        self,
        local: MemoryDesc,
        local_offset: int,
        remote: MemoryDesc,
        remote_offset: int,
        size: int,
        status: TransferStatus,
        uid: int,
    ) -> None:
        self._post("write", local, [local_offset], remote, [remote_offset], [size], status, uid)

    def BatchRead(self, *batches: Sequence[Any]) -> None:  # noqa: N802
        """Lists of equal length: local memory, offsets, remote memory, offsets, sizes, statuses,
        uids."""
        self._post_batches("read", batches)

    def BatchWrite(self, *batches: Sequence[Any]) -> None:  # noqa: N802
        """As `BatchRead`."""
        self._post_batches("write", batches)

    def CreateSession(self, local: MemoryDesc, remote: MemoryDesc) -> CppSession | None:  # noqa: N802
        """None when no backend can handle the pair.

        Raises:
            RuntimeError: the remote engine cannot be reached, or doesn't know the memory.
        """
        backend = self._backend_for(local, remote)
        return None if backend is None else CppSession(self, backend.new_session(local, remote))

    def PopInboundTransferStatus(  # noqa: N802
        self, remote_key: str, uid: int, status: TransferStatus
    ) -> bool:
        """Whether the remote's transfer has arrived; asking again gives the same."""
        if any(backend.arrived(remote_key, uid) for backend in self._backends.values()):
            status.SetCode(StatusCode.SUCCESS)
            return True
        return False

    def WaitAll(  # noqa: N802
        self, statuses: Sequence[TransferStatus], timeout_ms: int = -1
    ) -> StatusCode:
        return wait_all(statuses, timeout_ms)

    def LoadScatterGatherModule(self, hsaco_path: str) -> None:  # noqa: N802
        """There is no GPU to load a kernel on."""

    def LoadFabricCopyModule(self, hsaco_path: str) -> None:  # noqa: N802
        """There is no GPU to load a kernel on."""

    def _backend_for(self, local: MemoryDesc, remote: MemoryDesc) -> Backend | None:
        present = [self._backends[via] for via in _PREFERRED if via in self._backends]
        return next((b for b in present if b.can_handle(local, remote)), None)

    def _post(
        self,
        kind: str,
        local: MemoryDesc,
        local_offsets: Any,
        remote: MemoryDesc,
        remote_offsets: Any,
        sizes: Any,
        status: TransferStatus,
        uid: int,
    ) -> None:
        backend = self._backend_for(local, remote)
        if backend is None:
            status.Update(StatusCode.ERR_BAD_STATE, _NO_BACKEND)
        elif len(sizes) == 0:
            status.SetCode(StatusCode.SUCCESS)
        else:
            session = backend.session(local, remote)
            session.post(kind, local_offsets, remote_offsets, sizes, status, uid)

    def _post_batches(self, kind: str, batches: tuple[Sequence[Any], ...]) -> None:
        for batch in zip(*batches, strict=True):
            self._post(kind, *batch)


class IOEngineSession:
    """``mori.io.IOEngineSession``: gives a status in place of taking one."""

    def __init__(self, mori_sess: CppSession) -> None:
        self._sess = mori_sess

    def allocate_transfer_uid(self) -> int:
        return self._sess.AllocateTransferUniqueId()

    def read(self, *args: Any) -> TransferStatus:
        """``(local_offset, remote_offset, size, transfer_uid)``."""
        return _with_status(self._sess.Read, *args)

    def write(self, *args: Any) -> TransferStatus:
        """``(local_offset, remote_offset, size, transfer_uid)``."""
        return _with_status(self._sess.Write, *args)

    def batch_read(self, *args: Any) -> TransferStatus:
        """``(local_offsets, remote_offsets, sizes, transfer_uid)``: one status for all."""
        return _with_status(self._sess.BatchRead, *args)

    def batch_write(self, *args: Any) -> TransferStatus:
        """``(local_offsets, remote_offsets, sizes, transfer_uid)``: one status for all."""
        return _with_status(self._sess.BatchWrite, *args)

    def alive(self) -> bool:
        return self._sess.Alive()


class IOEngine:
    """``mori.io.IOEngine``."""

    _cpp: ClassVar[type[CppEngine]]

    def __init__(self, key: str, config: IOEngineConfig) -> None:
        self._engine = self._cpp(key, config)

    def get_engine_desc(self) -> EngineDesc:
        return self._engine.GetEngineDesc()

    def create_backend(
        self,
        type: BackendType,  # noqa: A002 mori's name
        config: BackendConfig | None = None,
    ) -> None:
        """Raises NotImplementedError for a type without a default configuration."""
        if config is None:
            defaults: dict[BackendType, Callable[[], BackendConfig]] = {
                BackendType.RDMA: RdmaBackendConfig,
                BackendType.XGMI: XgmiBackendConfig,
                BackendType.FABRIC: FabricBackendConfig,
            }
            if type not in defaults:
                raise NotImplementedError("backend not implemented yet")
            config = defaults[type]()
        return self._engine.CreateBackend(type, config)

    def remove_backend(self, type: BackendType) -> None:  # noqa: A002 mori's name
        return self._engine.RemoveBackend(type)

    def register_remote_engine(self, engine_desc: EngineDesc) -> None:
        return self._engine.RegisterRemoteEngine(engine_desc)

    def deregister_remote_engine(self, engine_desc: EngineDesc) -> None:
        return self._engine.DeregisterRemoteEngine(engine_desc)

    def register_memory(
        self, ptr: int, size: int, device_id: int, mem_loc: MemoryLocationType
    ) -> MemoryDesc:
        """Registers ``size`` bytes at ``ptr``; the caller keeps them alive.

        Raises:
            ValueError: ``ptr`` is 0.
        """
        return self._engine.RegisterMemory(_new_capsule(ptr, None, None), size, device_id, mem_loc)

    def register_torch_tensor(self, tensor: Any) -> MemoryDesc:
        """Raises RuntimeError for a tensor that isn't contiguous."""
        if not tensor.is_contiguous():
            raise RuntimeError("input tensor must be contiguous")
        index = tensor.device.index
        return self.register_memory(
            tensor.data_ptr(),
            tensor.nelement() * tensor.element_size(),
            -1 if index is None else index,
            TORCH_DEVICE_TYPE_MAP[tensor.device.type],
        )

    def deregister_memory(self, mem_desc: MemoryDesc) -> None:
        return self._engine.DeregisterMemory(mem_desc)

    def allocate_transfer_uid(self) -> int:
        return self._engine.AllocateTransferUniqueId()

    def read(self, *args: Any) -> TransferStatus:
        """``(local, local_offset, remote, remote_offset, size, transfer_uid)``."""
        return _with_status(self._engine.Read, *args)

    def write(self, *args: Any) -> TransferStatus:
        """``(local, local_offset, remote, remote_offset, size, transfer_uid)``."""
        return _with_status(self._engine.Write, *args)

    def batch_read(self, *args: Any) -> list[TransferStatus]:
        """Lists of ``(local, local_offsets, remote, remote_offsets, sizes, transfer_uid)``."""
        return _with_statuses(self._engine.BatchRead, *args)

    def batch_write(self, *args: Any) -> list[TransferStatus]:
        """Lists of ``(local, local_offsets, remote, remote_offsets, sizes, transfer_uid)``."""
        return _with_statuses(self._engine.BatchWrite, *args)

    def create_session(self, local_mem: MemoryDesc, remote_mem: MemoryDesc) -> Any:
        """None when no backend can handle the pair; raises as ``CreateSession``."""
        session = self._engine.CreateSession(local_mem, remote_mem)
        return None if session is None else IOEngineSession(session)

    def pop_inbound_transfer_status(
        self, remote_key: str, transfer_uid: int
    ) -> TransferStatus | None:
        status = TransferStatus()
        found = self._engine.PopInboundTransferStatus(remote_key, transfer_uid, status)
        return status if found else None

    def wait_all(self, statuses: Sequence[TransferStatus], timeout_ms: int = -1) -> StatusCode:
        return self._engine.WaitAll(statuses, timeout_ms)


def engine_classes(context: StubContext) -> tuple[type[CppEngine], type[IOEngine]]:
    """``mori.cpp.IOEngine`` and ``mori.io.IOEngine`` on the context's fabric."""
    cpp = type("IOEngine", (CppEngine,), {"_context": context})
    return cpp, type("IOEngine", (IOEngine,), {"_cpp": cpp})


def _close_all(backends: dict[BackendType, Backend]) -> None:
    for backend in backends.values():
        backend.close()
    backends.clear()


def _with_status(post: Callable[..., None], *args: Any) -> TransferStatus:
    status = TransferStatus()
    *arguments, uid = args
    post(*arguments, status, uid)
    return status


def _with_statuses(post: Callable[..., None], *args: Any) -> list[TransferStatus]:
    *arguments, uids = args
    statuses = [TransferStatus() for _ in arguments[-1]]
    post(*arguments, statuses, uids)
    return statuses
