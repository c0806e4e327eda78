"""How the network behaves by chance: each field with its unit and distribution."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, fields

from pd_testkit.fabric import faults


@dataclass(frozen=True, kw_only=True)
class FabricOptions:
    """The defaults are a healthy 400 Gb/s network that keeps order and loses nothing.

    A probability is drawn once per transfer (per handshake for `handshake_failure_probability`),
    from the fabric's seed. What it draws is one of the faults in `pd_testkit.fabric.faults`,
    which says what it does; a fault of the plan wins over a drawn one of its kind.
    """

    latency_min: float = 2e-6
    """Seconds, the floor of the latency of one transfer."""
    latency_mean: float = 5e-6
    """Seconds. Latency is `latency_min` plus an exponential with what remains of the mean."""
    bandwidth: float = 50e9
    """Bytes per second from one engine to another; a pair's transfers queue for it. ``inf``: no
    limit."""
    retry_timeout: float = 0.5
    """Seconds until the initiator knows that a peer does not answer (a lost or dead one), as a
    reliable RDMA connection's retries do."""

    delay_probability: float = 0.0
    """`faults.Delay`."""
    delay_mean: float = 1e-3
    """Seconds, exponential."""
    reorder_probability: float = 0.0
    """`faults.Reorder`."""
    reorder_mean: float = 1e-4
    """Seconds, exponential: how long the transfer is held back while later ones pass it."""
    drop_probability: float = 0.0
    """`faults.Drop`."""
    hang_probability: float = 0.0
    """`faults.Hang`."""
    fail_probability: float = 0.0
    """`faults.Fail`, on completion."""
    partial_probability: float = 0.0
    """`faults.Partial`; the fraction that arrives is uniform in [0, 1)."""
    corrupt_probability: float = 0.0
    """`faults.Corrupt`, of a byte chosen uniformly."""
    early_probability: float = 0.0
    """`faults.EarlyCompletion`."""
    early_mean: float = 1e-3
    """Seconds, exponential: how long after the notice the bytes arrive."""
    duplicate_probability: float = 0.0
    """`faults.DuplicateNotification`, at once."""
    lost_notification_probability: float = 0.0
    """`faults.LostNotification`."""
    handshake_failure_probability: float = 0.0
    """`faults.HandshakeFailure`."""

    poll_advances: bool = True
    """Asking a pending transfer for its status, or an engine for a notification that has not come,
    runs the clock's next event after the answer was taken. So a loop that spins on a status, as it
    would on hardware, ends, and still sees "in progress" first. Without it only `VirtualClock`'s
    own methods or a `RealTimeDriver` move time. Off while the clock is driven."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_probability") and not 0 <= value <= 1:
                raise ValueError(f"{field.name} is {value}: a probability lies in [0, 1]")
            if field.name.endswith(("_mean", "_min", "_timeout")) and not 0 <= value < math.inf:
                raise ValueError(f"{field.name} is {value}: a time in seconds, 0 or above")
        if self.latency_mean < self.latency_min:
            raise ValueError(
                f"latency_mean {self.latency_mean} is below latency_min {self.latency_min}"
            )
        if not self.bandwidth > 0:
            raise ValueError(f"bandwidth is {self.bandwidth}: it must be above 0 bytes/s")

    def latency(self, rng: random.Random) -> float:
        """One transfer's latency in seconds."""
        return self.latency_min + _exponential(rng, self.latency_mean - self.latency_min)

    def transfer_faults(self, rng: random.Random) -> list[faults.Fault]:
        """What chance does to one transfer. What cannot happen takes nothing from ``rng``."""
        chances: tuple[tuple[float, Callable[[], faults.Fault]], ...] = (
            (self.delay_probability, lambda: faults.Delay(_exponential(rng, self.delay_mean))),
            (
                self.reorder_probability,
                lambda: faults.Reorder(_exponential(rng, self.reorder_mean)),
            ),
            (self.drop_probability, faults.Drop),
            (self.hang_probability, faults.Hang),
            (self.fail_probability, faults.Fail),
            (self.partial_probability, lambda: faults.Partial(rng.random())),
            (self.corrupt_probability, faults.Corrupt),
            (
                self.early_probability,
                lambda: faults.EarlyCompletion(_exponential(rng, self.early_mean)),
            ),
            (self.duplicate_probability, faults.DuplicateNotification),
            (self.lost_notification_probability, faults.LostNotification),
        )
        return [fault() for chance, fault in chances if chance and rng.random() < chance]

    def handshake_faults(self, rng: random.Random) -> list[faults.Fault]:
        """What chance does to one handshake."""
        chance = self.handshake_failure_probability
        return [faults.HandshakeFailure()] if chance and rng.random() < chance else []


def _exponential(rng: random.Random, mean: float) -> float:
    return rng.expovariate(1.0) * mean
