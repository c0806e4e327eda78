"""The connector's half in the scheduler of either engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toy_connector.plan import Plan


@dataclass(frozen=True)
class Engine:
    """Where this engine is."""

    name: str
    host: str
    http_port: int
    channel_port: int
    block_size: int
    """Tokens per KV block."""


class Scheduler:
    """On P it writes tickets; on D it plans a load for each ticket."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._plan = Plan()
        self._planned: set[str] = set()

    def remote_tokens(self, request: str, prompt: int, ticket: Mapping[str, Any] | None) -> int:
        """How many of the prompt's tokens will be loaded."""
        return prompt if ticket is not None and request not in self._planned else 0

    def assigned(
        self, request: str, blocks: Sequence[int], ticket: Mapping[str, Any] | None
    ) -> None:
        """The engine gave the request its blocks."""
        if ticket is not None and request not in self._planned:
            self._plan.add(request, blocks, ticket)
            self._planned.add(request)

    def take_plan(self) -> Plan:
        """This step's loads; the next plan starts empty."""
        plan, self._plan = self._plan, Plan()
        return plan

    def ended(self, request: str) -> None:
        """The request is no more, and its id may come again."""
        self._planned.discard(request)

    def ticket(self, prompt: int, blocks: Sequence[int]) -> dict[str, Any]:
        """For D to fetch a prompt of so many tokens, which lies at the start of these blocks."""
        used = -(-prompt // self._engine.block_size)
        return {
            "engine": self._engine.name,
            "host": self._engine.host,
            "http_port": self._engine.http_port,
            "channel_port": self._engine.channel_port,
            "blocks": list(blocks[:used]),
        }
