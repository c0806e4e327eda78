"""ATOM's ``proxy.py``, its own Quart application, in the contract's words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from pd_testkit.contract import Call, Exchange, Instance, Reply, Role, TargetError
from pd_testkit.targets.atom.asgi import ask
from pd_testkit.targets.atom.network import Network, Received
from pd_testkit.targets.atom.proxy_state import PATH, fresh, register, sessions_left_open

_ANSWERS: dict[Role, dict[str, Any]] = {
    Role.PRODUCER: {
        "object": "text_completion",
        "choices": [{"index": 0, "text": "P", "finish_reason": "length"}],
        "kv_transfer_params": {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_block_ids": [0],
            "remote_engine_id": "None",
            "remote_host": "10.0.0.1",
            "remote_port": 7001,
            "tp_size": 1,
            "dp_rank": 0,
            "transfer_id": 1,
        },
    },
    Role.CONSUMER: {
        "object": "text_completion",
        "choices": [{"index": 0, "text": "D", "finish_reason": "length"}],
    },
}
"""What an engine says that no clause gave a script: P as ``request_finished`` has it."""


class Networks:
    """One network for all drivers that are in use; it ends with the last of them."""

    def __init__(self) -> None:
        self._users = 0
        self._network: Network | None = None

    def take(self) -> Network:
        if self._network is None:
            self._network = Network()
        self._users += 1
        return self._network

    def give_back(self) -> None:
        self._users -= 1
        if self._users == 0 and self._network is not None:
            self._network.close()
            self._network = None


class ProxyDriver:
    """A fresh proxy: the module's globals are what it keeps, so one is in use at a time."""

    def __init__(self, networks: Networks) -> None:
        from atom.kv_transfer.disaggregation import proxy

        self._proxy: Any = proxy
        self._networks = networks
        self._network = networks.take()
        self._instances: dict[str, Instance] = {}
        self._open = ExitStack()
        self._open.enter_context(fresh(proxy))

    def close(self) -> None:
        self._open.close()
        self._networks.give_back()

    def register(self, instance: Instance) -> bool:
        self._instances[instance.url.partition("://")[2]] = instance
        return register(self._proxy, instance)

    def unregister(self, role: Role, url: str) -> None:
        raise TargetError("an instance cannot leave ATOM's proxy")

    def instances(self, role: Role) -> tuple[str, ...]:
        known = (
            self._proxy.prefill_instances if role is Role.PRODUCER else self._proxy.decode_instances
        )
        return tuple(message["request_address"].removesuffix(PATH) for message in known)

    def address(self, url: str) -> tuple[str, int]:
        host, port = self._proxy._extract_ip_port(url)
        return host, int(port)

    def patience(self) -> float:
        for role, url in (
            (Role.PRODUCER, "http://10.0.0.1:1"),
            (Role.CONSUMER, "http://10.0.1.1:1"),
        ):
            if not self.instances(role):
                self.register(Instance(role, url))
        self._network.answer = lambda received: None
        work = ask(self._proxy.app, PATH, {}, b'{"prompt": "a", "max_tokens": 2}')
        with sessions_left_open():
            return self._network.patience(work)

    def send(
        self,
        body: Mapping[str, Any] | bytes,
        *,
        path: str = PATH,
        headers: Mapping[str, str] | None = None,
        prefill: Reply | None = None,
        decode: Reply | None = None,
    ) -> Exchange:
        scripts = {Role.PRODUCER: prefill or Reply(), Role.CONSUMER: decode or Reply()}
        calls: dict[Role, list[Call]] = {Role.PRODUCER: [], Role.CONSUMER: []}

        def answer(received: Received) -> Reply:
            instance = self._instances[received.host]
            calls[instance.role].append(
                Call(instance.url, received.path, received.body, received.headers)
            )
            reply = scripts[instance.role]
            if reply.body is None and not reply.raw:
                return Reply(reply.status, _ANSWERS[instance.role], lost=reply.lost)
            return reply

        self._network.answer = answer
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        with sessions_left_open():
            status, seen, content = self._network.run(
                ask(self._proxy.app, path, headers or {}, raw)
            )
        return Exchange(
            status,
            content,
            tuple(calls[Role.PRODUCER]),
            tuple(calls[Role.CONSUMER]),
            headers=seen,
        )
