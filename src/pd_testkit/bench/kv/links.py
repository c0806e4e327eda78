"""What links between engines can carry, one way, in bytes per second.

What is reached in practice is taken as 80 % of what is possible in theory, which is what large
transfers get of PCIe and Ethernet; loopback has no limit but memory's.
"""

from __future__ import annotations

from dataclasses import dataclass

GIGA = 1e9
PRACTICAL = 0.8
SLOW = 0.1
"""Of what is practical: less than that, and something else than the link takes the time."""


@dataclass(frozen=True)
class Link:
    """Attributes:
    theoretical: None where nothing but memory limits it.
    practical: from, and to.
    about: how it is calculated.
    """

    name: str
    theoretical: float | None
    practical: tuple[float, float]
    about: str

    @property
    def limit(self) -> float:
        """Nothing is faster."""
        return self.theoretical or self.practical[1]

    def carries(self, low: float, high: float) -> str:
        """Whether a bandwidth between these can be this link's: ``too fast``, ``plausible``,
        ``slow`` (less than half of what is practical) or ``much too slow``."""
        if low > self.limit:
            return "too fast"
        if high >= self.practical[0] / 2:
            return "plausible"
        return "slow" if high >= SLOW * self.practical[0] else "much too slow"


def _link(name: str, gigabytes: float, about: str) -> Link:
    theoretical = gigabytes * GIGA
    return Link(name, theoretical, (PRACTICAL * theoretical, PRACTICAL * theoretical), about)


LINKS = {
    link.name: link
    for link in (
        _link("10GbE", 1.25, "10 Gbit/s"),
        _link("25GbE", 3.125, "25 Gbit/s"),
        _link("100GbE", 12.5, "100 Gbit/s; InfiniBand EDR"),
        _link("200GbE", 25.0, "200 Gbit/s; InfiniBand HDR"),
        _link("400GbE", 50.0, "400 Gbit/s; InfiniBand NDR"),
        _link("PCIe4", 16 * 16 * 128 / 130 / 8, "PCIe 4.0 x16: 16 lanes x 16 GT/s x 128/130"),
        _link("PCIe5", 16 * 32 * 128 / 130 / 8, "PCIe 5.0 x16: 16 lanes x 32 GT/s x 128/130"),
        _link("xGMI", 64.0, "AMD Infinity Fabric, MI300X: one link of 7"),
        _link("NVLink3", 300.0, "A100: 12 links x 25 GB/s"),
        _link("NVLink4", 450.0, "H100, H200: 18 links x 25 GB/s"),
        _link("NVLink5", 900.0, "B200: 18 links x 50 GB/s"),
        Link("loopback", None, (10 * GIGA, 50 * GIGA), "one machine, limited by memory"),
    )
}


def fits(low: float, high: float) -> list[Link]:
    """Of which a bandwidth between these is plausible."""
    return [link for link in LINKS.values() if link.carries(low, high) == "plausible"]


def told(bytes_per_second: float) -> str:
    """In decimal units, with three digits."""
    for unit, size in (("GB/s", 1e9), ("MB/s", 1e6), ("kB/s", 1e3)):
        if bytes_per_second >= size:
            return f"{bytes_per_second / size:.3g} {unit}"
    return f"{bytes_per_second:.3g} B/s"
