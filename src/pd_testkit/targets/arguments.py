"""What callers do later to the arguments that a target was given."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any


def spoil(block_ids: Sequence[int], params: Mapping[str, Any]) -> dict[str, Any]:
    """As `contract.Metadata.spoil` says; the parameters as they were before."""
    found = copy.deepcopy(dict(params))
    for argument in (block_ids, params):
        _empty(argument)
    return found


def _empty(value: Any) -> None:
    if isinstance(value, dict):
        for part in value.values():
            _empty(part)
    elif isinstance(value, list):
        for part in value:
            _empty(part)
    else:
        return
    value.clear()
