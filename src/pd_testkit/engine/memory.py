"""How this process has its memory."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of glibc's ``malloc.h``."""
_KEPT = 1 << 30
_LARGEST = 32 << 20
"""More is refused."""


def keep_freed() -> bool:
    """Have the C library keep memory that was freed, whether it can.

    It gives arrays of more than 128 KiB back to the system otherwise, and takes them anew: pages
    that the system has to find and to clear, half of a step's time with 16 answers under way.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:  # no glibc
        return False
    return bool(set_option(_TRIM_THRESHOLD, _KEPT) and set_option(_MMAP_THRESHOLD, _LARGEST))
