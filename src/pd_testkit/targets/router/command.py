"""A router's command line with placeholders, as ``--pd-router`` gives it."""

from __future__ import annotations

import difflib
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

from pd_testkit.contract import Instance, NotApplicable, ProxyOptions, Role, TargetError

PORTS = ("port", "metrics_port", "discovery_port")
"""Free ports of the loopback."""

_PREFILL = ("prefill", "bootstrap_port")
_DECODE = ("decode",)

_OPTIONS: Mapping[str, str] = {
    "connect_timeout_s": "connect_timeout",
    "read_timeout_s": "read_timeout",
    "max_body_bytes": "max_body",
    "retries": "retries",
    "breaker_threshold": "breaker_threshold",
    "breaker_cool_down_s": "breaker_cool_down",
    "health_interval_s": "health_interval",
}
"""The placeholder of each field of `ProxyOptions`. That of a time may end in ``_secs``: it is then
rounded up to whole seconds, which is all that many routers take."""

_WHOLE = {f"{name}_secs": field for field, name in _OPTIONS.items() if field.endswith("_s")}

_ATTEMPTS = "attempts"
"""Retries, and the first attempt; some routers count so."""

PLACEHOLDERS = (*PORTS, *_PREFILL, *_DECODE, *_OPTIONS.values(), *_WHOLE, _ATTEMPTS)

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True)
class Command:
    """Words, in groups: an option with its values, or a single word ahead of the first option.

    A group that names P is repeated for each P, one that names D for each D; one that names an
    option of which nothing is said is left out.
    """

    groups: tuple[tuple[str, ...], ...]

    @classmethod
    def parse(cls, line: str, required: Sequence[str] = ("port", "prefill", "decode")) -> Command:
        """The command of a line, which no shell reads.

        Raises:
            TargetError: it cannot be parted into words, or its placeholders make no sense.
        """
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise TargetError(f"the command cannot be read: {error}") from None
        if not words:
            raise TargetError("the command is empty")
        command = cls(tuple(_groups(words)))
        for name in sorted(command.names):
            if name not in PLACEHOLDERS:
                near = difflib.get_close_matches(name, PLACEHOLDERS, n=1)
                hint = f"did you mean {{{near[0]}}}?" if near else f"choose of {_listed()}"
                raise TargetError(f"the command has {{{name}}}, which is no placeholder: {hint}")
        for name in required:
            if name not in command.names:
                raise TargetError(f"the command has no {{{name}}}: {line}")
        for group in command.groups:
            if {*_PREFILL} & _names(group) and {*_DECODE} & _names(group):
                raise TargetError(f"one option names both P and D: {shlex.join(group)}")
        return command

    @property
    def program(self) -> str:
        return self.groups[0][0]

    @property
    def names(self) -> frozenset[str]:
        """The placeholders that are in it."""
        return frozenset().union(*map(_names, self.groups))

    def takes(self, field: str) -> bool:
        """Whether it can be told that field of `ProxyOptions`."""
        if field == "heartbeat_lifetime_s":  # heartbeats are the kit's, a lifetime the router's
            return "discovery_port" in self.names
        name = _OPTIONS.get(field, "")
        return bool({name, f"{name}_secs", *([_ATTEMPTS] * (name == "retries"))} & self.names)

    def words(
        self, ports: Mapping[str, int], instances: Sequence[Instance], options: ProxyOptions
    ) -> list[str]:
        """The command with everything in its place.

        Raises:
            NotApplicable: it has no placeholder for what the options say.
        """
        default = ProxyOptions()
        for field in fields(options):
            value = getattr(options, field.name)
            if value != getattr(default, field.name) and not self.takes(field.name):
                name = _OPTIONS.get(field.name, field.name)
                raise NotApplicable(f"the router's command has no {{{name}}}")
        values = {**{name: str(port) for name, port in ports.items()}, **_said(options)}
        engines = {role: [_engine(i) for i in instances if i.role is role] for role in Role}
        words: list[str] = []
        for group in self.groups:
            names = _names(group)
            roles = (Role.PRODUCER if {*_PREFILL} & names else Role.CONSUMER,)
            each = engines[roles[0]] if names & {*_PREFILL, *_DECODE} else [{}]
            for engine in each:
                known = {**values, **engine}
                if names <= known.keys():
                    words += [_filled(word, known) for word in group]
        return words


def _groups(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    group: list[str] = []
    for word in words:
        if group and (word.startswith("-") or not group[0].startswith("-")):
            yield tuple(group)
            group = []
        group.append(word)
    yield tuple(group)


def _names(group: Sequence[str]) -> frozenset[str]:
    return frozenset(name for word in group for name in _PLACEHOLDER.findall(word))


def _filled(word: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda found: values[found[1]], word)


def _engine(instance: Instance) -> dict[str, str]:
    if instance.role is Role.CONSUMER:
        return {"decode": instance.url}
    return {"prefill": instance.url, "bootstrap_port": str(instance.bootstrap_port)}


def _said(options: ProxyOptions) -> dict[str, str]:
    """By placeholder, what the options say; nothing for what they leave to the router."""
    said = {}
    for field, name in _OPTIONS.items():
        if (value := getattr(options, field)) is not None:
            said[name] = f"{value:.15g}"
            said[f"{name}_secs"] = str(math.ceil(value))
    if options.retries is not None:
        said[_ATTEMPTS] = str(options.retries + 1)
    return said


def _listed() -> str:
    return ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
