"""RDMA devices and their ports, as the kernel shows them.

Linux, Documentation/ABI/stable/sysfs-class-infiniband: below
``/sys/class/infiniband/<device>/ports/<port>/``, ``state`` is such as ``4: ACTIVE``, ``rate`` such
as ``200 Gb/sec (4X HDR)``, ``link_layer`` is ``InfiniBand`` or ``Ethernet`` (RoCE).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Port:
    """Attributes are the kernel's words; empty where it does not tell."""

    number: int
    state: str
    link_layer: str
    rate: str

    @property
    def active(self) -> bool:
        return self.state == "ACTIVE"


@dataclass(frozen=True)
class Device:
    name: str
    ports: tuple[Port, ...] = ()

    @property
    def usable(self) -> bool:
        """Some port is active, or the kernel tells of none."""
        return not self.ports or any(port.active for port in self.ports)


def devices(root: Path = Path("/")) -> tuple[Device, ...]:
    """In the order of their names."""
    folder = root / "sys/class/infiniband"
    if not folder.is_dir():
        return ()
    return tuple(Device(path.name, _ports(path / "ports")) for path in sorted(folder.iterdir()))


def _ports(folder: Path) -> tuple[Port, ...]:
    if not folder.is_dir():
        return ()
    numbers = sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())
    return tuple(
        Port(
            number,
            state=_text(folder / f"{number}/state").rpartition(":")[2].strip(),
            link_layer=_text(folder / f"{number}/link_layer"),
            rate=_text(folder / f"{number}/rate"),
        )
        for number in numbers
    )


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:  # not given to this container, or not kept by this driver
        return ""
