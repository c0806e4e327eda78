"""The reference's transfer planning, in the contract's words."""

from __future__ import annotations

from collections.abc import Sequence

from pd_testkit.contract import CacheLayout, HeadRead, Role, TokenRead
from pd_testkit.reference import copies, heads, paths, ports, regions, roles
from pd_testkit.reference.layer_cache import LayerCache
from pd_testkit.reference.pages import pages
from pd_testkit.reference.tokens import token_runs


def _cache(layout: CacheLayout) -> LayerCache:
    return LayerCache(layout.shape, layout.itemsize, layout.block_size)


class TransferDriver:
    pages = staticmethod(pages)
    merge = staticmethod(copies.merge)
    latent_source = staticmethod(heads.latent_source)
    zmq_path = staticmethod(paths.zmq_path)
    port = staticmethod(ports.side_channel_port)
    role_holder = staticmethod(roles.holder)

    def offsets(
        self, layout: CacheLayout, local_block_ids: Sequence[int], remote_block_ids: Sequence[int]
    ) -> tuple[list[int], list[int], list[int]]:
        return copies.block_copies(_cache(layout).block_bytes, local_block_ids, remote_block_ids)

    def chunks(self, address: int, layout: CacheLayout) -> tuple[list[tuple[int, int]], int]:
        return regions.regions(address, _cache(layout))

    def head_reads(
        self, *, kv_heads: int, remote_tp: int, local_tp: int, local_rank: int
    ) -> list[HeadRead]:
        runs = heads.head_runs(
            kv_heads=kv_heads, remote_tp=remote_tp, local_tp=local_tp, local_rank=local_rank
        )
        return [HeadRead(*run) for run in runs]

    def token_reads(
        self,
        *,
        local_block_ids: Sequence[int],
        local_block_size: int,
        remote_block_ids: Sequence[int],
        remote_block_size: int,
        tokens: int,
        skip: int = 0,
    ) -> list[TokenRead]:
        runs = token_runs(
            local_block_ids=local_block_ids,
            local_block_size=local_block_size,
            remote_block_ids=remote_block_ids,
            remote_block_size=remote_block_size,
            tokens=tokens,
            skip=skip,
        )
        return [TokenRead(*run) for run in runs]

    def set_role(self, role: Role) -> None:
        roles.set_role(role.value)

    def role(self) -> Role | None:
        role = roles.role()
        return None if role is None else Role(role)

    def close(self) -> None:
        roles.set_role(None)
