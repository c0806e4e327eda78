"""``mori.cpp.TransferStatus``: what became of a transfer, asked for by the one who posted it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pd_testkit.stubs.mori_types import StatusCode

if TYPE_CHECKING:
    from pd_testkit.fabric import Fabric, Transfer
    from pd_testkit.fabric.remote import RemoteFabric, RemoteTransfer

_LAST_NO_ERROR = 10


class TransferStatus:
    """INIT until it is used; follows a transfer of the fabric once that is posted.

    Times are milliseconds of the fabric's clock.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._code = StatusCode.INIT
        self._message = ""
        self._fabric: Fabric | RemoteFabric | None = None
        self._transfer: Transfer | RemoteTransfer | None = None

    def Code(self) -> StatusCode:  # noqa: N802
        """The status now."""
        transfer = self._transfer
        if self._code is StatusCode.IN_PROGRESS and transfer is not None:
            self._take(transfer, int(transfer.status))
        return self._code

    def Message(self) -> str:  # noqa: N802
        """Why it failed."""
        return self._message

    def Init(self) -> bool:  # noqa: N802
        return self.Code() is StatusCode.INIT

    def InProgress(self) -> bool:  # noqa: N802
        return self.Code() is StatusCode.IN_PROGRESS

    def Succeeded(self) -> bool:  # noqa: N802
        return self.Code() is StatusCode.SUCCESS

    def Failed(self) -> bool:  # noqa: N802
        return int(self.Code()) > _LAST_NO_ERROR

    def Update(self, code: StatusCode, message: str) -> None:  # noqa: N802
        """Sets both, unless it has failed already: the first error stays."""
        with self._changed:
            if int(self._code) <= _LAST_NO_ERROR:
                self._code, self._message = code, message
                self._changed.notify_all()

    def SetCode(self, code: StatusCode) -> None:  # noqa: N802
        """Sets the code, over an error too."""
        with self._changed:
            self._code = code
            self._changed.notify_all()

    def SetMessage(self, message: str) -> None:  # noqa: N802
        self._message = message

    def Wait(self) -> None:  # noqa: N802
        """Until it is not in progress; returns at once when nothing was posted."""
        self.WaitFor(-1)

    def WaitFor(self, timeout_ms: int = -1) -> StatusCode:  # noqa: N802
        """The status after at most ``timeout_ms``: 0 polls once, below 0 waits without end.

        A transfer that never ends is waited for without end, as on hardware.
        """
        if self._code is not StatusCode.IN_PROGRESS or timeout_ms == 0:
            return self.Code()
        timeout = None if timeout_ms < 0 else timeout_ms / 1000
        if self._transfer is None:
            with self._changed:
                self._changed.wait_for(lambda: self._code is not StatusCode.IN_PROGRESS, timeout)
            return self._code
        transfer = self._transfer
        self._take(transfer, int(transfer.finish() if timeout is None else transfer.wait(timeout)))
        return self._code

    def _follow(self, fabric: Fabric | RemoteFabric, transfer: Transfer | RemoteTransfer) -> None:
        """From now on the status is that of ``transfer``."""
        self._fabric, self._transfer = fabric, transfer

    def _take(self, transfer: Transfer | RemoteTransfer, status: int) -> None:
        code = StatusCode(status)
        if code is StatusCode.ERR_NOT_FOUND:  # unregistered local memory: the NIC's protection
            code = StatusCode.ERR_RDMA_OP
        if code is not StatusCode.IN_PROGRESS:
            self.Update(code, transfer.message)


def wait_all(statuses: Sequence[TransferStatus], timeout_ms: int = -1) -> StatusCode:
    """The first failure in their order, else IN_PROGRESS if the time ran out, else SUCCESS.

    All of them share ``timeout_ms``; once it has run out the rest isn't looked at.
    """
    clock = next((s._fabric.clock for s in statuses if s._fabric is not None), None)
    end = clock.now + timeout_ms / 1000 if clock is not None else 0.0
    failure = StatusCode.SUCCESS
    unfinished = False
    for status in statuses:
        left = timeout_ms
        if timeout_ms > 0 and clock is not None:
            left = max(0, round((end - clock.now) * 1000))
        code = status.WaitFor(left)
        if code is StatusCode.IN_PROGRESS:
            unfinished = True
            if timeout_ms > 0:
                break
        elif failure is StatusCode.SUCCESS:
            failure = code
    return StatusCode.IN_PROGRESS if failure is StatusCode.SUCCESS and unfinished else failure
