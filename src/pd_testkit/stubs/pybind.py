"""Enumerations as pybind11 makes them."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import cast


class PybindEnum(enum.Enum):
    """An enumeration that converts to int but, unlike ``IntEnum``, equals no int."""

    def __int__(self) -> int:
        return int(self.value)

    __index__ = __int__

    def __str__(self) -> str:
        return f"{type(self).__name__}.{self.name}"


def pybind_enum(module: str, name: str, members: Mapping[str, int]) -> type[PybindEnum]:
    """The `PybindEnum` called ``module.name``."""
    return cast("type[PybindEnum]", PybindEnum(name, dict(members), module=module))  # type: ignore[call-arg]
