"""What the workers of a decode engine load in one step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TICKET = ("engine", "host", "http_port", "channel_port", "blocks")
"""What a ticket, P's ``kv_transfer_params``, is made of."""


@dataclass(frozen=True)
class Load:
    """One prompt's KV: from P's blocks into our own, in prompt order."""

    engine: str
    host: str
    http_port: int
    channel_port: int
    blocks: tuple[int, ...]
    into: tuple[int, ...]


class Plan:
    """Request id to its load."""

    def __init__(self) -> None:
        self.loads: dict[str, Load] = {}

    def add(self, request: str, into: Sequence[int], ticket: Mapping[str, Any]) -> None:
        """Load what the ticket is for.

        Raises:
            KeyError: the ticket lacks something; its name.
        """
        known = {name: ticket[name] for name in TICKET}
        known["blocks"] = tuple(known["blocks"])
        self.loads[request] = Load(**known, into=tuple(into))
