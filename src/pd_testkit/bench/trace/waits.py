"""Where requests waited: each one's time, from when it was due to its end, in pieces. Pure.

Pieces follow each other without gaps, so that they add up to the end-to-end latency. Where nobody
tells when one ended, it is one with the next: ``P queue to P prefill``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pd_testkit.bench.results import Request
from pd_testkit.bench.trace.timelines import Answer, Hold, Passage

PIECES = (
    "client late",
    "proxy",
    "retries",
    "P queue",
    "P prefill",
    "hand-off",
    "D queue",
    "transfer",
    "D first token",
    "decode",
)
"""In the order in which a request goes through them.

client late    from when it was due until it was sent
proxy          from then until the first engine has it, and the way there
retries        the same, where the proxy had to try again
P queue        until P schedules its first step
P prefill      until P's answer is sent
hand-off       until D has the request
D queue        until D lets it in: asks P for its KV, or schedules its first step
transfer       until the KV is there
D first token  until the client has the first token
decode         until the client has the last one
"""


@dataclass(frozen=True)
class Life:
    """All that is known of a request, in Unix seconds by the client's clock.

    Attributes:
        epoch: Unix time of the run's begin, from which `request`'s times count.
        prefill, decode: the last attempt's.
        others: what engines had to do with it else: earlier attempts, further answers.
    """

    request: Request
    epoch: float
    passage: Passage | None = None
    prefill: Answer | None = None
    decode: Answer | None = None
    others: tuple[Answer, ...] = ()
    hold: Hold | None = None

    @property
    def due(self) -> float:
        return self.epoch + self.request.due

    @property
    def sent(self) -> float:
        return self.epoch + self.request.sent

    @property
    def first(self) -> float | None:
        pieces = self.request.pieces
        return self.epoch + pieces[0] if pieces else None

    @property
    def ended(self) -> float:
        """As in the end-to-end latency: a stream ends with its last piece."""
        request = self.request
        whole = request.pieces and not request.error
        return self.epoch + (request.pieces[-1] if whole else request.ended)


@dataclass(frozen=True)
class Piece:
    name: str
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began


def pieces(life: Life) -> list[Piece]:
    """Times that contradict each other, as clocks may, are moved to where they do not."""
    found: list[Piece] = []
    names: list[str] = []
    at = life.due
    for name, end in _ends(life):
        names.append(name)
        if end is not None:
            end = min(max(end, at), life.ended)
            found.append(Piece(_joined(names), at, end))
            names, at = [], end
    return found


def _ends(life: Life) -> Iterator[tuple[str, float | None]]:
    """Each piece, and when it ended as far as is known."""
    way, p, d = life.passage, life.prefill, life.decode
    yield "client late", life.sent
    retried = "retries" if way is not None and way.retries else "proxy"
    if p is not None or way is None or way.kind == "pd":
        called = way.prefill_called_at if way is not None else None
        yield retried, p.arrived_at if p is not None else called
        yield "P queue", p.began_at if p is not None else None
        answered = way.prefill_answered_at if way is not None else None
        yield "P prefill", p.ended_at if p is not None else answered
        retried = "hand-off"
    called = way.decode_called_at if way is not None else None
    yield retried, d.arrived_at if d is not None else called
    if d is None or d.part == "span":
        yield "D queue", None
        yield "transfer", d.began_at if d is not None else None
    elif d.load_began_at is not None:
        yield "D queue", d.load_began_at
        yield "transfer", d.load_ended_at
    else:
        yield "D queue", d.began_at
    yield "D first token", life.first or (d.first_token_at if d is not None else None)
    yield "decode", life.ended


def _joined(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def table(lives: Sequence[Life], slowest: int = 5) -> str:
    """Where the slowest requests waited, beside the mean of all; warm-up left out. Empty where
    there are none."""
    measured = [life for life in lives if not life.request.warm_up]
    if not measured:
        return ""
    parts = {life.request.index: _seconds(life) for life in measured}
    names = sorted({name for part in parts.values() for name in part}, key=_place)
    count = len(measured)
    mean = {name: sum(part.get(name, 0.0) for part in parts.values()) / count for name in names}
    worst = sorted(measured, key=lambda life: life.due - life.ended)[:slowest]
    columns = [("mean", mean)]
    columns += [(_title(life), parts[life.request.index]) for life in worst]
    width = max(len(name) for name in names)
    heads = "".join(f"{title:>16}" for title, _ in columns)
    lines = [
        f"Where {count} requests waited, and the slowest of them, in ms:",
        f"{'':{width}}{heads}",
    ]
    totals = [sum(part.values()) for _, part in columns]
    lines.append(f"{'in all':{width}}" + "".join(f"{total * 1e3:10.1f}{'':6}" for total in totals))
    for name in names:
        cells = (
            f"{part[name] * 1e3:10.1f}{part[name] / total if total else 0:5.0%} "
            if name in part
            else f"{'':16}"
            for (_, part), total in zip(columns, totals, strict=True)
        )
        lines.append(f"{name:{width}}" + "".join(cells))
    longest = max(names, key=lambda name: mean[name])
    share = mean[longest] / totals[0] if totals[0] else 0.0
    return "\n".join(
        [*(line.rstrip() for line in lines), f"Longest: {longest}, {share:.0%} of it."]
    )


def _seconds(life: Life) -> dict[str, float]:
    return {piece.name: piece.seconds for piece in pieces(life)}


def _title(life: Life) -> str:
    request = life.request
    return f"#{request.index} {request.error}" if request.error else f"#{request.index}"


def _place(name: str) -> tuple[int, int]:
    first, _, last = name.partition(" to ")
    return PIECES.index(first), PIECES.index(last) if last else -1
