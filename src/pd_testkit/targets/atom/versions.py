"""Which ATOM a tree holds, told by the modules and names that are in it."""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace
from pathlib import Path

from pd_testkit.contract import Capabilities, TargetError, Unit

DISAGGREGATION = "atom.kv_transfer.disaggregation"

_PROXY_UNITS = {Unit.PROXY, Unit.DISCOVERY, Unit.FLOW, Unit.ROUTER}


@dataclass(frozen=True)
class Version:
    """Where one ATOM keeps what the drivers speak to.

    Attributes:
        shape: what people call it.
        stubs: packages that its import needs stand-ins for.
        connector: module of both halves of the MoRI-IO connector.
        worker, scheduler: the class of each half, in `connector`.
        roles: module of the process's role, of the pages and of the port offset.
        chunks: module and name of the function that cuts a cache for registration.
        required_params: ``kv_transfer_params`` without which a read cannot be described.
        capabilities: what it means to support.
        has_proxy: it brings a router of its own, ``proxy.py``; else the mesh router, which is no
            Python, stands between P and D.
    """

    shape: str
    stubs: tuple[str, ...]
    connector: str
    worker: str
    scheduler: str
    roles: str
    chunks: tuple[str, str]
    required_params: tuple[str, ...]
    capabilities: Capabilities
    has_proxy: bool = False

    @property
    def units(self) -> tuple[Unit, ...]:
        """What there is a driver for."""
        lacks = {Unit.POLLING} | (set() if self.has_proxy else _PROXY_UNITS)
        return tuple(unit for unit in Unit if unit not in lacks)


_COMMON = Capabilities(
    read_mode=True,
    mla=True,
    tp=True,
    dp=True,
    reset=True,
    preemption=True,
    prefix_cache=True,
    transfer_ids=True,
    transfer_id_map=True,
    save=True,
    fabric=True,
    head_replication=True,
    zmq_side_channel=True,
    async_loads=True,
    hand_off_blocks=True,
)

_PR253 = Version(
    shape="#253",
    stubs=("aiter", "mori"),
    connector=f"{DISAGGREGATION}.kv_transfer_engine",
    worker="KVConnector",
    scheduler="KVConnectorScheduler",
    roles=f"{DISAGGREGATION}.kv_transfer_engine",
    chunks=(f"{DISAGGREGATION}.kv_transfer_engine", "_chunk_tensor_for_rdma"),
    required_params=(
        "remote_block_ids",
        "remote_engine_id",
        "remote_host",
        "remote_port",
        "remote_handshake_port",
    ),
    capabilities=_COMMON,
)

_MORIIO = Version(
    shape="moriio package",
    stubs=("aiter", "mori", "triton"),
    connector=f"{DISAGGREGATION}.moriio.moriio_connector",
    worker="MoRIIOConnector",
    scheduler="MoRIIOConnectorScheduler",
    roles=f"{DISAGGREGATION}.moriio.moriio_common",
    chunks=(f"{DISAGGREGATION}.utils", "chunk_tensor_for_rdma"),
    # A read needs no more: the worker makes the engine id of host and handshake port.
    required_params=("remote_block_ids", "remote_host", "remote_handshake_port"),
    capabilities=_COMMON,
)


def detect(package: Path) -> Version:
    """The version of the ATOM package in that folder; nothing is imported.

    Raises:
        TargetError: it has no P/D disaggregation that this target knows.
    """
    for known in (_PR253, _MORIIO):
        if _file(package, known.connector).is_file():
            break
    else:
        raise TargetError(
            f"{package} has no P/D connector that the target 'atom' knows "
            f"(neither {_PR253.connector} nor {_MORIIO.connector})"
        )
    has_proxy = _file(package, f"{DISAGGREGATION}.proxy").is_file()
    defines = {
        "failure_reporting": _defines(
            package, f"{DISAGGREGATION}.types", "KVConnectorOutput", "failed_recving"
        ),
        "abort": _defines(
            package,
            "atom.model_engine.engine_utility",
            "EngineUtilityHandler",
            "_handle_abort_request",
        ),
        "chunked_prefill": _defines(
            package, "atom.model_engine.scheduler", "Scheduler", "_chunked_prefill_size"
        ),
        "choices": _defines(package, "atom.entrypoints.openai.protocol", "CompletionRequest", "n"),
        "transfer_modes": has_proxy,
        "registration_hello": has_proxy,
        "joining": has_proxy,
    }
    return replace(known, capabilities=replace(known.capabilities, **defines), has_proxy=has_proxy)


def _file(package: Path, module: str) -> Path:
    return package.parent.joinpath(*module.split(".")).with_suffix(".py")


def _defines(package: Path, module: str, owner: str, name: str) -> bool:
    """Whether the class ``owner`` of that module defines a method or a field of that name."""
    path = _file(package, module)
    if not path.is_file():
        return False
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == owner:
            return any(
                getattr(item, "name", None) == name
                or (isinstance(item, ast.AnnAssign) and ast.unparse(item.target) == name)
                for item in node.body
            )
    return False
