"""What this machine has that L3 needs, read from ``/sys`` and ``/dev`` without any driver."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Hardware:
    """RDMA devices by name, and the number of GPUs."""

    rdma: tuple[str, ...] = ()
    gpus: int = 0

    def __str__(self) -> str:
        rdma = f"RDMA {', '.join(self.rdma)}" if self.rdma else "no RDMA"
        gpus = f"{self.gpus} GPU{'s' * (self.gpus > 1)}" if self.gpus else "no GPU"
        return f"{rdma}, {gpus}"

    def lacks(self, *, rdma: bool, gpus: int) -> str:
        """What of the needed is not there, in words; empty when all is."""
        missing = []
        if rdma and not self.rdma:
            missing.append("an RDMA device (none in /sys/class/infiniband)")
        if gpus > self.gpus:
            missing.append(f"{gpus} GPU{'s' * (gpus > 1)} ({self.gpus} found)")
        return " and ".join(missing)


def detect(root: Path = Path("/")) -> Hardware:
    """The hardware under `root`.

    NVIDIA GPUs are ``/dev/nvidia<n>``; AMD GPUs are the nodes of
    ``/sys/class/kfd/kfd/topology/nodes`` with a ``gpu_id`` other than 0, when ``/dev/kfd`` is
    there (without it a container sees the nodes but cannot use them).
    """
    infiniband = root / "sys/class/infiniband"
    rdma = sorted(path.name for path in infiniband.iterdir()) if infiniband.is_dir() else []
    gpus = sum(bool(re.fullmatch(r"nvidia\d+", p.name)) for p in (root / "dev").glob("nvidia*"))
    if (root / "dev/kfd").exists():
        nodes = (root / "sys/class/kfd/kfd/topology/nodes").glob("*/gpu_id")
        gpus += sum(_is_gpu(node) for node in nodes)
    return Hardware(tuple(rdma), gpus)


def _is_gpu(gpu_id: Path) -> bool:
    try:
        return gpu_id.read_text().strip() not in ("", "0")
    except PermissionError:  # a GPU that this container was not given
        return False
