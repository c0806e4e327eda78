"""A machine for plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pd_testkit.stack.plan import Plan
from pd_testkit.stack.planner import CannotPlan, make_plan
from pd_testkit.stack.sources import read


@dataclass
class Laptop:
    """Has what it is told to have."""

    gpu_names: tuple[str, ...] = ()
    taken: frozenset[int] = frozenset()
    addresses: frozenset[str] = frozenset({"127.0.0.1"})
    programs: frozenset[str] = frozenset()
    modules: frozenset[str] = frozenset()
    folders: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    """With the config of the model that each holds."""
    next_port: int = 20000
    python: str = "python"

    def gpus(self) -> tuple[str, ...]:
        return self.gpu_names

    def busy(self, host: str, port: int) -> bool:
        return port in self.taken

    def free_ports(self, host: str, count: int) -> int:
        self.next_port += count
        return self.next_port - count

    def has_address(self, host: str) -> bool:
        return host in self.addresses

    def has_program(self, name: str) -> bool:
        return name in self.programs

    def has_module(self, name: str) -> bool:
        return name in self.modules

    def has_folder(self, path: str) -> bool:
        return path in self.folders

    def model_config(self, folder: str) -> Mapping[str, Any] | None:
        return self.folders.get(folder)


SERVER = Laptop(
    gpu_names=tuple("01234567"),
    programs=frozenset({"vllm", "docker", "vllm-router", "sglang-router"}),
)


def planned(machine: Laptop | None = None, /, **settings: Any) -> Plan:
    return make_plan(read(settings, {}), machine or Laptop())


def problems(machine: Laptop | None = None, /, **settings: Any) -> tuple[str, ...]:
    """All that is wrong; empty if nothing."""
    try:
        planned(machine, **settings)
    except CannotPlan as wrong:
        return wrong.problems
    return ()
