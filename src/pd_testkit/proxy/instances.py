"""The engines that are there: static ones, and those that said hello."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal
from urllib.parse import urlsplit

from pd_testkit.proxy.breaker import Breaker

Leg = Literal["prefill", "decode"]


def address(url: str) -> tuple[str, int]:
    """Host and port of an engine's URL; an IPv6 host comes without its brackets.

    Raises:
        ValueError: the URL lacks one of them, or the port is none.
    """
    parts = urlsplit(url)
    if not parts.hostname or not parts.port:
        raise ValueError(f"{url!r} is no URL with a host and a port")
    return parts.hostname, parts.port


@dataclass(frozen=True)
class Engine:
    """An engine as it registered."""

    leg: Leg
    url: str
    """``http://host:port``."""
    protocol: str = ""
    """Of `pd_testkit.proxy.protocols`; empty: found out from the other fields."""
    transfer_mode: str = "read"
    """``read``: D fetches the KV. ``write``: P sends it."""
    dp_size: int = 1
    tp_size: int = 1
    handshake_port: int = 0
    """0: unknown."""
    zmq_address: str = ""
    """Where its connector listens: ``host:port``, or MoRIIO's
    ``host:IP,handshake:PORT,notify:PORT``."""
    static: bool = False
    """Named at the start: it sends no heartbeats and never expires."""
    heartbeat: int = field(default=0, compare=False)
    """The sequence number of the registration."""


def protocol_of(engine: Engine, default: str = "") -> str:
    """The engine's protocol: as it says, or as the default, or as its registration shows.

    A plain ZMQ address is P2P-NCCL's; a handshake port, in a field of its own or in the address,
    is MoRIIO's. Empty: nothing shows it, and P's answer will.
    """
    if engine.protocol or default:
        return engine.protocol or default
    if engine.zmq_address:
        return "moriio" if "handshake:" in engine.zmq_address else "p2p_nccl"
    return "moriio" if engine.handshake_port else ""


class Instance:
    """An engine, and the proxy's book on it."""

    __slots__ = (
        "breaker",
        "dp_turn",
        "engine",
        "in_flight",
        "misses",
        "protocol",
        "queued_tokens",
        "seen_at",
        "turn",
    )

    def __init__(self, engine: Engine, protocol: str, breaker: Breaker, now: float) -> None:
        self.engine = engine
        self.protocol = protocol
        self.breaker = breaker
        self.seen_at = now
        """Of the last heartbeat; seconds."""
        self.in_flight = 0
        """Requests that hold a place here."""
        self.queued_tokens = 0
        """Prompt tokens that wait to be prefilled here, or are."""
        self.turn = 0
        """The number of the last choice that fell on it, of all choices; 0: never."""
        self.dp_turn = 0
        """Requests that were given a DP rank."""
        self.misses = 0
        """Health checks in a row that it failed."""

    def next_dp_rank(self) -> int:
        """The ranks have a turn of their own per engine, or they would follow its index."""
        rank = self.dp_turn % self.engine.dp_size
        self.dp_turn += 1
        return rank


class Registry:
    """Who is there, in the order of their first registration.

    Args:
        lifetime_s: an instance that is not static leaves so many seconds after its last
            heartbeat.
        breaker_threshold, breaker_cool_down_s: as for `Breaker`.
        protocol: of engines that do not say theirs; empty: detected.
    """

    def __init__(
        self,
        lifetime_s: float = 15.0,
        breaker_threshold: int = 5,
        breaker_cool_down_s: float = 10.0,
        protocol: str = "",
    ) -> None:
        self._lifetime_s = lifetime_s
        self._protocol = protocol
        self._breaker_threshold = breaker_threshold
        self._breaker_cool_down_s = breaker_cool_down_s
        self._instances: dict[Leg, dict[str, Instance]] = {"prefill": {}, "decode": {}}

    def register(self, engine: Engine, now: float) -> bool:
        """Take an engine in, or its newer record in its place; False if nothing changed.

        A changed record is that of an engine that started anew: the book on it starts anew, too.

        Raises:
            ValueError: its transfer mode is not that of the engines that are there, its URL has
                no host and port, it has no DP rank, or P2P-NCCL could not find it.
        """
        address(engine.url)
        protocol = protocol_of(engine, self._protocol)
        if engine.dp_size < 1:
            raise ValueError(f"{engine.url} has {engine.dp_size} DP ranks")
        if protocol == "p2p_nccl" and not engine.zmq_address:
            raise ValueError(f"{engine.url} has no ZMQ address, by which P2P-NCCL finds it")
        instances = self._instances[engine.leg]
        known = instances.get(engine.url)
        if known is not None and known.engine.static:
            engine = replace(engine, static=True)
        if known is not None and known.engine == engine:
            known.engine = engine
            known.seen_at = now
            return False
        modes = {other.engine.transfer_mode for other in self._others(engine.url)}
        if modes - {engine.transfer_mode}:
            raise ValueError(
                f"{engine.url} moves its KV by {engine.transfer_mode!r}, the others by {modes}"
            )
        breaker = Breaker(self._breaker_threshold, self._breaker_cool_down_s)
        instances[engine.url] = Instance(engine, protocol, breaker, now)
        return True

    def unregister(self, leg: Leg, url: str) -> None:
        """Forget an engine; requests under way go on."""
        self._instances[leg].pop(url, None)

    def expire(self, now: float) -> tuple[Engine, ...]:
        """Forget the instances whose heartbeats have ceased, and say which."""
        gone = [
            instance.engine
            for instances in self._instances.values()
            for instance in instances.values()
            if not instance.engine.static and now - instance.seen_at > self._lifetime_s
        ]
        for engine in gone:
            self.unregister(engine.leg, engine.url)
        return tuple(gone)

    def engines(self, leg: Leg) -> tuple[Engine, ...]:
        """Of that leg."""
        return tuple(instance.engine for instance in self._instances[leg].values())

    def instances(self, leg: Leg) -> list[Instance]:
        """Of that leg."""
        return list(self._instances[leg].values())

    def _others(self, url: str) -> list[Instance]:
        return [
            instance
            for instances in self._instances.values()
            for instance in instances.values()
            if instance.engine.url != url
        ]
