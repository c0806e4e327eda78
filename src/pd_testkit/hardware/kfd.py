"""AMD GPUs, their memory and the xGMI links between them, without a driver's command.

Linux, drivers/gpu/drm/amd/amdkfd/kfd_topology.c: a node of ``/sys/class/kfd/kfd/topology/nodes``
with a ``gpu_id`` other than 0 is a GPU. A memory bank's ``heap_type`` 1 (public) or 2 (private) is
of the GPU's own memory; an ``io_links`` entry of ``type`` 11 is xGMI.
"""

from __future__ import annotations

from pathlib import Path

from pd_testkit.hardware.gpu import Gpu

NODES = "sys/class/kfd/kfd/topology/nodes"
_OWN_HEAPS = (1, 2)
_XGMI = 11


def gpus(root: Path = Path("/")) -> tuple[Gpu, ...]:
    """None without ``/dev/kfd``: a container sees the nodes, but cannot use them."""
    numbers = _gpu_nodes(root)
    return tuple(
        Gpu(
            "rocm",
            index,
            _text(root / NODES / str(node) / "name") or "AMD GPU",
            _memory(root / NODES / str(node) / "mem_banks"),
        )
        for index, node in enumerate(numbers)
    )


def peers(root: Path = Path("/")) -> tuple[tuple[int, int], ...]:
    """Pairs of GPUs, by `Gpu.index`, the first of which reaches the second's memory over xGMI."""
    index = {node: number for number, node in enumerate(_gpu_nodes(root))}
    found = set()
    for node in index:
        for link in (root / NODES / str(node) / "io_links").glob("*/properties"):
            told = _properties(link)
            ends = told.get("node_from", -1), told.get("node_to", -1)
            if told.get("type") == _XGMI and all(end in index for end in ends):
                found.add((index[ends[0]], index[ends[1]]))
    return tuple(sorted(found))


def _gpu_nodes(root: Path) -> list[int]:
    if not (root / "dev/kfd").exists():
        return []
    files = (root / NODES).glob("*/gpu_id")
    return sorted(int(file.parent.name) for file in files if _text(file) not in ("", "0"))


def _memory(banks: Path) -> int | None:
    """Bytes; None where no bank tells."""
    told = [_properties(file) for file in banks.glob("*/properties")]
    own = [bank.get("size_in_bytes", 0) for bank in told if bank.get("heap_type") in _OWN_HEAPS]
    return sum(own) or None


def _properties(file: Path) -> dict[str, int]:
    pairs = (line.split() for line in _text(file).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:  # a GPU that this container was not given, or a file that its kernel has not
        return ""
