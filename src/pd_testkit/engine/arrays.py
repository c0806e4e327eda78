"""What the model computes with: NumPy's arrays on the device ``cpu``, torch's tensors on any other.

Of a token of a small model most is the time that a library takes to begin an operation, and NumPy
takes a third of torch's. The model is written once, in what both have under one name: operators,
indexing, `reshape`, `swapaxes`, `view`, `round`, `sum`, and functions of the `library`. Here is
what they have under two.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Array = Any
"""NumPy's or torch's."""


def library(x: Array) -> ModuleType:
    """The module that has the functions for `x`."""
    return np if isinstance(x, np.ndarray) else torch


def placed(tensor: torch.Tensor, device: str) -> Array:
    """What the device computes with, of a tensor of the CPU; may share its memory."""
    return tensor.numpy() if device == "cpu" else tensor.to(device)


def beside(x: Array, numbers: npt.NDArray[Any]) -> Array:
    """The same numbers where `x` is."""
    return numbers if isinstance(x, np.ndarray) else torch.from_numpy(numbers).to(x.device)


def fetched(x: Array) -> npt.NDArray[Any]:
    """The same numbers for the CPU to look at."""
    numbers: npt.NDArray[Any] = x if isinstance(x, np.ndarray) else x.cpu().numpy()
    return numbers


def operand(x: Array, value: float) -> Array:
    """A number for an operation with `x`. Of a Python float NumPy makes an array first, which takes
    longer than to add it to a token's activations."""
    return _scalar(value) if isinstance(x, np.ndarray) else value


@functools.cache
def _scalar(value: float) -> npt.NDArray[np.float64]:
    return np.array(value)


def take(x: Array, rows: Array) -> Array:
    """A copy of these rows."""
    return x.take(rows, axis=0) if isinstance(x, np.ndarray) else x.index_select(0, rows)


def put(x: Array, rows: Array, values: Array) -> None:
    """Into these rows of it."""
    if isinstance(x, np.ndarray):
        x[rows] = values
    else:
        x.index_copy_(0, rows, values.to(x.dtype))


def largest(x: Array) -> Array:
    """Along the last axis, which stays, of length 1."""
    if isinstance(x, np.ndarray):
        return np.maximum.reduce(x, axis=-1, keepdims=True)
    return x.amax(-1, keepdim=True)


def total(x: Array) -> Array:
    """Along the last axis, which stays, of length 1."""
    if isinstance(x, np.ndarray):
        return np.add.reduce(x, axis=-1, keepdims=True)
    return x.sum(-1, keepdim=True)


def exp(x: Array) -> Array:
    """In place. It is torch's, which has vector instructions for it on all processors: NumPy's
    takes three times as long for a prompt. One of them for all sizes, as they differ in last bits.
    """
    (torch.from_numpy(x) if isinstance(x, np.ndarray) else x).exp_()
    return x
