"""What this machine has that the layers of tests need.

`detect` is cheap: it reads ``/sys`` and ``/dev``, and is all that a run without L3 tests pays for.
`pd_testkit.hardware.machine.survey` also asks drivers' commands.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pd_testkit.hardware import kfd, rdma


@dataclass(frozen=True)
class Hardware:
    """Names of the RDMA devices that can be used and of those whose ports are all down, and the
    number of GPUs."""

    rdma: tuple[str, ...] = ()
    gpus: int = 0
    down: tuple[str, ...] = ()

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
            missing.append(f"{gpus} GPU{'s' * (gpus > 1)} ({self.gpus} found)")
        return " and ".join(missing)


_NONE = "none in /sys/class/infiniband"


def detect(root: Path = Path("/")) -> Hardware:
    """The hardware under `root`: NVIDIA GPUs are ``/dev/nvidia<n>``; AMD GPUs as in `kfd`."""
    devices = rdma.devices(root)
    nvidia = sum(bool(re.fullmatch(r"nvidia\d+", p.name)) for p in (root / "dev").glob("nvidia*"))
    return Hardware(
        rdma=tuple(device.name for device in devices if device.usable),
        gpus=nvidia + len(kfd.gpus(root)),
        down=tuple(device.name for device in devices if not device.usable),
    )
