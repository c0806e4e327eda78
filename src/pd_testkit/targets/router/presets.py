"""Routers that are known by name: how they are started, and what they can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePath

from pd_testkit.contract import Capabilities, KnownFailure
from pd_testkit.targets.router import known_sglang_router, known_vllm_router
from pd_testkit.targets.router.command import Command
from pd_testkit.targets.router.discovered import DiscoveredRouter
from pd_testkit.targets.router.driver import StartedRouter
from pd_testkit.targets.router.managed import ManagedRouter

_COMMON = (
    "--host 127.0.0.1 --port {port} --prometheus-host 127.0.0.1 --prometheus-port {metrics_port} "
    "--policy round_robin --request-timeout-secs {read_timeout_secs} "
    "--max-payload-size {max_body} --retry-max-retries {attempts} "
    "--cb-failure-threshold {breaker_threshold} "
    "--cb-timeout-duration-secs {breaker_cool_down_secs} "
    "--health-check-interval-secs {health_interval_secs} "
)
"""Both routers have these: one began as a fork of the other. Their retries count the first attempt:
1 is none."""

_STATIC = "--worker-startup-check-interval 1 --worker-startup-timeout-secs 5 "


@dataclass(frozen=True)
class Preset:
    """A router and how the kit starts it."""

    name: str
    command: Command
    capabilities: Capabilities
    driver: Callable[..., StartedRouter] = StartedRouter
    package: str = ""
    """The distribution that it comes with; empty for a command of which no more is known."""
    readiness_path: str = "/readiness"
    ready: Callable[[int], bool] = lambda status: status == 200
    known_failures: tuple[KnownFailure, ...] = ()

    def version(self) -> str:
        """That of the distribution in the kit's own environment, or the program's name."""
        try:
            return version(self.package) if self.package else PurePath(self.command.program).name
        except PackageNotFoundError:
            return "of unknown version"


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            "vllm-router",
            Command.parse(
                f"vllm-router {_COMMON} {_STATIC} --vllm-pd-disaggregation "
                "--prefill {prefill} --decode {decode}"
            ),
            Capabilities(
                read_mode=True,
                readiness=True,
                process_id=True,
                retries=True,
                circuit_breaker=True,
                health_checks=True,
            ),
            package="vllm-router",
            known_failures=known_vllm_router.STATIC,
        ),
        Preset(
            "vllm-router-discovery",
            Command.parse(
                f"vllm-router {_COMMON} --vllm-pd-disaggregation "
                "--vllm-discovery-address 127.0.0.1:{discovery_port}",
                required=("port", "discovery_port"),
            ),
            Capabilities(
                read_mode=True,
                readiness=True,
                process_id=True,
                retries=True,
                circuit_breaker=True,
                joining=True,
                unregister=True,
                heartbeats=True,
            ),
            driver=DiscoveredRouter,
            package="vllm-router",
            ready=lambda status: True,  # it has no engines yet
            known_failures=known_vllm_router.DISCOVERY,
        ),
        Preset(
            "sglang-router",
            Command.parse(
                f"sglang-router launch {_COMMON} {_STATIC} --pd-disaggregation "
                "--prefill {prefill} {bootstrap_port} --decode {decode}"
            ),
            Capabilities(
                bootstrap_rooms=True,
                readiness=True,
                process_id=True,
                retries=True,
                circuit_breaker=True,
                health_checks=True,
                joining=True,
                unregister=True,
            ),
            driver=ManagedRouter,
            package="sglang-router",
            ready=lambda status: True,  # it takes its engines in later
            known_failures=known_sglang_router.ALL,
        ),
    )
}
