"""How many tokens prompts and answers have: fixed, uniform or log-normal."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Protocol

FORMS = "N, LOW-HIGH, or lognormal:MEAN:DEVIATION[:MAX]"


class Length(Protocol):
    """A number of tokens that is drawn; as text, in one of `FORMS`."""

    @property
    def mean(self) -> float:
        """Of what is drawn, before it is cut to what is possible."""

    def draw(self, draw: random.Random) -> int:
        """At least 1."""


@dataclass(frozen=True)
class Fixed:
    """The same each time."""

    tokens: int

    @property
    def mean(self) -> float:
        return self.tokens

    def draw(self, draw: random.Random) -> int:
        return self.tokens

    def __str__(self) -> str:
        return f"{self.tokens}"


@dataclass(frozen=True)
class Uniform:
    """Each from `low` to `high` as likely, both included."""

    low: int
    high: int

    @property
    def mean(self) -> float:
        return (self.low + self.high) / 2

    def draw(self, draw: random.Random) -> int:
        return draw.randint(self.low, self.high)

    def __str__(self) -> str:
        return f"{self.low}-{self.high}"


@dataclass(frozen=True)
class LogNormal:
    """Many short ones and few long: the logarithm is normal. Cut to 1 and `most`.

    Args:
        mean, deviation: of the tokens, not of their logarithm.
    """

    mean: float
    deviation: float
    most: int | None = None

    def draw(self, draw: random.Random) -> int:
        variance = math.log1p((self.deviation / self.mean) ** 2)
        drawn = draw.lognormvariate(math.log(self.mean) - variance / 2, math.sqrt(variance))
        return max(1, min(round(drawn), self.most or round(drawn)))

    def __str__(self) -> str:
        limit = "" if self.most is None else f":{self.most}"
        return f"lognormal:{self.mean:g}:{self.deviation:g}{limit}"


def parse(text: str) -> Length:
    """
    Raises:
        ValueError: the text has none of `FORMS`, or a length would be below 1.
    """
    wrong = ValueError(f"{text!r} is no length: {FORMS}")
    try:
        if text.startswith("lognormal:"):
            mean, deviation, *most = text.split(":")[1:]
            length: Length = LogNormal(float(mean), float(deviation), *map(int, most))
            possible = float(mean) >= 1 and float(deviation) >= 0 and all(m != "0" for m in most)
        elif "-" in text:
            low, high = map(int, text.split("-"))
            length, possible = Uniform(low, high), 1 <= low <= high
        else:
            length, possible = Fixed(int(text)), int(text) >= 1
    except (ValueError, TypeError):
        raise wrong from None
    if not possible:
        raise wrong
    return length
