"""Key-value stores in memory, with the calls and the answers of torch's.

A store also keeps the meeting places (`Rendezvous`) of the groups that were made over it, so that
ranks find each other by the store they share, as in torch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from weakref import WeakValueDictionary

from pd_testkit.stubs.torch_distributed.errors import DistNetworkError, DistStoreError
from pd_testkit.stubs.torch_distributed.rendezvous import Rendezvous

DEFAULT_TIMEOUT = timedelta(seconds=300)


class Table:
    """The content of a store, shared by all its handles."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.values: dict[str, bytes] = {}
        self.meetings: dict[str, Rendezvous] = {}
        self.handles = 0


class Store:
    """The calls that all stores have. A value is bytes; a str is taken as UTF-8."""

    def __init__(self) -> None:
        self._table = Table()
        self._prefix = ""
        self._timeout = DEFAULT_TIMEOUT

    @property
    def timeout(self) -> timedelta:
        return self._timeout

    def set_timeout(self, timeout: timedelta) -> None:
        self._timeout = timeout

    def set(self, key: str, value: str | bytes) -> None:
        with self._table.condition:
            self._table.values[self._prefix + key] = _bytes(value)
            self._table.condition.notify_all()

    def get(self, key: str) -> bytes:
        """Waits for ``key`` up to the store's timeout, then raises `DistStoreError`."""
        with self._table.condition:
            self.wait([key])
            return self._table.values[self._prefix + key]

    def add(self, key: str, amount: int) -> int:
        with self._table.condition:
            total = int(self._table.values.get(self._prefix + key, b"0")) + amount
            self.set(key, str(total))
            return total

    def append(self, key: str, value: str | bytes) -> None:
        with self._table.condition:
            self.set(key, self._table.values.get(self._prefix + key, b"") + _bytes(value))

    def compare_set(self, key: str, expected: str | bytes, desired: str | bytes) -> bytes:
        """Sets ``desired`` if the value is ``expected``, or if both are absent (empty)."""
        with self._table.condition:
            current = self._table.values.get(self._prefix + key)
            if current is None and _bytes(expected):
                return _bytes(expected)
            if current is None or current == _bytes(expected):
                self.set(key, desired)
                return _bytes(desired)
            return current

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        """Waits for all ``keys``, then raises `DistStoreError` that names those not there."""
        limit = self._timeout if timeout is None else timeout
        deadline = time.monotonic() + limit.total_seconds()
        with self._table.condition:
            while absent := [key for key in keys if not self.check([key])]:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise DistStoreError(
                        f"Wait timeout after {limit.total_seconds():g} s, keys not set: {absent}"
                    )
                self._table.condition.wait(min(remaining, 3600.0))

    def check(self, keys: Sequence[str]) -> bool:
        with self._table.condition:
            return all(self._prefix + key in self._table.values for key in keys)

    def delete_key(self, key: str) -> bool:
        with self._table.condition:
            return self._table.values.pop(self._prefix + key, None) is not None

    def num_keys(self) -> int:
        with self._table.condition:
            return len(self._table.values)

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        return [self.get(key) for key in keys]

    def multi_set(self, keys: Sequence[str], values: Sequence[str | bytes]) -> None:
        for key, value in zip(keys, values, strict=True):
            self.set(key, value)

    def has_extended_api(self) -> bool:
        return True

    def _meeting(self, name: str, size: int) -> Rendezvous:
        with self._table.condition:
            full = self._prefix + name
            return self._table.meetings.setdefault(full, Rendezvous(full.strip("/"), size))


class HashStore(Store):
    """A store of this process: ranks share the object."""


class PrefixStore(Store):
    """A view of another store in which every key starts with ``prefix/``."""

    def __init__(self, prefix: str, store: Store) -> None:
        self._table = store._table
        self._prefix = f"{store._prefix}{prefix}/"
        self._timeout = store._timeout
        self._underlying = store

    @property
    def underlying_store(self) -> Store:
        return self._underlying


class StoreDirectory:
    """The named stores of one installation: what TCP ports and files are to real processes."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._tables: WeakValueDictionary[str, Table] = WeakValueDictionary()
        self._next_port = 29500

    def free_port(self) -> int:
        with self._condition:
            self._next_port += 1
            return self._next_port

    def share(self, name: str) -> Table:
        """The table ``name``, made if it is not there."""
        with self._condition:
            table = self._tables.setdefault(name, Table())
            self._condition.notify_all()
            return table

    def serve(self, name: str) -> Table:
        """A new table ``name``; `DistNetworkError` if it is there already."""
        with self._condition:
            if name in self._tables:
                raise DistNetworkError(
                    f"The server socket has failed to listen on {name}: address already in use"
                )
            return self.share(name)

    def reach(self, name: str, timeout: timedelta) -> Table:
        """The table ``name`` once it is there; `DistNetworkError` after ``timeout``."""
        with self._condition:
            limit = timeout.total_seconds()
            if not self._condition.wait_for(lambda: name in self._tables, min(limit, 3600.0)):
                raise DistNetworkError(
                    f"The client socket has timed out after {limit:g} s while trying to connect "
                    f"to {name}: no rank is its master"
                )
            return self._tables[name]


def store_classes(directory: StoreDirectory) -> dict[str, type[Store]]:
    """``TCPStore`` and ``FileStore`` over one directory.

    No port is opened and no file written: the ranks are threads of this process.
    """

    class TCPStore(Store):
        """A store known by host and port: made by the master, found by the others."""

        def __init__(
            self,
            host_name: str,
            port: int,
            world_size: int | None = None,
            is_master: bool = False,
            timeout: timedelta = DEFAULT_TIMEOUT,
            wait_for_workers: bool = True,
            multi_tenant: bool = False,
            master_listen_fd: int | None = None,
            use_libuv: bool = True,
        ) -> None:
            self._prefix = ""
            self._timeout = timeout
            self.host = host_name
            self.port = directory.free_port() if is_master and port == 0 else port
            # One machine: a port is one server, under whatever name of the host.
            name = f"port {self.port}"
            if not is_master:
                self._table = directory.reach(name, timeout)
            elif multi_tenant:
                self._table = directory.share(name)
            else:
                self._table = directory.serve(name)
            with self._table.condition:
                self._table.handles += 1
                self._table.condition.notify_all()
            if is_master and wait_for_workers and world_size is not None and world_size > 0:
                self._wait_for_workers(world_size)

        def _wait_for_workers(self, world_size: int) -> None:
            table, limit = self._table, self._timeout.total_seconds()
            with table.condition:
                if not table.condition.wait_for(
                    lambda: table.handles >= world_size, min(limit, 3600.0)
                ):
                    raise DistStoreError(
                        f"Timed out after {limit:g} s waiting for clients: "
                        f"{table.handles}/{world_size} joined port {self.port}"
                    )

    class FileStore(Store):
        """A store known by its path."""

        def __init__(self, file_name: str, world_size: int = -1) -> None:
            super().__init__()
            self.path = file_name
            self._table = directory.share(f"file {Path(file_name).absolute()}")

    return {"TCPStore": TCPStore, "FileStore": FileStore}


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)
