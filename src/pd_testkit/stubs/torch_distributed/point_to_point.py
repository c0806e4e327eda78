"""Sends and receives. A send completes when it was received, as gloo's: two ranks that both send
first wait for each other until the timeout.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from pd_testkit.stubs.torch_distributed.collectives import Collectives
from pd_testkit.stubs.torch_distributed.groups import ProcessGroup, Work, outside
from pd_testkit.stubs.torch_distributed.membership import Membership
from pd_testkit.stubs.torch_distributed.reduction import snapshot, write
from pd_testkit.stubs.torch_distributed.rendezvous import Post


class PointToPoint:
    """Bound to the membership that knows the calling thread's rank."""

    def __init__(self, membership: Membership, collectives: Collectives) -> None:
        self._membership = membership
        self._collectives = collectives

    def isend(
        self,
        tensor: Any,
        dst: int | None = None,
        group: ProcessGroup | None = None,
        tag: int = 0,
        group_dst: int | None = None,
    ) -> Work | None:
        """Starts to send a copy of ``tensor``."""
        if outside(group):
            return None
        return self._send(snapshot(tensor), dst, group, tag, group_dst)

    def send(
        self,
        tensor: Any,
        dst: int | None = None,
        group: ProcessGroup | None = None,
        tag: int = 0,
        group_dst: int | None = None,
    ) -> None:
        work = self.isend(tensor, dst, group, tag, group_dst)
        if work is not None:
            work.wait()

    def irecv(
        self,
        tensor: Any,
        src: int | None = None,
        group: ProcessGroup | None = None,
        tag: int = 0,
        group_src: int | None = None,
    ) -> Work | None:
        """Starts to receive into ``tensor``, from any rank if none is named."""
        if outside(group):
            return None
        return self._recv(lambda sent: write(tensor, sent), src, group, tag, group_src)

    def recv(
        self,
        tensor: Any,
        src: int | None = None,
        group: ProcessGroup | None = None,
        tag: int = 0,
        group_src: int | None = None,
    ) -> int:
        """The rank (of the world) that sent; -1 on a rank outside the group."""
        work = self.irecv(tensor, src, group, tag, group_src)
        if work is None:
            return -1
        here = self._membership._group(group)
        return self._membership.get_global_rank(here, work.source_rank())

    def send_object_list(
        self,
        object_list: list[Any],
        dst: int | None = None,
        group: ProcessGroup | None = None,
        device: Any | None = None,
        group_dst: int | None = None,
        use_batch: bool = False,
    ) -> None:
        if not outside(group):
            self._send(copy.deepcopy(object_list), dst, group, 0, group_dst).wait()

    def recv_object_list(
        self,
        object_list: list[Any],
        src: int | None = None,
        group: ProcessGroup | None = None,
        device: Any | None = None,
        group_src: int | None = None,
        use_batch: bool = False,
    ) -> int:
        if outside(group):
            return -1

        def take(sent: list[Any]) -> None:
            object_list[:] = sent

        work = self._recv(take, src, group, 0, group_src)
        here = self._membership._group(group)
        return self._membership.get_global_rank(here, work.source_rank())

    def batch_isend_irecv(self, p2p_op_list: list[Any]) -> list[Work]:
        """Starts all operations of a list of ``P2POp``."""
        if not p2p_op_list:
            raise ValueError("Invalid p2p_op_list: it is empty")
        started = [
            op.op(op.tensor, group=op.group, tag=op.tag, **{op.peer_argument: op.group_peer})
            for op in p2p_op_list
        ]
        return [work for work in started if work is not None]

    def _send(
        self,
        value: Any,
        dst: int | None,
        group: ProcessGroup | None,
        tag: int,
        group_dst: int | None,
    ) -> Work:
        here = self._membership._group(group)
        peer = self._collectives._root(group, dst, group_dst)
        if peer == here.rank():
            raise ValueError("Invalid destination rank: destination rank should not be the same")
        return here._offer(Post("send", here.rank(), peer, tag, value), lambda _: None)

    def _recv(
        self,
        take: Callable[[Any], None],
        src: int | None,
        group: ProcessGroup | None,
        tag: int,
        group_src: int | None,
    ) -> Work:
        here = self._membership._group(group)
        anyone = src is None and group_src is None
        peer = None if anyone else self._collectives._root(group, src, group_src)
        return here._offer(Post("recv", here.rank(), peer, tag, None), take)


def p2p_op_class(membership: Membership, calls: PointToPoint) -> type:
    """``P2POp`` for the calls of one installation."""

    class P2POp:
        """One operation for `batch_isend_irecv`: ``op`` is ``isend`` or ``irecv``."""

        def __init__(
            self,
            op: Callable[..., Any],
            tensor: Any,
            peer: int | None = None,
            group: ProcessGroup | None = None,
            tag: int = 0,
            group_peer: int | None = None,
        ) -> None:
            if op not in (calls.isend, calls.irecv):
                raise ValueError("Invalid op: expected torch.distributed.isend or irecv")
            self.op = op
            self.tensor = tensor
            self.group = membership._group(group)
            self.tag = tag
            self.group_peer = calls._collectives._root(group, peer, group_peer)
            self.peer = membership.get_global_rank(self.group, self.group_peer)
            self.peer_argument = "group_dst" if op == calls.isend else "group_src"

    return P2POp
