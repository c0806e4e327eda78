"""SGLang's router, whose engines come and go by its API: ``/workers``."""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from typing import Any

from pd_testkit.contract import Instance, Role, TargetError
from pd_testkit.targets.router.driver import StartedRouter
from pd_testkit.targets.router.process import READY_S

_TYPES = {Role.PRODUCER: "prefill", Role.CONSUMER: "decode"}


class ManagedRouter(StartedRouter):
    """It is ready when it has taken in all engines of its command."""

    def begin(self, instances: Sequence[Instance]) -> None:
        for instance in instances:
            self._until(instance.role, instance.url, there=True)

    def add(self, instance: Instance) -> None:
        worker: dict[str, Any] = {"url": instance.url, "worker_type": _TYPES[instance.role]}
        if instance.bootstrap_port is not None:
            worker["bootstrap_port"] = instance.bootstrap_port
        self._ask("POST", "/workers", worker)
        self._until(instance.role, instance.url, there=True)

    def remove(self, role: Role, url: str) -> None:
        for worker in self._workers(role, url):
            self._ask("DELETE", f"/workers/{worker['id']}")
        self._until(role, url, there=False)

    def _until(self, role: Role, url: str, *, there: bool) -> None:
        self.process.wait(
            f"{'take in' if there else 'let go of'} {url}",
            lambda: any(worker["is_healthy"] for worker in self._workers(role, url)) is there,
        )

    def _workers(self, role: Role, url: str) -> list[Any]:
        found = self._ask("GET", "/workers")["workers"]
        return [w for w in found if (w["worker_type"], w["url"]) == (_TYPES[role], url)]

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["port"], timeout=READY_S)
        try:
            raw = None if body is None else json.dumps(body)
            connection.request(method, path, raw, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            said = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise TargetError(f"{method} {path} of the router: {answer.status} {said[:200]!r}")
        return json.loads(said)
