"""What ATOM's worker processes run in the place of its model runner."""

from __future__ import annotations

from typing import Any

from pd_testkit.contract import WorkerReport
from pd_testkit.targets import scripted_worker
from pd_testkit.targets.atom.aggregator import connector_output

QUALNAME = f"{__name__}.ScriptedRunner"
MARK = "mark of the scripted runner"


class ScriptedRunner:
    """Made by ATOM in each worker's process, by its qualified name."""

    def __init__(self, rank: int, folder: str) -> None:
        self._script = scripted_worker.ScriptedRunner(rank, folder)
        self._marked = False

    def async_proc_aggregation(self) -> Any:
        """The worker's ``KVConnectorOutput`` of this step."""
        sent, received, failed = self._script.finished()
        if self._marked:
            self._marked = False
            sent = [MARK]
        return connector_output(WorkerReport.of(sent, received, failed), frozenset)

    def mark(self) -> None:
        """The next output says so: whoever reads it has read all that came before."""
        self._marked = True

    def exit(self) -> None:
        """ATOM's manager tells its runners when it ends; nothing is to be given back here."""
