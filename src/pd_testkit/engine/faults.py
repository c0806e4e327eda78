"""Faults that an engine is told to have, and how often each came to be. Pure but for a lock.

A fault is written ``KIND[=ARG][,count=N][,probability=P][,seed=S]``; `KINDS` has the kinds. It
strikes whatever it concerns, ``count`` times at most, and each time with ``probability``.
"""

from __future__ import annotations

import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Kind:
    """What a kind of fault does, and what its argument means."""

    text: str
    argument: str = ""
    """Empty: it takes none."""
    default: float | None = None
    """Of the argument; None: it has to be given."""
    low: float = 0.0
    high: float = float("inf")
    whole: bool = False


KINDS: Mapping[str, Kind] = {
    "refuse": Kind("requests get 503"),
    "hang": Kind("requests get no answer until the fault is withdrawn"),
    "error": Kind("requests get 500", "PERCENT", 100, high=100),
    "die-in-stream": Kind("the answer's connection is cut", "TOKENS", 1, whole=True),
    "die": Kind("the process is killed", "TOKENS", 1, whole=True),
    "slow": Kind("tokens come later", "SECONDS per token, or FACTORx"),
    "kv-fail": Kind("a transfer of KV fails"),
    "kv-delay": Kind("a transfer of KV ends later", "SECONDS"),
    "kv-corrupt": Kind("one byte of one block is flipped on its way"),
    "stop-heartbeats": Kind("routers hear of this engine no more"),
}

_TRANSFERS = ("kv-fail", "kv-corrupt", "kv-delay")

_FACTOR = re.compile(r"(\d+(?:\.\d*)?)x\Z")


@dataclass(frozen=True)
class Fault:
    """One that is planned.

    Attributes:
        kind: of `KINDS`.
        argument: None where the kind takes none.
        factor: the argument of ``slow`` is one of the time that tokens take anyway.
        count: times that it strikes at most; None: always.
        probability: of each time.
        seed: of the probability.
    """

    kind: str
    argument: float | None = None
    factor: bool = False
    count: int | None = None
    probability: float = 1.0
    seed: int = 0

    @property
    def text(self) -> str:
        """As `parse` reads it."""
        words = [self.kind]
        if self.argument is not None:
            words[0] += f"={self.argument:g}{'x' if self.factor else ''}"
        if self.count is not None:
            words.append(f"count={self.count}")
        if self.probability < 1 and self.kind != "error":
            words.append(f"probability={self.probability:g}")
        if self.seed:
            words.append(f"seed={self.seed}")
        return ",".join(words)


def parse(text: str) -> Fault:
    """The fault that is written so.

    Raises:
        ValueError: it is none; says why in one line.
    """
    first, *rest = text.split(",")
    name, given, argument = first.partition("=")
    kind = KINDS.get(name)
    if kind is None:
        raise ValueError(f"{name!r} is no fault; choose of {', '.join(KINDS)}")
    fault = replace(Fault(name), argument=kind.default)
    if given:
        fault = _with_argument(fault, kind, argument)
    if fault.argument is None and kind.argument:
        raise ValueError(f"{name} needs {kind.argument}: {name}=...")
    if name == "error":  # its percentage is a probability
        fault = replace(fault, probability=(fault.argument or 0) / 100)
    for word in rest:
        fault = _with(fault, *word.partition("=")[::2])
    return fault


def _with_argument(fault: Fault, kind: Kind, argument: str) -> Fault:
    if not kind.argument:
        raise ValueError(f"{fault.kind} takes no argument")
    factor = _FACTOR.match(argument) if fault.kind == "slow" else None
    value = _number(f"{fault.kind}={argument}", factor[1] if factor else argument)
    if not kind.low <= value <= kind.high or (kind.whole and value % 1):
        raise ValueError(f"{fault.kind}={argument}: give {kind.argument}")
    return replace(fault, argument=value, factor=factor is not None)


def _with(fault: Fault, name: str, value: str) -> Fault:
    word = f"{name}={value}"
    if name in ("count", "seed"):
        if not value.isdecimal() or (name == "count" and int(value) == 0):
            raise ValueError(f"{word}: give a whole number")
        whole = int(value)
        return replace(fault, count=whole) if name == "count" else replace(fault, seed=whole)
    if name == "probability" and fault.kind != "error":
        probability = _number(word, value)
        if not 0 <= probability <= 1:
            raise ValueError(f"{word}: it must lie in [0, 1]")
        return replace(fault, probability=probability)
    raise ValueError(f"{word!r}; after {fault.kind} may come count=N, probability=P, seed=S")


def _number(word: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{word}: {text!r} is no number") from None
    if not 0 <= value < float("inf"):
        raise ValueError(f"{word}: it must be a number of at least 0")
    return value


class _Planned:
    """A fault, and how often it struck."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.fired = 0
        self._random = random.Random(fault.seed)

    def draws(self) -> bool:
        fault = self.fault
        if fault.count is not None and self.fired >= fault.count:
            return False
        return fault.probability >= 1 or self._random.random() < fault.probability


class Faults:
    """An engine's. Any thread may ask, and change them."""

    def __init__(self, faults: Sequence[Fault] = ()) -> None:
        self._lock = threading.Lock()
        self._planned: list[_Planned] = []
        self._fired: Counter[str] = Counter()
        self._observers: list[Callable[[], object]] = []
        for fault in faults:
            self.add(fault)

    def observe(self, on_change: Callable[[], object]) -> Callable[[], None]:
        """Call it after each change of what is planned, on the thread that made it. What is
        returned ends that."""
        self._observers.append(on_change)
        return lambda: self._observers.remove(on_change)

    def add(self, fault: Fault) -> None:
        """Plan one more; it takes the place of one of its kind."""
        with self._lock:
            self._planned = [each for each in self._planned if each.fault.kind != fault.kind]
            self._planned.append(_Planned(fault))
        self._changed()

    def clear(self, kind: str | None = None) -> None:
        """Withdraw those of that kind; None: all."""
        with self._lock:
            self._planned = [each for each in self._planned if kind not in (None, each.fault.kind)]
        self._changed()

    def strikes(self, kind: str, *, at: int | None = None) -> Fault | None:
        """The fault of that kind, if it strikes now, which it is then counted for.

        Args:
            at: tokens that there are; one whose argument is another number does not strike.
        """
        with self._lock:
            planned = self._of(kind)
            if planned is None or at not in (None, planned.fault.argument) or not planned.draws():
                return None
            planned.fired += 1
            self._fired[kind] += 1
            return planned.fault

    def planned(self, kind: str) -> bool:
        """Whether there is one, which may have struck as often as it should."""
        with self._lock:
            return self._of(kind) is not None

    def told(self) -> list[dict[str, object]]:
        """What is planned, and how often each struck."""
        with self._lock:
            return [
                {"kind": each.fault.kind, "fault": each.fault.text, "fired": each.fired}
                for each in self._planned
            ]

    def fired(self) -> dict[str, int]:
        """How often each kind struck since the start, withdrawn faults included."""
        with self._lock:
            return {kind: self._fired[kind] for kind in KINDS}

    def _of(self, kind: str) -> _Planned | None:
        return next((each for each in self._planned if each.fault.kind == kind), None)

    def _changed(self) -> None:
        for on_change in tuple(self._observers):
            on_change()


class TransferFaults:
    """What happens to the next transfer of KV; asked by the thread that posts it."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def next(self) -> Literal["fail", "corrupt"] | float | None:
        """It fails, one of its bytes is flipped, it takes so many seconds more, or nothing."""
        for kind in _TRANSFERS:
            fault = self._faults.strikes(kind)
            if fault is not None:
                if kind == "kv-delay":
                    return fault.argument
                return "fail" if kind == "kv-fail" else "corrupt"
        return None
