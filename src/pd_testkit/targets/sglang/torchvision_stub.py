"""What SGLang's modules take from torchvision when they are imported. In a child only.

SGLang needs it for its image processors, of which none runs here, and its wheels are tied to one
build of torch each.
"""

from __future__ import annotations

import enum
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType


class InterpolationMode(enum.Enum):
    """By name only."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"


def install() -> None:
    """Put it in place where torchvision is not installed."""
    if importlib.util.find_spec("torchvision") is not None:
        return
    # It remembers the answer, and then does without.
    from transformers.utils.import_utils import is_torchvision_available

    is_torchvision_available()
    for name in ("", ".transforms", ".transforms.functional"):
        module = ModuleType(f"torchvision{name}")
        module.__spec__ = ModuleSpec(module.__name__, None, is_package=True)
        module.__path__ = []
        if name:
            module.__dict__["InterpolationMode"] = InterpolationMode
        sys.modules[module.__name__] = module
