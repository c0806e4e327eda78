"""ATOM's plain functions below a transfer, and its process's role, in the contract's words."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Sequence
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from pd_testkit.contract import CacheLayout, HeadRead, Role, TargetError, TokenRead
from pd_testkit.targets.atom.versions import Version

_LAYER = "layer"


class TransferDriver:
    def __init__(self, version: Version) -> None:
        self._connector = import_module(version.connector)
        self._worker = getattr(self._connector, version.worker)
        self._roles = import_module(version.roles)
        module, function = version.chunks
        self._chunk = getattr(import_module(module), function)
        self._port = _assigned(self._worker.__init__, "side_channel_port")
        self._forget_role()

    def close(self) -> None:
        self._forget_role()

    def pages(
        self, block_ids: Sequence[int], virtual_block_size: int = 16, physical_block_size: int = 1
    ) -> list[int]:
        pages: list[int] = self._roles.convert_virtual_to_physical_pages(
            list(block_ids), virtual_block_size, physical_block_size
        )
        return pages

    def merge(
        self, local: Sequence[int], remote: Sequence[int], sizes: Sequence[int]
    ) -> tuple[list[int], list[int], list[int]]:
        merged: tuple[list[int], list[int], list[int]] = self._bare().merge_contiguous_blocks(
            local, remote, sizes
        )
        return merged

    def offsets(
        self, layout: CacheLayout, local_block_ids: Sequence[int], remote_block_ids: Sequence[int]
    ) -> tuple[list[int], list[int], list[int]]:
        worker = self._bare()
        worker.kv_caches = {_LAYER: SimpleNamespace(k_cache=_Cache(layout))}
        worker.kv_cache_shape = layout.shape
        worker.kv_cache_block_size = layout.block_size
        offsets: tuple[list[int], list[int], list[int]] = worker._compute_block_transfer_offsets(
            _LAYER, list(local_block_ids), list(remote_block_ids), None
        )
        return offsets

    def chunks(self, address: int, layout: CacheLayout) -> tuple[list[tuple[int, int]], int]:
        # As register_kv_caches calls it: dim 0 counts tokens in an MLA cache, blocks in another.
        cut: tuple[list[tuple[int, int]], int] = self._chunk(
            _Cache(layout, address), layout.block_size if layout.mla else 1
        )
        return cut

    def head_reads(
        self, *, kv_heads: int, remote_tp: int, local_tp: int, local_rank: int
    ) -> list[HeadRead]:
        raise TargetError("ATOM's MoRI-IO connector reads from the same tensor-parallel rank only")

    def latent_source(self, *, remote_tp: int, local_tp: int, local_rank: int) -> int:
        raise TargetError("ATOM's MoRI-IO connector reads from the same tensor-parallel rank only")

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
        raise TargetError("ATOM's MoRI-IO connector reads whole blocks of one size only")

    def zmq_path(self, scheme: str, host: str, port: int | None = None) -> str:
        path: str = self._connector.make_zmq_path(scheme, host, port)
        return path

    def port(self, base: int, *, dp_rank: int, tp_rank: int, tp_size: int) -> int:
        """The value that the worker's constructor gives its ``side_channel_port``.

        Its own expression is evaluated, apart from the constructor, which starts a thread on
        rank 0 that never ends.
        """
        names = {
            "self": SimpleNamespace(
                dp_rank=dp_rank, tp_rank=tp_rank, tp_size=tp_size, base_handshake_port=base
            ),
            "handshake_port": base,
        }
        return int(eval(self._port, vars(self._connector), names))  # noqa: S307

    def set_role(self, role: Role) -> None:
        self._roles.set_role(self._roles.Role(role.value))

    def role(self) -> Role | None:
        role = self._roles.get_role()
        return None if role is self._roles.Role.NOT_INITIALIZED else Role(role.value)

    def role_holder(self) -> object:
        holder: object = self._roles._RoleManager.get_instance()
        return holder

    def _bare(self) -> Any:
        """A worker without its constructor's sockets and threads, for methods that need none."""
        return self._worker.__new__(self._worker)

    def _forget_role(self) -> None:
        """As in a new process: the role is a global of ATOM's."""
        self._roles._RoleManager._instance = None


class _Cache:
    """A contiguous cache tensor of that layout, without the memory: torch tells its geometry."""

    def __init__(self, layout: CacheLayout, address: int = 0) -> None:
        import torch

        dtype = {1: torch.uint8, 2: torch.float16, 4: torch.float32, 8: torch.float64}
        self._tensor = torch.empty(layout.shape, dtype=dtype[layout.itemsize], device="meta")
        self._address = address
        self.shape = self._tensor.shape
        self.stride = self._tensor.stride
        self.element_size = self._tensor.element_size

    def data_ptr(self) -> int:
        return self._address


def _assigned(method: Any, attribute: str) -> Any:
    """The compiled expression that the method assigns to ``self.<attribute>``.

    Raises:
        TargetError: it assigns none.
    """
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(method)))):
        if isinstance(node, ast.Assign) and any(
            ast.unparse(target) == f"self.{attribute}" for target in node.targets
        ):
            return compile(ast.Expression(node.value), inspect.getfile(method), "eval")
    raise TargetError(f"ATOM's {method.__qualname__} sets no {attribute}")
