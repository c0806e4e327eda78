"""The simulated RDMA network: real bytes between registered memory, on a virtual clock.

fabric = Fabric(faults=[Drop(nth=3)], seed=7)
prefill, decode = fabric.engine("prefill-0"), fabric.engine("decode-0")
source, target = prefill.register(p_cache), decode.register(d_cache)
decode.connect("prefill-0")
transfer = decode.session(target, source.handle).read(0, 0, 65536, uid=1)
fabric.run_until_idle()
assert transfer.status is Status.SUCCESS and prefill.inbound("decode-0", 1)
"""

from pd_testkit.fabric.clock import Timer, VirtualClock
from pd_testkit.fabric.counters import Counters, Tally
from pd_testkit.fabric.driver import RealTimeDriver
from pd_testkit.fabric.engine import Engine, Notification
from pd_testkit.fabric.faults import (
    Corrupt,
    Delay,
    Drop,
    DuplicateNotification,
    EarlyCompletion,
    Fail,
    Fault,
    FaultPlan,
    HandshakeFailure,
    Hang,
    LostNotification,
    Partial,
    PeerDeath,
    Reorder,
)
from pd_testkit.fabric.memory import Region, RegionHandle
from pd_testkit.fabric.network import Fabric
from pd_testkit.fabric.options import FabricOptions
from pd_testkit.fabric.sanitizer import Sanitizer, SanitizerError, SanitizerReport, Violation
from pd_testkit.fabric.stack import Stack
from pd_testkit.fabric.status import Status
from pd_testkit.fabric.trace import Trace
from pd_testkit.fabric.transfer import Session, Transfer

__all__ = [
    "Corrupt",
    "Counters",
    "Delay",
    "Drop",
    "DuplicateNotification",
    "EarlyCompletion",
    "Engine",
    "Fabric",
    "FabricOptions",
    "Fail",
    "Fault",
    "FaultPlan",
    "HandshakeFailure",
    "Hang",
    "LostNotification",
    "Notification",
    "Partial",
    "PeerDeath",
    "RealTimeDriver",
    "Region",
    "RegionHandle",
    "Reorder",
    "Sanitizer",
    "SanitizerError",
    "SanitizerReport",
    "Session",
    "Stack",
    "Status",
    "Tally",
    "Timer",
    "Trace",
    "Transfer",
    "Violation",
    "VirtualClock",
]
