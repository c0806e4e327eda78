"""What tests need of a machine: by their markers, or by ``--pd-require``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from pd_testkit.hardware import Hardware, packages
from pd_testkit.hardware.gpu import Gpu


@dataclass(frozen=True)
class Needs:
    """
    Attributes:
        gpu_memory: GiB that each of the GPUs has at least.
        packages: names, and the least version or nothing.
    """

    rdma: bool = False
    gpus: int = 0
    gpu_memory: float = 0.0
    packages: tuple[tuple[str, str], ...] = ()

    def lacking(self, hardware: Hardware, gpus: Callable[[], tuple[Gpu, ...]]) -> str:
        """What is not there, in words; empty: nothing.

        Args:
            gpus: asked for only where their memory counts.
        """
        wanted = max(self.gpus, 1 if self.gpu_memory else 0)
        missing = []
        if lacks := hardware.lacks(rdma=self.rdma, gpus=wanted):
            missing.append(f"this machine lacks {lacks}")
        elif self.gpu_memory:
            told = gpus()
            enough = [gpu for gpu in told if (gpu.memory or 0) >= self.gpu_memory * 2**30]
            if len(enough) < wanted:
                sizes = ", ".join(f"{(gpu.memory or 0) / 2**30:.0f}" for gpu in told) or "none told"
                missing.append(
                    f"this machine lacks {wanted} GPU{'s' * (wanted > 1)} of {self.gpu_memory:g} "
                    f"GiB ({sizes})"
                )
        needed = sorted(set(self.packages))
        missing += [lack for name, least in needed if (lack := packages.lacks(name, least))]
        return ", and ".join(missing)


def parse(given: str) -> Needs:
    """Of the words of ``--pd-require``, such as ``rdma,gpus=2,gpu_memory=40,package=nixl>=1.0``.

    Raises:
        ValueError: a word is none of these.
    """
    rdma, gpus, memory, named = False, 0, 0.0, []
    for word in (each.strip() for each in given.split(",")):
        if word == "rdma":
            rdma = True
        elif told := re.fullmatch(r"gpus=0*([1-9]\d*)", word, re.ASCII):
            gpus = int(told[1])
        elif told := re.fullmatch(r"gpu_memory=(\d+(?:\.\d+)?)", word, re.ASCII):
            memory = float(told[1])
        elif told := re.fullmatch(r"package=([\w.-]+)(?:>=(\d+(?:\.\d+)*))?", word, re.ASCII):
            named.append((told[1], told[2] or ""))
        else:
            raise ValueError(
                f"{word!r} is not rdma, gpus=N, gpu_memory=GIB or package=NAME[>=VERSION]"
            )
    return Needs(rdma, gpus, memory, tuple(named))
