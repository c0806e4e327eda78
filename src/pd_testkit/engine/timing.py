"""How long an accelerator would take: so that one CPU plays another machine. Pure.

A step that computes prompt tokens is bound by arithmetic, one that decodes by memory: by the
weights, which all answers of the step share, and by each answer's own KV.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Profile:
    """A machine with a model on it.

    Attributes:
        base_s: of a step that computes prompt tokens, however few.
        prompt_token_s: of each of them: those that are neither cached nor loaded.
        inter_token_s: of a step that decodes one answer's token.
        load_factor: by which share of it each further answer of the step makes it longer.
        bandwidth: of a transfer of KV, in bytes per second.
        latency_s: of a transfer, however small.
        kv_bytes_per_token: of the model that is played; of ours, a token has so many more or
            fewer bytes, and they count as these. 0: bytes count as they are.
        jitter: standard deviation of a time, as a share of it; a time is never cut below its half.
        seed: of the jitter.

    Raises:
        ValueError: a number is out of its range.
    """

    base_s: float = 0.0
    prompt_token_s: float = 0.0
    inter_token_s: float = 0.0
    load_factor: float = 0.0
    bandwidth: float = float("inf")
    latency_s: float = 0.0
    kv_bytes_per_token: int = 0
    jitter: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not value >= 0:
                raise ValueError(f"{field.name} {value!r}: it must be a number of at least 0")
        if not self.bandwidth > 0:
            raise ValueError("bandwidth 0: it must be above 0")
        if self.jitter > 1:
            raise ValueError(f"jitter {self.jitter}: it must lie in [0, 1]")


PROFILES: Mapping[str, Profile] = {
    "a100": Profile(
        base_s=0.008,
        prompt_token_s=103e-6,
        inter_token_s=0.0105,
        load_factor=0.008,
        bandwidth=25e9,
        latency_s=0.001,
        kv_bytes_per_token=131072,
        jitter=0.02,
    ),
    "h100": Profile(
        base_s=0.005,
        prompt_token_s=36e-6,
        inter_token_s=0.0064,
        load_factor=0.008,
        bandwidth=50e9,
        latency_s=0.001,
        kv_bytes_per_token=131072,
        jitter=0.02,
    ),
}
"""Llama-3.1-8B in 16 bits on one GPU, estimated of the data sheets, and not measured.

- A100 SXM 80 GB: 312e12 FLOP/s, 2.04e12 bytes/s; H100 SXM: 989e12 FLOP/s, 3.35e12 bytes/s.
- A prompt token has 2 x 8e9 FLOP, of which an A100 reaches half of its peak, an H100 45 %.
- A decode step reads 16e9 bytes of weights at three quarters of the peak; each further answer
  1024 tokens x 131072 bytes (32 layers x 2 x 8 heads x 128 x 2) of KV.
- KV moves over one NIC of 200 and 400 Gbit/s.
"""


class Pace:
    """Seconds that what the engine does takes at least, as a profile has it.

    Args:
        kv_bytes_per_token: of this engine's KV.
    """

    def __init__(self, profile: Profile, kv_bytes_per_token: int) -> None:
        played = profile.kv_bytes_per_token
        self._profile = profile
        self._scale = played / kv_bytes_per_token if played else 1.0
        self._random = random.Random(profile.seed)

    def step(self, prompt_tokens: int, decodes: int) -> float:
        """Of a step that computes so many prompt tokens, and one token of so many answers."""
        profile, seconds = self._profile, 0.0
        if prompt_tokens:
            seconds += profile.base_s + profile.prompt_token_s * prompt_tokens
        if decodes:
            seconds += profile.inter_token_s * (1 + profile.load_factor * (decodes - 1))
        return self._jittered(seconds)

    def load(self, size: int) -> float:
        """Of a transfer of ``size`` bytes."""
        profile = self._profile
        return self._jittered(profile.latency_s + size * self._scale / profile.bandwidth)

    def _jittered(self, seconds: float) -> float:
        if not (seconds and self._profile.jitter):
            return seconds
        return seconds * max(0.5, self._random.gauss(1.0, self._profile.jitter))


def profile(name: str) -> Profile | None:
    """The profile of that name, or of that TOML file; None for ``real``.

    A file has `Profile`'s fields, and may begin with ``profile = "a100"`` or another name, of which
    it changes some.

    Raises:
        ValueError: there is none, or the file has something else in it.
    """
    if name == "real":
        return None
    if name in PROFILES:
        return PROFILES[name]
    path = Path(name)
    if not name.endswith(".toml") or not path.is_file():
        known = ", ".join(("real", *PROFILES))
        raise ValueError(f"{name!r} is no profile; choose of {known}, or name a .toml file")
    said = _toml(path)
    start = said.pop("profile", None)
    if start is not None and start not in PROFILES:
        raise ValueError(f"{name}: profile {start!r}; choose of {', '.join(PROFILES)}")
    names = {field.name for field in fields(Profile)}
    if unknown := sorted(said.keys() - names):
        raise ValueError(f"{name}: {unknown[0]!r}; choose of {', '.join(sorted(names))}")
    try:
        return replace(PROFILES[start] if start else Profile(), **said)
    except ValueError as wrong:
        raise ValueError(f"{name}: {wrong}") from None


def _toml(path: Path) -> dict[str, Any]:
    import msgspec

    try:
        said: dict[str, Any] = msgspec.toml.decode(path.read_bytes())
    except (ValueError, OSError) as wrong:
        raise ValueError(f"{path}: {wrong}") from None
    return said
