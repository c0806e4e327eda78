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
    from pd_testkit.fabric import Engine, Fabric, Region, RegionHandle, Session

_FIRST_PORT = 32768
_MAX_REQUEST = 2**32 - 1


class Network:
    """All backends of one installation: who listens where, under which key.

    Several engines may have one key, as two on one host do: a peer is found by the host and port
    in its descriptor (over XGMI, where nobody listens, by its key), and only names it by its key
    afterwards.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self._lock = fabric.clock.lock
        self._listening: dict[tuple[str, int], Backend] = {}
        self._local: dict[str, Backend] = {}
        self._keys: dict[str, str] = {}

    def listen(self, backend: Backend, host: str, port: int) -> int:
        """The port on which an RDMA backend listens: ``port``, or a free one when that is 0.

        Raises:
            RuntimeError: another engine listens there.
        """
        with self._lock:
            taken = {p for its_host, p in self._listening if its_host == host}
            if port == 0:
                port = next(p for p in range(_FIRST_PORT, 2**16) if p not in taken)
            if port in taken:
                raise RuntimeError(f"cannot listen on {host}:{port}: address already in use")
            self._listening[host, port] = backend
            return port

    def leave(self, backend: Backend) -> None:
        """The backend is gone: its port is free, its memory out of reach."""
        with self._lock:
            self._listening = {at: b for at, b in self._listening.items() if b is not backend}
            self._local = {key: b for key, b in self._local.items() if b is not backend}
        backend.engine.kill()

    def find(self, via: BackendType, desc: EngineDesc) -> Backend | None:
        """The engine that ``desc`` means, if it is one of this process."""
        if desc.pid != os.getpid():
            return None
        if via is BackendType.RDMA:
            return self._listening.get((desc.host, desc.port))
        return self._local.get(desc.key)

    def named(self, key: str) -> list[str]:
        """The names on the fabric of the engines with a key."""
        return [name for name, its_key in list(self._keys.items()) if its_key == key]

    def engine(self, key: str, backend: Backend) -> Engine:
        """The backend's place on the fabric.

        A dead engine of this key comes back as a new generation; a live one keeps its name.
        """
        with self._lock:
            self._local[key] = backend
            engines = self.fabric.engines
            for name in self.named(key):
                if not engines[name].alive:
                    engines[name].restart()
                    return engines[name]
            name, number = key, 1
            while name in engines:
                number += 1
                name = f"{key}#{number}"
            self._keys[name] = key
            return self.fabric.engine(name)


class Backend:
    """What ``IOEngine.create_backend`` makes. Only RDMA notifies the other side.

    As in mori, memory that was registered before the backend was created is unknown to peers, and
    the connection to a key, once made, is kept: it goes stale when that engine restarts.
    """

    def __init__(
        self, network: Network, via: BackendType, key: str, host: str, port: int, notify: bool
    ) -> None:
        self.via = via
        self.notify = notify
        self._network = network
        self.port = network.listen(self, host, port) if via is BackendType.RDMA else port
        self.engine = network.engine(key, self)
        self._regions: dict[int, Region] = {}
        self._remotes: dict[str, EngineDesc] = {}
        self._connected: dict[str, Backend] = {}
        self._remote_memory: dict[tuple[str, int], RegionHandle] = {}
        self._sessions: dict[tuple[int, str, int], BackendSession] = {}

    def close(self) -> None:
        self._network.leave(self)

    def register_remote(self, desc: EngineDesc) -> None:
        self._remotes[desc.key] = desc

    def deregister_remote(self, desc: EngineDesc) -> None:
        self._remotes.pop(desc.key, None)

    def register(self, memory: MemoryDesc) -> None:
        self._regions[memory.id] = self.engine.register_address(memory.data, memory.size)

    def deregister(self, memory: MemoryDesc) -> None:
        region = self._regions.pop(memory.id, None)
        if region is not None:
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
        session = self.engine.session(self._regions[local.id], handle)
        return BackendSession(self._network.fabric, session, self.notify)

    def arrived(self, remote_key: str, uid: int) -> bool:
        """Whether an engine of that key notified this one of transfer ``uid``."""
        return self.notify and any(
            self.engine.inbound(name, uid) for name in self._network.named(remote_key)
        )

    def _remote_handle(self, remote: MemoryDesc) -> RegionHandle:
        key = remote.engine_key
        peer = self._connected.get(key) or self._connect(key)
        if (key, remote.id) not in self._remote_memory:
            region = peer._regions.get(remote.id)
            size = 0 if region is None else region.size
            if region is None or size != remote.size:
                raise RuntimeError(
                    f"RdmaBackend::CreateSession: remote MR size mismatch for engine {key} "
                    f"memId={remote.id} expected={remote.size} got={size}"
                )
            self._remote_memory[key, remote.id] = region.handle
        return self._remote_memory[key, remote.id]

    def _connect(self, key: str) -> Backend:
        desc = self._remotes[key]
        peer = self._network.find(self.via, desc)
        if peer is None:
            raise RuntimeError(f"cannot connect to engine {key} at {desc.host}:{desc.port}")
        status = self.engine.connect(peer.engine.name)
        if status.failed:
            raise RuntimeError(f"no RDMA connection to engine {key}: {status.name}")
        self._connected[key] = peer
        return peer


class BackendSession:
    """Posts batches between a local and a remote memory, and ties a status to each."""

    def __init__(self, fabric: Fabric, session: Session, notify: bool) -> None:
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


def _unsigned(values: Any) -> Any:
    import numpy as np

    array = np.asarray(values)
    if array.size and (array.dtype.kind not in "iu" or int(array.min()) < 0):
        raise TypeError(f"offsets and sizes are unsigned integers, not {values!r}")
    return array.astype(np.uint64).ravel()
