"""A backend of a mori engine: its memory, its peers and its sessions, on the fabric."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pd_testkit.stubs.mori_status import TransferStatus
from pd_testkit.stubs.mori_types import (
    BackendType,
    EngineDesc,
    MemoryDesc,
    MemoryLocationType,
    StatusCode,
)

if TYPE_CHECKING:
    from pd_testkit.fabric import Fabric, Region, RegionHandle, Session
    from pd_testkit.fabric.remote import RemoteFabric, RemoteRegion, RemoteSession

    AnyFabric = Fabric | RemoteFabric
    AnyRegion = Region | RemoteRegion

_FIRST_PORT = 32768
_MAX_REQUEST = 2**32 - 1


class Backend:
    """What ``IOEngine.create_backend`` makes. Only RDMA notifies the other side.

    Several engines may have one key, as two on one host do: a peer is found by the host and port
    in its descriptor (over XGMI, where nobody listens, by its process and key), and only named by
    its key afterwards. Where it listens and what it has registered is published on the fabric, so
    that peers may live in other processes.

    As in mori, memory that was registered before the backend was created is unknown to peers, and
    the connection to a key, once made, is kept: it goes stale when that engine restarts.
    """

    def __init__(
        self, fabric: AnyFabric, via: BackendType, key: str, host: str, port: int, notify: bool
    ) -> None:
        """
        Raises:
            RuntimeError: another engine listens on the port.
        """
        self.via = via
        self.notify = notify
        self._fabric = fabric
        self.engine = fabric.join(key)
        self.port = self._listen(key, host, port)
        self._regions: dict[int, AnyRegion] = {}
        self._remotes: dict[str, EngineDesc] = {}
        self._connected: dict[str, str] = {}
        """Names on the fabric by key."""
        self._remote_memory: dict[tuple[str, int], RegionHandle] = {}
        self._sessions: dict[tuple[int, str, int], BackendSession] = {}

    def close(self) -> None:
        self.engine.kill()

    def _listen(self, key: str, host: str, port: int) -> int:
        """The port on which an RDMA backend listens: ``port``, or a free one when that is 0."""
        me = self.engine.name, os.getpid()
        if self.via is not BackendType.RDMA:
            self.engine.publish(_among_local(os.getpid(), key), me)
            return port
        for wanted in [port] if port else range(_FIRST_PORT, 2**16):
            if self.engine.publish(_at(host, wanted), me):
                return wanted
        self.engine.kill()
        raise RuntimeError(f"cannot listen on {host}:{port}: address already in use")

    def register_remote(self, desc: EngineDesc) -> None:
        self._remotes[desc.key] = desc

    def deregister_remote(self, desc: EngineDesc) -> None:
        self._remotes.pop(desc.key, None)

    def register(self, memory: MemoryDesc) -> None:
        region = self.engine.register_address(memory.data, memory.size, device=_gpu(memory))
        self._regions[memory.id] = region
        self.engine.publish(_registered(self.engine.name, memory.id), region.handle)

    def deregister(self, memory: MemoryDesc) -> None:
        region = self._regions.pop(memory.id, None)
        if region is not None:
            self.engine.withdraw(_registered(self.engine.name, memory.id))
            region.deregister()
        self._sessions = {key: s for key, s in self._sessions.items() if key[0] != memory.id}

    def can_handle(self, local: MemoryDesc, remote: MemoryDesc) -> bool:
        """Whether the remote engine was registered; XGMI joins GPU memory of one node only."""
        if self.via is BackendType.FABRIC or remote.engine_key not in self._remotes:
            return False
        on_gpu = MemoryLocationType.GPU is local.loc is remote.loc
        return self.via is BackendType.RDMA or on_gpu

    def session(self, local: MemoryDesc, remote: MemoryDesc) -> BackendSession:
        """The session of a pair, made when it is first asked for.

        Raises:
            RuntimeError: the remote engine cannot be reached, or doesn't know the memory.
        """
        key = local.id, remote.engine_key, remote.id
        if key not in self._sessions:
            self._sessions[key] = self.new_session(local, remote)
        return self._sessions[key]

    def new_session(self, local: MemoryDesc, remote: MemoryDesc) -> BackendSession:
        """A session of its own; raises as `session`."""
        handle = self._remote_handle(remote)
        if local.id not in self._regions:
            self.register(local)
        session = self.engine.session(self._regions[local.id], handle)  # type: ignore[arg-type]
        return BackendSession(self._fabric, session, self.notify)

    def arrived(self, remote_key: str, uid: int) -> bool:
        """Whether an engine of that key notified this one of transfer ``uid``."""
        return self.notify and any(
            self.engine.inbound(name, uid) for name in self._fabric.joined(remote_key)
        )

    def _remote_handle(self, remote: MemoryDesc) -> RegionHandle:
        from pd_testkit.fabric import RegionHandle

        key = remote.engine_key
        peer = self._connected.get(key) or self._connect(key)
        if (key, remote.id) not in self._remote_memory:
            known = self._fabric.published(_registered(peer, remote.id))
            handle = None if known is None else RegionHandle(*known)  # type: ignore[arg-type]
            size = 0 if handle is None else handle.size
            if handle is None or size != remote.size:
                raise RuntimeError(
                    f"RdmaBackend::CreateSession: remote MR size mismatch for engine {key} "
                    f"memId={remote.id} expected={remote.size} got={size}"
                )
            self._remote_memory[key, remote.id] = handle
        return self._remote_memory[key, remote.id]

    def _connect(self, key: str) -> str:
        desc = self._remotes[key]
        rdma = self.via is BackendType.RDMA
        known = self._fabric.published(
            _at(desc.host, desc.port) if rdma else _among_local(desc.pid, key)
        )
        peer, pid = (None, None) if known is None else known
        if pid != desc.pid:
            raise RuntimeError(f"cannot connect to engine {key} at {desc.host}:{desc.port}")
        status = self.engine.connect(str(peer))
        if status.failed:
            raise RuntimeError(f"no RDMA connection to engine {key}: {status.name}")
        self._connected[key] = str(peer)
        return str(peer)


class BackendSession:
    """Posts batches between a local and a remote memory, and ties a status to each."""

    def __init__(self, fabric: AnyFabric, session: Session | RemoteSession, notify: bool) -> None:
        self._fabric = fabric
        self._session = session
        self._notify = notify

    def post(
        self, kind: str, local: Any, remote: Any, sizes: Any, status: TransferStatus, uid: int
    ) -> None:
        """Starts the transfer; what is wrong with it is in ``status`` at once.

        Raises:
            TypeError: an offset or a size is no unsigned integer.
        """
        local, remote, sizes = (_unsigned(values) for values in (local, remote, sizes))
        status.SetCode(StatusCode.IN_PROGRESS)
        problem = self._problem(local, remote, sizes)
        if problem:
            status.Update(StatusCode.ERR_INVALID_ARGS, problem)
            return
        post = self._session.read if kind == "read" else self._session.write
        transfer = post(local, remote, sizes, uid=uid if self._notify else None)
        status._follow(self._fabric, transfer)
        if len(sizes) == 0:
            status.Update(StatusCode.SUCCESS, "")

    def _problem(self, local: Any, remote: Any, sizes: Any) -> str:
        if not len(local) == len(remote) == len(sizes):
            return "lengths of local offsets, remote offsets or sizes mismatch"
        if len(sizes) and int(sizes.max()) > _MAX_REQUEST:
            return f"single request size {sizes.max()} exceeds UINT32_MAX; split it"
        ends = (
            (local + sizes, self._session.local.size),
            (remote + sizes, self._session.remote.size),
        )
        if any(len(end) and int(end.max()) > size for end, size in ends):
            return "length out of range"
        return ""


def _gpu(memory: MemoryDesc) -> int | None:
    """The GPU that it is on. None for the host's memory, also where that is called a GPU's, as
    tests do without one."""
    from pd_testkit.fabric.device_memory import uses_gpus

    on_gpu = memory.loc is MemoryLocationType.GPU and memory.device_id >= 0 and uses_gpus()
    return memory.device_id if on_gpu else None


def _unsigned(values: Any) -> Any:
    import numpy as np

    array = np.asarray(values)
    if array.size and (array.dtype.kind not in "iu" or int(array.min()) < 0):
        raise TypeError(f"offsets and sizes are unsigned integers, not {values!r}")
    return array.astype(np.uint64).ravel()


def _at(host: str, port: int) -> str:
    """The name under which an engine publishes that it listens there."""
    return f"mori listens {host}:{port}"


def _among_local(pid: int, key: str) -> str:
    """The same for one that nobody connects to over the network."""
    return f"mori local {pid} {key}"


def _registered(engine: str, memory: int) -> str:
    """The name under which an engine publishes the handle of memory that it has registered."""
    return f"mori memory {memory} of {engine}"
