"""This process's role, for code that no configuration reaches."""

from __future__ import annotations


class RoleHolder:
    """Holds the role; `holder` gives the process's one."""

    def __init__(self) -> None:
        self.role: str | None = None


_holder = RoleHolder()


def holder() -> RoleHolder:
    """The one holder. Made at import, so that no two threads can make it."""
    return _holder


def set_role(role: str | None) -> None:
    """Set ``producer`` or ``consumer``, for all threads; None: not decided."""
    holder().role = role


def role() -> str | None:
    """The role; None before it was set."""
    return holder().role
