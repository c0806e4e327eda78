"""Memory that was freed is taken again without the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PAGES = (1 << 20) // 4096
"""Of one array."""
CODE = """
import resource
import numpy as np
from pd_testkit.engine.memory import keep_freed

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def touch():
    np.ones(1 << 20, np.uint8)
    before = faults()
    for _ in range(20):
        np.ones(1 << 20, np.uint8) + np.ones(1 << 20, np.uint8)
    return faults() - before

print(touch(), keep_freed(), touch())
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="not applicable: the C library is not glibc"
)
def test_freed_memory_stays() -> None:
    told = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    before, kept, after = told.stdout.split()
    assert kept == "True"
    # Sixty arrays; the heap may have to grow for the first three that are there at once.
    assert int(after) <= 3 * PAGES < 30 * PAGES < int(before), (before, after)
