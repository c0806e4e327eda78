"""What engines tell the whole fabric, by name: where they listen, what they have registered."""

from __future__ import annotations

Published = tuple[str | int, ...]
"""Plain values, which travel to other processes."""


class Directory:
    """Names with the engine that has each, and what it says. An engine's names end with it."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[str, Published]] = {}

    def add(self, engine: str, name: str, value: Published) -> bool:
        """False: the name is taken."""
        if name in self._entries:
            return False
        self._entries[name] = engine, value
        return True

    def remove(self, engine: str, name: str) -> None:
        if self._entries.get(name, ("",))[0] == engine:
            del self._entries[name]

    def find(self, name: str) -> Published | None:
        entry = self._entries.get(name)
        return None if entry is None else entry[1]

    def forget(self, engine: str) -> None:
        """The engine is gone."""
        self._entries = {name: e for name, e in self._entries.items() if e[0] != engine}
