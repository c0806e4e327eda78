"""An engine's senders or receivers, stepped as SGLang's queues do. In a forked process only."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from sglang.srt.disaggregation.base.conn import KVPoll
from sglang.srt.disaggregation.common.conn import KVTransferError
from sglang.srt.disaggregation.utils import KVClassType
from sglang.srt.environ import envs

from pd_testkit.contract import Role, RoomState, WorkerSpec
from pd_testkit.targets.sglang.engine import Engine, indices
from pd_testkit.targets.sglang.tries import Tries

_STATES = {
    KVPoll.Failed: RoomState.FAILED,
    KVPoll.Bootstrapping: RoomState.BOOTSTRAPPING,
    KVPoll.WaitingForInput: RoomState.WAITING_FOR_INPUT,
    KVPoll.Transferring: RoomState.TRANSFERRING,
    KVPoll.Success: RoomState.SUCCESS,
}


class SendingSide:
    """P: as `PrefillBootstrapQueue` and the prefill scheduler's in-flight queue."""

    def __init__(
        self,
        backend: str,
        spec: WorkerSpec,
        memory: str,
        port: int,
        environment: dict[str, str],
    ) -> None:
        os.environ.update(environment)
        self._engine = Engine(Role.PRODUCER, backend, spec, memory, port)
        self._senders: dict[int, Any] = {}

    def bootstrap(self) -> str:
        return self._engine.bootstrap

    def side_channel(self) -> str:
        return self._engine.side_channel

    def open(self, room: int) -> None:
        sender = self._engine.kind(KVClassType.SENDER)
        self._senders[room] = sender(
            mgr=self._engine.manager,
            bootstrap_addr=self._engine.bootstrap,
            bootstrap_room=room,
        )

    def prefix(self, room: int) -> int:
        """Tokens at the prompt's start that D does not want. Asked once."""
        return int(self._senders[room].pop_decode_prefix_len())

    def announce(self, room: int, pages: int, aux_slot: int) -> None:
        self._senders[room].init(pages, aux_slot)

    def send(self, room: int, pages: Sequence[int]) -> None:
        self._senders[room].send(indices(pages))

    def poll(self, room: int) -> RoomState:
        return _STATES[self._senders[room].poll()]

    def failure(self, room: int) -> str:
        return _failure(self._senders[room])

    def abort(self, room: int) -> None:
        self._senders[room].abort()

    def clear(self, room: int) -> None:
        sender = self._senders[room]
        if sender.poll() == KVPoll.Failed:
            _failure(sender)
        sender.clear()

    def close(self) -> None:
        self._engine.server.close()


class ReceivingSide:
    """D: as `DecodePreallocQueue` and `DecodeTransferQueue`."""

    def __init__(
        self,
        backend: str,
        spec: WorkerSpec,
        memory: str,
        port: int,
        environment: dict[str, str],
    ) -> None:
        os.environ.update(environment)
        self._engine = Engine(Role.CONSUMER, backend, spec, memory, port)
        self._receivers: dict[int, Any] = {}
        self._strangers: dict[int, str] = {}
        """Rooms whose receiver does not know P's workers yet, and the bootstrap server that it
        turns to."""
        self._tries = Tries(spec.patience_s)
        self._placed: set[int] = set()
        """Rooms whose receiver has said where."""
        self._held_until: dict[int, float] = {}
        """When a failed room's pages are given back without P's word, on the monotonic clock."""

    def side_channel(self) -> str:
        return self._engine.side_channel

    def open(self, room: int) -> None:
        self.open_at(room, self._engine.bootstrap)

    def open_at(self, room: int, bootstrap: str) -> None:
        """A receiver of what the engine with that bootstrap server sends."""
        receiver = self._engine.kind(KVClassType.RECEIVER)
        self._receivers[room] = receiver(
            mgr=self._engine.manager, bootstrap_addr=bootstrap, bootstrap_room=room
        )
        self._strangers[room] = bootstrap
        self._placed.discard(room)
        self._held_until.pop(room, None)

    def receive(
        self, room: int, pages: Sequence[int], aux_slot: int, prefix: int | None = None
    ) -> None:
        """
        Args:
            prefix: tokens at the prompt's start that D has already.
        """
        self._placed.add(room)
        self._receivers[room].send_metadata(indices(pages), aux_slot, decode_prefix_len=prefix)

    def poll(self, room: int) -> RoomState:
        receiver = self._receivers[room]
        if room in self._strangers and receiver.poll() == KVPoll.Bootstrapping:
            self._introduce(room)
        return _STATES[receiver.poll()]

    def _introduce(self, room: int) -> None:
        """As `DecodePreallocQueue._resolve_pending_reqs`."""
        peer, now = self._strangers[room], time.monotonic()
        if not self._tries.due(peer, now):
            return
        if self._engine.manager.try_ensure_parallel_info(peer):
            self._tries.forget(peer)
            del self._strangers[room]
            self._receivers[room].init(0)
        elif self._tries.was_last(peer, now):
            for waiting in [each for each, theirs in self._strangers.items() if theirs == peer]:
                self.abort(waiting)

    def failure(self, room: int) -> str:
        return _failure(self._receivers[room])

    def quiet(self, room: int) -> bool:
        """As `DecodeTransferQueue.pop_transferred` holds a failed request's pages back."""
        receiver, manager = self._receivers[room], self._engine.manager
        if receiver.poll() != KVPoll.Failed:
            return False
        if room not in self._placed or not manager.enable_deferred_decode_kv_release:
            return True
        receiver.ensure_abort_notified(force_arm=True)
        if not receiver.abort_notified:
            return True
        return bool(manager.is_abort_release_safe(room, len(receiver.bootstrap_infos)))

    def released(self, room: int) -> bool:
        """As `quiet`, or its time is up, as `DecodeTransferQueue.resolve_deferred_releases`."""
        if self.quiet(room):
            return True
        limit = envs.SGLANG_DISAGGREGATION_DEFERRED_DECODE_KV_RELEASE_TIMEOUT.get()
        return time.monotonic() >= self._held_until.setdefault(room, time.monotonic() + limit)

    def abort(self, room: int) -> None:
        self._strangers.pop(room, None)
        self._receivers[room].abort()

    def clear(self, room: int) -> None:
        self._strangers.pop(room, None)
        receiver = self._receivers[room]
        if receiver.poll() == KVPoll.Failed:
            _failure(receiver)
            self._engine.manager.clear_deferred_abort_state(room)
        receiver.clear()


def _failure(end: Any) -> str:
    """What SGLang's schedulers ask a failed end for; it then forgets the room."""
    try:
        end.failure_exception()
    except KVTransferError as error:
        return str(error.failure_reason)
    return ""
