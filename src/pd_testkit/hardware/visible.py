"""Which GPUs a process sees: CUDA_VISIBLE_DEVICES, and AMD's variables.

CUDA C++ Programming Guide, CUDA environment variables; ROCm, GPU isolation techniques: a list of
indices or of UUIDs, and what follows the first invalid one is not seen. ROCR_VISIBLE_DEVICES comes
before HIP_VISIBLE_DEVICES, which has indices of what is left; ROCm takes CUDA_VISIBLE_DEVICES where
the latter is not set.
"""

from __future__ import annotations

from collections.abc import Mapping

VARIABLES = {
    "cuda": ("CUDA_VISIBLE_DEVICES",),
    "rocm": ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"),
}
"""By platform, see `Gpu.platform`: by which a child sees fewer than its parent. The first that is
set counts."""
BEFORE = "ROCR_VISIBLE_DEVICES"
ANY = 2**16
"""A number of GPUs that no machine has."""
_UUIDS = ("GPU-", "MIG-")


def visible(platform: str, count: int, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Those that a process with this environment sees, as a child's variable names them.

    Args:
        count: GPUs of the platform that the machine has.
    """
    if platform == "rocm":
        count = len(_listed(environ.get(BEFORE), count))
    given = (environ[name] for name in VARIABLES[platform] if name in environ)
    return _listed(next(given, None), count)


def only(platform: str, index: int, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of a child that sees one only of those that a process with this environment
    sees: all that there are, as on AMD's some programs want that they are equal.

    Raises:
        IndexError: it sees fewer.
    """
    return dict.fromkeys(VARIABLES["rocm"], visible(platform, ANY, environ)[index])


def _listed(given: str | None, count: int) -> tuple[str, ...]:
    """What a variable names of so many; None: it is not set."""
    if given is None or not count:
        return tuple(map(str, range(count)))
    found: list[str] = []
    for entry in map(str.strip, given.split(",")):
        there = int(entry) < count if entry.isdecimal() else entry.startswith(_UUIDS)
        if not there:
            break
        found.append(entry)
    # CUDA shows none where one is there twice.
    return tuple(found) if len(set(found)) == len(found) else ()
