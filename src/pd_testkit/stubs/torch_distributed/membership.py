"""The rank of a thread: how it joins the world, makes groups and asks who it is."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlparse

from pd_testkit.stubs.torch_distributed.errors import DistBackendError
from pd_testkit.stubs.torch_distributed.groups import (
    DEFAULT_PG_TIMEOUT,
    NON_GROUP_MEMBER,
    Backend,
    ProcessGroup,
    outside,
)
from pd_testkit.stubs.torch_distributed.store import PrefixStore, Store, StoreDirectory

NOT_INITIALIZED = (
    "Default process group has not been initialized, please make sure to call init_process_group."
)


class World:
    """What one rank holds: the default group, and the global ranks of every group it is in."""

    def __init__(self, default: ProcessGroup, store: Store) -> None:
        self.default = default
        self.store = store
        self.ranks: dict[ProcessGroup, tuple[int, ...]] = {default: tuple(range(default.size()))}
        self.made: dict[tuple[int, ...], int] = {}


class Membership:
    """The functions of ``torch.distributed`` that say who is who.

    A rank is a thread: each thread joins with its own `init_process_group`. A thread that did not
    join is rank of nothing; it does not inherit the rank of the thread that started it.
    """

    def __init__(self, directory: StoreDirectory, stores: dict[str, type[Store]]) -> None:
        self._directory = directory
        self._stores: dict[str, Any] = dict(stores)
        self._local = threading.local()

    # -- joining and leaving

    def init_process_group(
        self,
        backend: str | None = None,
        init_method: str | None = None,
        timeout: timedelta | None = None,
        world_size: int = -1,
        rank: int = -1,
        store: Store | None = None,
        group_name: str = "",
        pg_options: Any | None = None,
        device_id: Any | None = None,
        _ranks: list[int] | None = None,
    ) -> None:
        """Makes the calling thread rank ``rank`` of ``world_size``.

        The ranks find each other over ``store``, or ``init_method``: ``env://`` (the default;
        MASTER_PORT, and RANK and WORLD_SIZE where not given), ``tcp://host:port``, ``file://path``.

        Raises:
            ValueError: this thread is a rank already, or rank or size are not known.
            DistBackendError: not all ranks came within ``timeout``.
        """
        if self.is_initialized():
            raise ValueError("trying to initialize the default process group twice!")
        limit = DEFAULT_PG_TIMEOUT if timeout is None else timeout
        if store is None:
            store, rank, world_size = next(
                self.rendezvous(init_method or "env://", rank, world_size, timeout=limit)
            )
        elif init_method is not None:
            raise ValueError("Cannot specify both init_method and store.")
        if world_size < 1 or rank < 0:
            raise ValueError(f"rank {rank} and world_size {world_size} must be given with a store")
        default = ProcessGroup(PrefixStore("default_pg", store), rank, world_size, limit)
        default._backend = Backend(Backend.UNDEFINED if backend is None else backend)
        default.group_name, default.group_desc = "0", "default_pg"
        self._local.world = World(default, store)
        try:
            default._start("init_process_group", None, lambda _: None).wait()
        except DistBackendError:
            del self._local.world
            raise

    def rendezvous(
        self, url: str, rank: int = -1, world_size: int = -1, **kwargs: Any
    ) -> Iterator[tuple[Store, int, int]]:
        """Yields the store behind ``url``, the rank and the world size, once."""
        timeout: timedelta = kwargs.get("timeout", DEFAULT_PG_TIMEOUT)
        parts = urlparse(url)
        query = {name: int(values[0]) for name, values in parse_qs(parts.query).items()}
        rank = query.get("rank", rank)
        world_size = query.get("world_size", world_size)
        if parts.scheme == "env":
            rank = int(_environment("RANK")) if rank < 0 else rank
            world_size = int(_environment("WORLD_SIZE")) if world_size < 0 else world_size
            host, port = _environment("MASTER_ADDR"), int(_environment("MASTER_PORT"))
        elif parts.scheme == "tcp":
            if parts.port is None:
                raise ValueError(f"{url}: port number missing")
            host, port = parts.hostname or "", parts.port
        elif parts.scheme == "file":
            yield self._stores["FileStore"](parts.path, world_size), rank, world_size
            return
        else:
            raise RuntimeError(f"No rendezvous handler for {parts.scheme}://")
        if rank < 0 or world_size < 1:
            raise ValueError(f"{url}: rank or world_size missing")
        store = self._stores["TCPStore"](
            host, port, world_size, rank == 0, timeout, False, multi_tenant=True
        )
        yield store, rank, world_size

    def new_group(
        self,
        ranks: Sequence[int] | None = None,
        timeout: timedelta | None = None,
        backend: str | None = None,
        pg_options: Any | None = None,
        use_local_synchronization: bool = False,
        group_desc: str | None = None,
        device_id: Any | None = None,
        sort_ranks: bool = True,
    ) -> ProcessGroup | int:
        """A group of ``ranks`` (all, if None); every rank of the world calls it, in one order.

        With ``use_local_synchronization`` only the members call it. A rank that is not a member
        gets ``GroupMember.NON_GROUP_MEMBER``.
        """
        world = self._world()
        members = range(world.default.size()) if ranks is None else ranks
        chosen = tuple(sorted(members) if sort_ranks else members)
        if len(set(chosen)) != len(chosen):
            raise ValueError(f"ranks {list(chosen)} are not unique")
        if any(not 0 <= rank < world.default.size() for rank in chosen):
            raise ValueError(f"ranks {list(chosen)} are not all below {world.default.size()}")
        nth = world.made[chosen] = world.made.get(chosen, -1) + 1
        if not use_local_synchronization:
            what = f"new_group({list(chosen)})"
            world.default._start(what, None, lambda _: None).wait()
        me = world.default.rank()
        if me not in chosen:
            return NON_GROUP_MEMBER
        name = f"{','.join(map(str, chosen))}#{nth}"
        limit = world.default._timeout if timeout is None else timeout
        group = ProcessGroup(
            PrefixStore(f"group {name}", world.store), chosen.index(me), len(chosen), limit
        )
        group._backend = world.default._backend if backend is None else Backend(backend)
        group.group_name = name
        group.group_desc = group_desc or "undefined"
        world.ranks[group] = chosen
        if use_local_synchronization:
            group._start("new_group", None, lambda _: None).wait()
        return group

    def destroy_process_group(self, group: ProcessGroup | None = None) -> None:
        """Leaves ``group``, or the world and all groups. Peers that still wait fail at once."""
        world = self._world()
        if group is None or group is world.default:
            self._leave("destroyed its process group")
            return
        if world.ranks.pop(group, None) is None:
            raise ValueError("Invalid process group specified or has been destroyed")
        group._meeting.leave(group.rank(), "destroyed its process group")

    def _leave(self, reason: str) -> None:
        world: World | None = getattr(self._local, "world", None)
        if world is None:
            return
        del self._local.world
        for group in world.ranks:
            group._meeting.leave(group.rank(), reason)

    @contextmanager
    def as_rank(self, rank: int, world_size: int) -> Iterator[None]:
        """This thread is ``rank`` of ``world_size`` in the block, without peers.

        For code that asks who it is. A collective in it fails at once and names the absent ranks.
        """
        previous = getattr(self._local, "world", None)
        store = Store()
        default = ProcessGroup(PrefixStore("default_pg", store), rank, world_size)
        default.group_name, default.group_desc = "0", "default_pg"
        for absent in range(world_size):
            if absent != rank:
                default._meeting.leave(absent, "is not simulated")
        self._local.world = World(default, store)
        try:
            yield
        finally:
            self._local.world = previous
            if previous is None:
                del self._local.world

    # -- asking

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return hasattr(self._local, "world")

    def is_backend_available(self, backend: str) -> bool:
        return backend.lower() in Backend.backend_list

    def get_rank(self, group: ProcessGroup | None = None) -> int:
        """This thread's rank in ``group``; -1 if it is not in it."""
        return -1 if outside(group) else self._group(group).rank()

    def get_world_size(self, group: ProcessGroup | None = None) -> int:
        return -1 if outside(group) else self._group(group).size()

    def get_backend(self, group: ProcessGroup | None = None) -> Backend:
        return self._group(group)._backend

    def get_group_rank(self, group: ProcessGroup, global_rank: int) -> int:
        """The rank in ``group`` of ``global_rank``; ValueError if it is not in it."""
        ranks = self._ranks(group)
        if global_rank not in ranks:
            raise ValueError(f"Global rank {global_rank} is not part of group {group}")
        return ranks.index(global_rank)

    def get_global_rank(self, group: ProcessGroup, group_rank: int) -> int:
        ranks = self._ranks(group)
        if not 0 <= group_rank < len(ranks):
            raise ValueError(f"Group rank {group_rank} is not part of group {group}")
        return ranks[group_rank]

    def get_process_group_ranks(self, group: ProcessGroup | None) -> list[int]:
        return list(self._ranks(self._group(group)))

    def get_node_local_rank(self, fallback_rank: int | None = None) -> int:
        if "LOCAL_RANK" in os.environ:
            return int(os.environ["LOCAL_RANK"])
        if fallback_rank is None:
            raise RuntimeError("LOCAL_RANK is not in the environment; pass fallback_rank")
        return fallback_rank

    def _world(self) -> World:
        world: World | None = getattr(self._local, "world", None)
        if world is None:
            raise ValueError(
                f"{NOT_INITIALIZED} (pd-testkit: a rank is a thread, and thread "
                f"{threading.current_thread().name!r} is none; see run_ranks and as_rank)"
            )
        return world

    def _group(self, group: ProcessGroup | None) -> ProcessGroup:
        if group is not None:
            return group
        return self._world().default

    def _ranks(self, group: ProcessGroup) -> tuple[int, ...]:
        ranks = self._world().ranks.get(group)
        if ranks is None:
            raise ValueError(
                f"Group {group} is not registered, please create group with "
                "torch.distributed.new_group API"
            )
        return ranks


def _outside(group: Any) -> bool:
    return bool(group == NON_GROUP_MEMBER)


def _environment(name: str) -> str:
    if name not in os.environ:
        raise ValueError(
            f"Error initializing torch.distributed using env:// rendezvous: environment variable "
            f"{name} expected, but not set"
        )
    return os.environ[name]
