"""torch.distributed with threads as ranks.

Works on numpy arrays, and on torch tensors where torch is present. Importing this package imports
neither; building the stub imports torch where it is present. The backend's name is kept, but every
backend is the same: the ranks meet in memory, results are those of a reduction in rank order, and
whoever waits for a rank that died, left or never comes gets a `DistBackendError` that names it, at
once or after the group's timeout.

`run_ranks` gives each rank a thread:

    def body(rank):
        tensor = torch.tensor([float(rank)])
        torch.distributed.all_reduce(tensor)
        return tensor.item()

    assert run_ranks(4, body) == [6.0] * 4

What torch builds on top of ``torch.distributed`` (``torch.compile``'s support of it, DTensor,
device meshes) is not here; leave the real package in place for that: `run_ranks` then uses torch's
own threaded group.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import Any

from pd_testkit.stubs.strict import StrictModule
from pd_testkit.stubs.torch_distributed import errors, groups
from pd_testkit.stubs.torch_distributed.collectives import Collectives
from pd_testkit.stubs.torch_distributed.membership import Membership
from pd_testkit.stubs.torch_distributed.point_to_point import PointToPoint, p2p_op_class
from pd_testkit.stubs.torch_distributed.ranks import as_rank, register, run_ranks
from pd_testkit.stubs.torch_distributed.reduction import ReduceOp
from pd_testkit.stubs.torch_distributed.store import (
    HashStore,
    PrefixStore,
    Store,
    StoreDirectory,
    store_classes,
)

__all__ = ["as_rank", "build", "run_ranks"]

_ONLY_IN_C10D = ("default_pg_timeout",)
_NOT_IN_C10D = (
    "DistBackendError",
    "DistError",
    "DistNetworkError",
    "FileStore",
    "HashStore",
    "TCPStore",
    "is_available",
)


def build(context: Any) -> dict[str, ModuleType]:
    """The modules of one installation; ranks and ports of two installations never meet."""
    directory = StoreDirectory()
    stores = store_classes(directory)
    membership = Membership(directory, stores)
    collectives = Collectives(membership)
    point_to_point = PointToPoint(membership, collectives)
    meta = _world_meta(membership)

    names: dict[str, Any] = {
        "Backend": groups.Backend,
        "DistBackendError": errors.DistBackendError,
        "DistError": errors.DistError,
        "DistNetworkError": errors.DistNetworkError,
        "DistStoreError": errors.DistStoreError,
        "GroupMember": meta("GroupMember", (), {"NON_GROUP_MEMBER": groups.NON_GROUP_MEMBER}),
        "HashStore": HashStore,
        "P2POp": p2p_op_class(membership, point_to_point),
        "PrefixStore": PrefixStore,
        "ProcessGroup": groups.ProcessGroup,
        "ProcessGroupGloo": groups.ProcessGroupGloo,
        "ReduceOp": ReduceOp,
        "Store": Store,
        "Work": groups.Work,
        "default_pg_timeout": groups.DEFAULT_PG_TIMEOUT,
        "group": meta("group", (), {}),
        **stores,
    }
    for part in (membership, collectives, point_to_point):
        names.update((name, getattr(part, name)) for name in dir(part) if not name.startswith("_"))
    del names["as_rank"]
    rendezvous = names.pop("rendezvous")

    def _get_default_timeout(backend: str) -> Any:
        return groups.DEFAULT_PG_TIMEOUT

    def _unregister_process_group(group_name: str) -> None:
        """Names are not registered apart from the groups; nothing is left to forget."""

    def _get_default_group() -> groups.ProcessGroup:
        return membership._group(None)

    c10d_names = {
        **names,
        "_get_default_group": _get_default_group,
        "_get_default_timeout": _get_default_timeout,
        "_unregister_process_group": _unregister_process_group,
    }
    for name in _NOT_IN_C10D:
        del c10d_names[name]
    c10d = StrictModule("torch.distributed.distributed_c10d", None, **c10d_names)
    rendezvous_module = StrictModule("torch.distributed.rendezvous", None, rendezvous=rendezvous)
    for name in _ONLY_IN_C10D:
        del names[name]
    root = StrictModule(
        "torch.distributed",
        None,
        **names,
        distributed_c10d=c10d,
        rendezvous=rendezvous_module,
    )
    register(root, membership)
    modules: dict[str, ModuleType] = {
        "torch.distributed": root,
        "torch.distributed.distributed_c10d": c10d,
        "torch.distributed.rendezvous": rendezvous_module,
    }
    if importlib.util.find_spec("torch") is None:
        modules["torch"] = StrictModule("torch", None, distributed=root)
    else:
        # While torch itself loads it needs its real torch.distributed; later it does not.
        importlib.import_module("torch")
    return modules


def _world_meta(membership: Membership) -> type[type]:
    """The metaclass of ``group`` and ``GroupMember``: ``WORLD`` is the calling rank's group."""

    class WorldMeta(type):
        @property
        def WORLD(cls) -> groups.ProcessGroup | None:  # noqa: N802 - torch's name
            return membership._group(None) if membership.is_initialized() else None

    return WorldMeta
