"""What a command line says of the target: a name, a variant, and where to find it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pd_testkit.contract import TargetError


@dataclass(frozen=True)
class Choice:
    """A built-in target as it was asked for.

    Attributes:
        name: before the colon of ``--pd-target``.
        variant: behind it, such as a connector; empty for none.
        source: ``--pd-source``, a source tree.
        router: ``--pd-router``, a preset, a command or a URL.
    """

    name: str
    variant: str = ""
    source: Path | None = None
    router: str | None = None

    def takes(
        self, *, variants: Sequence[str] = (), source: bool = False, router: bool = False
    ) -> None:
        """Raises TargetError for what was given and the target has no use for.

        Args:
            variants: the names that it knows; the first is meant where none is given.
        """
        if self.variant and self.variant not in variants:
            known = f"choose of {', '.join(variants)}" if variants else "it has none"
            raise TargetError(f"the target {self.name} has no variant {self.variant!r}: {known}")
        if self.source is not None and not source:
            raise TargetError(f"the target {self.name} takes no --pd-source")
        if self.router is not None and not router:
            raise TargetError(f"the target {self.name} takes no --pd-router")
