"""Arithmetic on tensors: numpy arrays, or torch tensors where torch is present.

Neither is imported here: a tensor brings the operations that are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, ClassVar

from pd_testkit.stubs.torch_distributed.errors import DistBackendError


class RedOpType(IntEnum):
    """The reductions, numbered as in torch."""

    SUM = 0
    AVG = 1
    PRODUCT = 2
    MIN = 3
    MAX = 4
    BAND = 5
    BOR = 6
    BXOR = 7
    PREMUL_SUM = 8


class ReduceOp:
    """What `all_reduce` and its kin compute; ``ReduceOp.SUM`` is a `RedOpType`, as in torch."""

    RedOpType = RedOpType
    SUM: ClassVar = RedOpType.SUM
    AVG: ClassVar = RedOpType.AVG
    PRODUCT: ClassVar = RedOpType.PRODUCT
    MIN: ClassVar = RedOpType.MIN
    MAX: ClassVar = RedOpType.MAX
    BAND: ClassVar = RedOpType.BAND
    BOR: ClassVar = RedOpType.BOR
    BXOR: ClassVar = RedOpType.BXOR
    PREMUL_SUM: ClassVar = RedOpType.PREMUL_SUM


def is_torch(tensor: Any) -> bool:
    return hasattr(tensor, "detach")


def snapshot(tensor: Any) -> Any:
    """A copy that later writes to ``tensor`` do not change."""
    if is_torch(tensor):
        return tensor.detach().clone()
    if not hasattr(tensor, "dtype"):
        raise TypeError(f"expected a tensor or a numpy array, got {type(tensor).__name__}")
    return tensor.copy()


def write(destination: Any, source: Any) -> None:
    """Copies ``source`` into ``destination``, which has its shape and dtype.

    Raises:
        DistBackendError: shape or dtype differ; nothing was written.
    """
    if tuple(destination.shape) != tuple(source.shape) or destination.dtype != source.dtype:
        raise DistBackendError(
            f"expected a tensor of {describe(source)}, got one of {describe(destination)}"
        )
    if is_torch(destination):
        destination.detach().copy_(source)
    else:
        destination[...] = source


def describe(tensor: Any) -> str:
    return f"shape {tuple(tensor.shape)} and dtype {tensor.dtype}"


def chunks(tensor: Any, count: int, like: Any) -> list[Any]:
    """``tensor`` as ``count`` parts of the shape of ``like``, in memory order; views, not copies.

    Raises:
        DistBackendError: ``tensor`` is not ``count`` times as large as ``like``, or not contiguous.
    """
    size = 1
    for extent in like.shape:
        size *= extent
    whole = 1
    for extent in tensor.shape:
        whole *= extent
    if whole != count * size:
        raise DistBackendError(
            f"a tensor of {describe(tensor)} does not hold {count} parts of {describe(like)}"
        )
    contiguous = tensor.is_contiguous() if is_torch(tensor) else tensor.flags.c_contiguous
    if not contiguous:
        raise DistBackendError(f"the tensor of {describe(tensor)} is not contiguous")
    parts = tensor.reshape((count, *like.shape))
    return [parts[index] for index in range(count)]


def reduce_tensors(op: RedOpType, tensors: Sequence[Any]) -> Any:
    """``tensors`` (one per rank, of one shape and dtype) reduced in rank order.

    Raises:
        DistBackendError: shapes or dtypes differ between ranks, or ``op`` is not known for them.
    """
    first = tensors[0]
    for rank, tensor in enumerate(tensors):
        if tuple(tensor.shape) != tuple(first.shape) or tensor.dtype != first.dtype:
            raise DistBackendError(
                f"rank 0 of the group reduces {describe(first)}, rank {rank} {describe(tensor)}"
            )
    total = snapshot(first)
    for tensor in tensors[1:]:
        total = _combine(op, total, tensor)
    if op == RedOpType.AVG:
        floating = total.is_floating_point() if is_torch(total) else total.dtype.kind in "fc"
        if not floating:
            raise DistBackendError(f"AVG needs a floating point tensor, got {total.dtype}")
        total = total / len(tensors)
    return total


def _combine(op: RedOpType, left: Any, right: Any) -> Any:
    if op in (RedOpType.SUM, RedOpType.AVG):
        return left + right
    if op == RedOpType.PRODUCT:
        return left * right
    if op == RedOpType.BAND:
        return left & right
    if op == RedOpType.BOR:
        return left | right
    if op == RedOpType.BXOR:
        return left ^ right
    if op in (RedOpType.MIN, RedOpType.MAX):
        smaller = left < right
        keep_left = smaller if op == RedOpType.MIN else ~smaller
        if is_torch(left):
            return left.where(keep_left, right)
        result = right.copy()
        result[keep_left] = left[keep_left]
        return result
    raise DistBackendError(f"the stub does not reduce with {op!r}")
