"""What this machine has that the layers of tests need.

`detect` is cheap: it reads ``/sys`` and ``/dev``, and is all that a run without L3 tests pays for.
`pd_testkit.hardware.machine.survey` also asks drivers' commands.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pd_testkit.hardware import kfd, rdma
from pd_testkit.hardware.visible import visible


@dataclass(frozen=True)
class Hardware:
    """Names of the RDMA devices that can be used and of those whose ports are all down, and the
    number of GPUs: of those that this process sees, and of those hidden from it, see `visible`."""

    rdma: tuple[str, ...] = ()
    gpus: int = 0
    down: tuple[str, ...] = ()
    hidden: int = 0

    def __str__(self) -> str:
        rdma = f"RDMA {', '.join(self.rdma)}" if self.rdma else "no RDMA"
        gpus = f"{self.gpus} GPU{'s' * (self.gpus > 1)}" if self.gpus else "no GPU"
        return f"{rdma}, {gpus}"

    def lacks(self, *, rdma: bool, gpus: int) -> str:
        """What of the needed is not there, in words; empty when all is."""
        missing = []
        if rdma and not self.rdma:
            why = f"no port of {', '.join(self.down)} is up" if self.down else _NONE
            missing.append(f"an RDMA device ({why})")
        if gpus > self.gpus:
            hidden = f", {self.hidden} hidden by the environment" if self.hidden else ""
            missing.append(f"{gpus} GPU{'s' * (gpus > 1)} ({self.gpus} found{hidden})")
        return " and ".join(missing)


_NONE = "none in /sys/class/infiniband"


def detect(root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> Hardware:
    """The hardware under `root`: NVIDIA GPUs are ``/dev/nvidia<n>``; AMD GPUs as in `kfd`.

    Args:
        environ: says which of the GPUs are visible.
    """
    devices = rdma.devices(root)
    nvidia = sum(bool(re.fullmatch(r"nvidia\d+", p.name)) for p in (root / "dev").glob("nvidia*"))
    there = {"cuda": nvidia, "rocm": len(kfd.gpus(root))}
    seen = sum(len(visible(platform, count, environ)) for platform, count in there.items())
    return Hardware(
        rdma=tuple(device.name for device in devices if device.usable),
        gpus=seen,
        down=tuple(device.name for device in devices if not device.usable),
        hidden=max(0, sum(there.values()) - seen),  # a GPU may be seen as several of its parts
    )
