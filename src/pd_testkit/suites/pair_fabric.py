"""A run of a pair over the suite's fabric: its transfers are seen, held back and spoilt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Any

from pd_testkit.suites.pair_network import WatchedFabric
from pd_testkit.suites.pair_run import NAP, Order, Prompt, Run

if TYPE_CHECKING:
    from pd_testkit.contract import Capabilities, WorkerSpec
    from pd_testkit.contract.drivers import Pair
    from pd_testkit.fabric import Fabric, Fault


_LOOKS = 3
"""At what must not be reported, at least."""


class FabricRun(Run):
    """A pair under observation, and what its bytes move over.

    Args:
        reaction_s: real seconds after which what the workers do by themselves shows.
    """

    def __init__(
        self,
        pair: Pair,
        fabric: Fabric,
        prefill: Sequence[WorkerSpec],
        decode: WorkerSpec,
        can: Capabilities,
        deadline_s: float,
        reaction_s: float = 0.0,
    ) -> None:
        super().__init__(pair, WatchedFabric(fabric), prefill, decode, can, deadline_s)
        self.fabric = fabric
        self._transfers = 0
        self._reaction_s = reaction_s

    @property
    def is_idle(self) -> bool:
        """Nothing will happen on the fabric by itself."""
        return self.fabric.clock.next_due is None

    def post(self, prompt: Prompt, blocks: Sequence[int], **rest: Any) -> Order:
        """`fetch`, and all of its transfers are on their way, where nothing moves the clock."""
        transfers = self.transfers_of_a_load()
        want = self.fabric.counters.operations + transfers
        made = self.fetch(prompt, blocks, **rest)
        self.until(
            lambda: self.fabric.counters.operations == want,
            f"the transfers of {made.request_id} are on their way",
        )
        return made

    def land(self, *orders: Order) -> None:
        """Let all that is on its way land, and more that follows, until these are over."""
        self.until(
            lambda: not self.fabric.run_until_idle() and all(map(self.is_over, orders)),
            f"loads of {self._names(orders)} reported",
        )

    def looks(self) -> Iterator[None]:
        """Poll some times, as long as anything could show that must not: for a check each time."""
        end = monotonic() + self._reaction_s
        for look in count(1):
            self.poll()
            yield
            if look >= _LOOKS and monotonic() >= end:
                return
            if self._reaction_s:
                self.pair.wait(NAP)

    def transfers_of_a_load(self) -> int:
        """How many of the fabric's transfers the target makes of a load of one block."""
        if not self._transfers:
            self._transfers = -self.fabric.counters.operations
            last = self.prefill[0].num_blocks - 1, self.decode.num_blocks - 1
            order = self.fetch(self.prompt("control", last[:1]), last[1:])
            self.land(order)
            self.told(order.prompt)
            self._transfers += self.fabric.counters.operations
            self.discard(order)
        return self._transfers

    def survive(self, fault: Fault) -> Order:
        """The fault fires on a load, which ends as a reported failure or with the right bytes; P
        gets its blocks back; and with the fault withdrawn, the next load arrives.

        Where the target reports no failures, a load that failed may stay unreported.
        """
        fired = self.fabric.counters.faults[fault.name]
        self.fabric.inject(fault)
        number = len(self.orders)
        prompt = self.prompt(f"{fault.name}-{number}", [3, 1])
        order = self.fetch(prompt, [0, 2])
        if self.can.failure_reporting:
            self.until(lambda: self.is_over(order), f"the load of {order.request_id} reported")
            self.told(prompt)
        else:
            self.until(lambda: self.is_idle, "the network is idle")
        assert self.fabric.counters.faults[fault.name] > fired, f"no {fault.name} has fired"
        self.fabric.withdraw(fault)
        self.probe()
        self.fabric.run_until_idle()
        self.poll()
        self.check()
        self.discard(order)
        return order
