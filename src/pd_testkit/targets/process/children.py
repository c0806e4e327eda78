"""The child processes of a target, kept from one driver to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pd_testkit.targets.process.child import Child
from pd_testkit.targets.process.nursery import Nursery


class Children:
    """Children by name; each starts when it is first asked for, and again when it has died.

    To import an implementation takes seconds, so a child serves many drivers. One whose state a
    clause has spoiled is told to `end`.

    Args:
        environment: variables beside those of this process.
        imports: modules that the children share, imported once in a nursery that they are forked
            from; without any, each child is an interpreter of its own.
    """

    def __init__(
        self, environment: Mapping[str, str] | None = None, imports: Sequence[str] = ()
    ) -> None:
        self.environment = dict(environment or {})
        self._imports = imports
        self._nursery: Nursery | None = None
        self._children: dict[str, Child] = {}

    def get(self, name: str) -> Child:
        child = self._children.get(name)
        if child is None or not child.alive:
            self.end(name)
            child = self._children[name] = self.new(name)
        return child

    def new(self, name: str) -> Child:
        """One that is not kept: whoever asked for it closes it."""
        if self._imports and self._nursery is None:
            self._nursery = Nursery(self._imports, self.environment)
        return Child(name, self.environment, self._nursery)

    def end(self, name: str) -> None:
        """That one's process ends; the next `get` starts a new one."""
        if (child := self._children.pop(name, None)) is not None:
            child.close()

    def close(self) -> None:
        """End them all. Harmless twice."""
        for name in list(self._children):
            self.end(name)
        if self._nursery is not None:
            self._nursery.close()
            self._nursery = None
