"""The collectives of ``torch.distributed``, on threads.

``src`` and ``dst`` are ranks of the world, ``group_src`` and ``group_dst`` ranks of the group, as
in torch. Tensors are numpy arrays or torch tensors, one kind, shape and dtype on all ranks. A rank
that is not in the group gets None and a warning. With ``async_op`` the result is a `Work`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from pd_testkit.stubs.torch_distributed.errors import DistBackendError
from pd_testkit.stubs.torch_distributed.groups import ProcessGroup, Work, outside
from pd_testkit.stubs.torch_distributed.membership import Membership
from pd_testkit.stubs.torch_distributed.reduction import (
    RedOpType,
    ReduceOp,
    chunks,
    reduce_tensors,
    snapshot,
    write,
)

Take = Callable[[list[Any]], Any]


def _write_all(destinations: list[Any], sources: list[Any]) -> None:
    for destination, source in zip(destinations, sources, strict=True):
        write(destination, source)


class Collectives:
    """Bound to the membership that knows the calling thread's rank."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership

    def _start(
        self,
        group: ProcessGroup | None,
        async_op: bool,
        what: str,
        bring: Callable[[ProcessGroup], tuple[Any, Take]],
    ) -> Work | None:
        """Enters a collective; ``bring`` gives this rank's value and what it does with all."""
        if outside(group):
            warnings.warn(
                f"{what.partition('(')[0]} was called on rank {self._membership.get_rank()}, "
                "which is not in the group",
                stacklevel=3,
            )
            return None
        here = self._membership._group(group)
        value, take = bring(here)
        work = here._start(what, value, take)
        if async_op:
            return work
        work.wait()
        return None

    def _root(
        self, group: ProcessGroup | None, world_rank: int | None, group_rank: int | None
    ) -> int:
        """The group rank of a root that is named one way or the other."""
        if outside(group):
            return -1
        if group_rank is not None:
            if world_rank is not None:
                raise ValueError("Can't specify both group_rank and global_rank")
            return group_rank
        if world_rank is None:
            raise ValueError("Must specify global_rank or group_rank")
        return self._membership.get_group_rank(self._membership._group(group), world_rank)

    def barrier(
        self,
        group: ProcessGroup | None = None,
        async_op: bool = False,
        device_ids: list[int] | None = None,
        timeout: timedelta | None = None,
    ) -> Work | None:
        work = self._start(group, True, "barrier", lambda _: (None, lambda _: None))
        if work is None or async_op:
            return work
        work.wait(timeout or timedelta(0))
        return None

    def monitored_barrier(
        self,
        group: ProcessGroup | None = None,
        timeout: timedelta | None = None,
        wait_all_ranks: bool = False,
    ) -> None:
        """A barrier whose error names the missing ranks; here every collective's does."""
        self.barrier(group, timeout=timeout)

    def all_reduce(
        self,
        tensor: Any,
        op: RedOpType = ReduceOp.SUM,
        group: ProcessGroup | None = None,
        async_op: bool = False,
    ) -> Work | None:
        return self._start(
            group,
            async_op,
            f"all_reduce({RedOpType(op).name})",
            lambda _: (snapshot(tensor), lambda all_: write(tensor, reduce_tensors(op, all_))),
        )

    def reduce(
        self,
        tensor: Any,
        dst: int | None = None,
        op: RedOpType = ReduceOp.SUM,
        group: ProcessGroup | None = None,
        async_op: bool = False,
        group_dst: int | None = None,
    ) -> Work | None:
        """The result is written on ``dst`` only; the others' tensors keep their values."""
        root = self._root(group, dst, group_dst)

        def bring(here: ProcessGroup) -> tuple[Any, Take]:
            def take(values: list[Any]) -> None:
                total = reduce_tensors(op, values)
                if here.rank() == root:
                    write(tensor, total)

            return snapshot(tensor), take

        return self._start(group, async_op, f"reduce({RedOpType(op).name}, dst={root})", bring)

    def broadcast(
        self,
        tensor: Any,
        src: int | None = None,
        group: ProcessGroup | None = None,
        async_op: bool = False,
        group_src: int | None = None,
    ) -> Work | None:
        root = self._root(group, src, group_src)

        def bring(here: ProcessGroup) -> tuple[Any, Take]:
            if here.rank() == root:
                return snapshot(tensor), lambda _: None
            return None, lambda values: write(tensor, values[root])

        return self._start(group, async_op, f"broadcast(src={root})", bring)

    def all_gather(
        self,
        tensor_list: list[Any],
        tensor: Any,
        group: ProcessGroup | None = None,
        async_op: bool = False,
    ) -> Work | None:
        return self._start(
            group,
            async_op,
            "all_gather",
            lambda here: (
                snapshot(tensor),
                lambda values: _write_all(_one_per_rank("tensor_list", tensor_list, here), values),
            ),
        )

    def all_gather_into_tensor(
        self,
        output_tensor: Any,
        input_tensor: Any,
        group: ProcessGroup | None = None,
        async_op: bool = False,
    ) -> Work | None:
        """``output_tensor`` holds the ranks' inputs one after the other, or stacked."""
        return self._start(
            group,
            async_op,
            "all_gather_into_tensor",
            lambda here: (
                snapshot(input_tensor),
                lambda values: _write_all(chunks(output_tensor, here.size(), input_tensor), values),
            ),
        )

    def gather(
        self,
        tensor: Any,
        gather_list: list[Any] | None = None,
        dst: int | None = None,
        group: ProcessGroup | None = None,
        async_op: bool = False,
        group_dst: int | None = None,
    ) -> Work | None:
        root = self._root(group, *_default_root(dst, group_dst))

        def bring(here: ProcessGroup) -> tuple[Any, Take]:
            if here.rank() != root:
                if gather_list:
                    raise ValueError("Argument gather_list must not be given on other ranks")
                return snapshot(tensor), lambda _: None
            outputs = _one_per_rank("gather_list", gather_list, here)
            return snapshot(tensor), lambda values: _write_all(outputs, values)

        return self._start(group, async_op, f"gather(dst={root})", bring)

    def scatter(
        self,
        tensor: Any,
        scatter_list: list[Any] | None = None,
        src: int | None = None,
        group: ProcessGroup | None = None,
        async_op: bool = False,
        group_src: int | None = None,
    ) -> Work | None:
        root = self._root(group, *_default_root(src, group_src))

        def bring(here: ProcessGroup) -> tuple[Any, Take]:
            def take(values: list[Any]) -> None:
                write(tensor, values[root][here.rank()])

            if here.rank() != root:
                if scatter_list:
                    raise ValueError("Argument scatter_list must not be given on other ranks")
                return None, take
            inputs = _one_per_rank("scatter_list", scatter_list, here)
            return [snapshot(item) for item in inputs], take

        return self._start(group, async_op, f"scatter(src={root})", bring)

    def reduce_scatter(
        self,
        output: Any,
        input_list: list[Any],
        op: RedOpType = ReduceOp.SUM,
        group: ProcessGroup | None = None,
        async_op: bool = False,
    ) -> Work | None:
        """``output`` is the reduction of the ranks' ``input_list[my rank]``."""
        return self._start(
            group,
            async_op,
            f"reduce_scatter({RedOpType(op).name})",
            lambda here: _bring_parts(
                output, _one_per_rank("input_list", input_list, here), op, here
            ),
        )

    def reduce_scatter_tensor(
        self,
        output: Any,
        input: Any,  # noqa: A002 - torch's name
        op: RedOpType = ReduceOp.SUM,
        group: ProcessGroup | None = None,
        async_op: bool = False,
    ) -> Work | None:
        """`reduce_scatter` whose inputs are the equal parts of one tensor."""
        return self._start(
            group,
            async_op,
            f"reduce_scatter_tensor({RedOpType(op).name})",
            lambda here: _bring_parts(output, chunks(input, here.size(), output), op, here),
        )

    # The names that torch 2.13 gives them.
    all_gather_single = all_gather_into_tensor
    reduce_scatter_single = reduce_scatter_tensor

    # Objects are handed over as deep copies: nothing is serialised, and no rank sees another's.

    def all_gather_object(
        self, object_list: list[Any], obj: Any, group: ProcessGroup | None = None
    ) -> None:
        def bring(here: ProcessGroup) -> tuple[Any, Take]:
            _one_per_rank("object_list", object_list, here)

            def take(values: list[Any]) -> None:
                object_list[: here.size()] = copy.deepcopy(values)

            return copy.deepcopy(obj), take

        self._start(group, False, "all_gather_object", bring)

    def gather_object(
        self,
        obj: Any,
        object_gather_list: list[Any] | None = None,
        dst: int | None = None,
        group: ProcessGroup | None = None,
        group_dst: int | None = None,
    ) -> None:
        root = self._root(group, *_default_root(dst, group_dst))

        def bring(here: ProcessGroup) -> tuple[Any, Take]:
            if here.rank() != root:
                return copy.deepcopy(obj), lambda _: None
            outputs = _one_per_rank("object_gather_list", object_gather_list, here)

            def take(values: list[Any]) -> None:
                outputs[: here.size()] = copy.deepcopy(values)

            return copy.deepcopy(obj), take

        self._start(group, False, f"gather_object(dst={root})", bring)

    def broadcast_object_list(
        self,
        object_list: list[Any],
        src: int | None = None,
        group: ProcessGroup | None = None,
        device: Any | None = None,
        group_src: int | None = None,
    ) -> None:
        root = self._root(group, *_default_root(src, group_src))

        def bring(here: ProcessGroup) -> tuple[Any, Take]:
            if here.rank() == root:
                return copy.deepcopy(object_list), lambda _: None

            def take(values: list[Any]) -> None:
                if len(values[root]) != len(object_list):
                    raise DistBackendError(
                        f"rank {root} broadcasts {len(values[root])} objects, "
                        f"rank {here.rank()} expects {len(object_list)}"
                    )
                object_list[:] = copy.deepcopy(values[root])

            return None, take

        self._start(group, False, f"broadcast_object_list(src={root})", bring)

    def scatter_object_list(
        self,
        scatter_object_output_list: list[Any],
        scatter_object_input_list: list[Any] | None = None,
        src: int | None = None,
        group: ProcessGroup | None = None,
        group_src: int | None = None,
    ) -> None:
        """Rank i's ``scatter_object_output_list[0]`` is the source's item i."""
        root = self._root(group, *_default_root(src, group_src))
        if not scatter_object_output_list:
            raise ValueError("Expected scatter_object_output_list to have at least one element")

        def bring(here: ProcessGroup) -> tuple[Any, Take]:
            def take(values: list[Any]) -> None:
                scatter_object_output_list[0] = copy.deepcopy(values[root][here.rank()])

            if here.rank() != root:
                return None, take
            items = _one_per_rank("scatter_object_input_list", scatter_object_input_list, here)
            return copy.deepcopy(items), take

        self._start(group, False, f"scatter_object_list(src={root})", bring)


def _bring_parts(
    output: Any, parts: list[Any], op: RedOpType, here: ProcessGroup
) -> tuple[Any, Take]:
    def take(values: list[Any]) -> None:
        write(output, reduce_tensors(op, [value[here.rank()] for value in values]))

    return [snapshot(part) for part in parts], take


def _default_root(world_rank: int | None, group_rank: int | None) -> tuple[int | None, int | None]:
    return (0, None) if world_rank is None and group_rank is None else (world_rank, group_rank)


def _one_per_rank(argument: str, items: list[Any] | None, group: ProcessGroup) -> list[Any]:
    if items is None or len(items) != group.size():
        given = "nothing" if items is None else f"{len(items)} items"
        raise ValueError(f"{argument} must hold {group.size()} items, one per rank; got {given}")
    return items
