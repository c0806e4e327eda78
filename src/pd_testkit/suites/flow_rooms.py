"""Rooms in which a P and a D that were asked at once meet, as SGLang's do at P's bootstrap server.

The request of each names the server and a room there. P computes, or fails, when D has come; D has
the KV when P's answer is whole, and none if P leaves before that. A P that does neither leaves D
waiting, in SGLang for 300 seconds. Used by the engines' thread only.

Source: SGLang's prefill.py and decode.py of ``srt/disaggregation``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from pd_testkit.contract import Instance, Role
from pd_testkit.suites.flow_ledger import Ledger

_NAMES = ("bootstrap_host", "bootstrap_port", "bootstrap_room")

HandOff = Mapping[str, Any]


class Room:
    """One request's."""

    def __init__(self) -> None:
        self.sent_here: set[Role] = set()
        """Whose request named this room."""
        self._come = asyncio.Event()
        self._done = asyncio.Event()
        self._d_has_left = False
        self._kv: HandOff | None = None

    async def met(self) -> bool:
        """P's side: waits for D. False: it has left."""
        await self._come.wait()
        return not self._d_has_left

    async def kv(self) -> HandOff | None:
        """D's side: comes, and waits for P's KV. None: P has failed."""
        self._come.set()
        await self._done.wait()
        return self._kv

    def send(self, hand_off: HandOff) -> bool:
        """P's side: its KV is there to be taken. False: D has left."""
        if not self._d_has_left:
            self._kv = hand_off
        self._done.set()
        return not self._d_has_left

    def leave(self, role: Role) -> None:
        """That side's request is over, in whatever way, and the other side learns of it."""
        if role is Role.PRODUCER:
            self._done.set()
        else:
            self._d_has_left = True
            self._come.set()


class Rooms:
    """The rooms of all P engines of one test."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._rooms: dict[tuple[Any, ...], Room] = {}
        self._serving: dict[tuple[Any, ...], bool] = {}
        """P's bootstrap servers."""

    def open(self, p: Instance) -> None:
        """P serves."""
        self._serving[_address(p)] = True

    def close(self, p: Instance) -> None:
        """P is dead, and nobody will come to meet a D there."""
        self._serving[_address(p)] = False
        for key, room in self._rooms.items():
            if key[:2] == _address(p):
                room.leave(Role.PRODUCER)

    def enter(self, engine: Instance, raw: bytes) -> Room | None:
        """The room to which that engine's request is sent. None: to none."""
        body = json.loads(raw) if b'"bootstrap_room"' in raw else {}
        if body.get("bootstrap_room") is None:
            return None
        # A list of them, one per prompt, for a batch: these go together.
        host, port, room = (body.get(name) for name in _NAMES)
        key = (_first(host), _first(port), str(room))
        found = self._rooms.setdefault(key, Room())
        place = f"room {key[2]} at {key[0]}:{key[1]}"
        if engine.role in found.sent_here:
            self._ledger.fault(f"two requests to a {engine.role} were sent to {place}")
        if engine.role is Role.PRODUCER and key[:2] != _address(engine):
            self._ledger.fault(f"P {engine.url} was sent to {place}, which is not its own")
        if engine.role is Role.CONSUMER and not self._serving.get(key[:2], False):
            if key[:2] not in self._serving:
                self._ledger.fault(f"D was sent to {place}, where no P is")
            found.leave(Role.PRODUCER)
        found.sent_here.add(engine.role)
        return found


def _address(p: Instance) -> tuple[Any, ...]:
    return "127.0.0.1", p.bootstrap_port


def _first(said: Any) -> Any:
    return said[0] if isinstance(said, list) else said
