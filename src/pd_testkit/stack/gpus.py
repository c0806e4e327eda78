"""Which engine gets which GPUs."""

from __future__ import annotations

from collections.abc import Iterator

from pd_testkit.stack.settings import Leg


def assign(prefill: Leg, decode: Leg, total: int) -> tuple[list[tuple[int, ...]], list[str]]:
    """GPUs of each prefill engine, then of each decode engine; and what is wrong with them.

    Prefill engines get theirs from 0 upwards, ``tp * dp`` each, decode engines those that follow.
    A leg whose GPUs are set gets them, in order; the other one gets none of them.

    Args:
        total: GPUs that are visible, of which these are the indices.
    """
    legs = (prefill, decode)
    problems = []
    for leg in legs:
        if leg.gpus is not None:
            problems += _wrong(leg, leg.gpus, total)
    if both := set(prefill.gpus or ()) & set(decode.gpus or ()):
        problems.append(
            f"--prefill-gpus and --decode-gpus (PROD_GPU, CONS_GPU) both have {_list(both)}"
        )
    if problems:
        return [], problems
    taken = {gpu for leg in legs for gpu in leg.gpus or ()}
    rest = (gpu for gpu in range(total) if gpu not in taken)
    groups = [group for leg in legs for group in _groups(leg, rest)]
    if len(groups) == prefill.count + decode.count:
        return groups, []
    needed = sum(map(_needed, legs))
    return [], [f"{_sum(prefill)} and {_sum(decode)} need {needed} GPUs; {total} are visible"]


def _groups(leg: Leg, rest: Iterator[int]) -> Iterator[tuple[int, ...]]:
    """Ends early when there are no more."""
    each = leg.tp * leg.dp
    source = rest if leg.gpus is None else iter(leg.gpus)
    for _ in range(leg.count):
        group = tuple(gpu for _, gpu in zip(range(each), source, strict=False))
        if len(group) < each:
            return
        yield group


def _wrong(leg: Leg, gpus: tuple[int, ...], total: int) -> list[str]:
    variable = "PROD_GPU" if leg.role == "prefill" else "CONS_GPU"
    given = f"--{leg.role}-gpus ({variable}) {_list(gpus)}"
    if len(gpus) != _needed(leg):
        return [f"{given}: {_sum(leg)} need {_needed(leg)} GPUs"]
    if len(set(gpus)) < len(gpus):
        return [f"{given}: a GPU is there twice"]
    if max(gpus) >= total:
        return [f"{given}: {total} GPUs are visible, from 0"]
    return []


def _needed(leg: Leg) -> int:
    return leg.count * leg.tp * leg.dp


def _sum(leg: Leg) -> str:
    dp = f" and DP {leg.dp}" if leg.dp > 1 else ""
    return f"{leg.count} {leg.role} engine{'s' * (leg.count > 1)} with TP {leg.tp}{dp}"


def _list(gpus: set[int] | tuple[int, ...]) -> str:
    return ",".join(map(str, sorted(gpus) if isinstance(gpus, set) else gpus))
