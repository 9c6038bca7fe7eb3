"""Arrays from outside, checked: what is wrong is named."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from solver.errors import ProblemError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]
BoolArray = NDArray[np.bool_]

# Sums of larger numbers would lose what smaller ones say.
LARGEST = 1e12


def vectors(
    n: int,
    m: int,
    initial_s: ArrayLike | None,
    kv_tokens: ArrayLike | None,
    kv_capacity: ArrayLike | None,
    weight: ArrayLike | None,
    due_s: ArrayLike | None,
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
    """What a problem of n requests and m workers has beside its matrices, with defaults."""
    initial = vector("initial_s", initial_s, m, 0.0)
    if not np.all(np.isfinite(initial)):
        raise ProblemError("initial_s: must be finite")
    tokens = vector("kv_tokens", kv_tokens, n, 0.0)
    room = vector("kv_capacity", kv_capacity, m, np.inf)
    worth, due = vector("weight", weight, n, 1.0), vector("due_s", due_s, n, np.inf)
    for name, values in (("kv_tokens", tokens), ("weight", worth)):
        if not np.all(np.isfinite(values)):
            raise ProblemError(f"{name}: must be finite")
    return initial, tokens, room, worth, due


def vector(name: str, values: ArrayLike | None, length: int, default: float) -> FloatArray:
    """Numbers >= 0, or the default for all."""
    return np.full(length, default) if values is None else array(name, values, 1, (length,))


def mask(name: str, values: ArrayLike, shape: tuple[int, ...]) -> BoolArray:
    """True or false everywhere."""
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ProblemError(f"{name}: not a matrix ({error})") from error
    if array.shape != shape:
        raise ProblemError(f"{name}: shape {array.shape}, expected {shape}")
    if array.dtype.kind not in "biu":
        raise ProblemError(f"{name}: must be true or false everywhere")
    return array.astype(np.bool_)


def array(
    name: str, values: ArrayLike, dimensions: int, shape: tuple[int, ...] | None = None
) -> FloatArray:
    """Numbers >= 0, in so many dimensions.

    Raises:
        ProblemError: if there is anything else.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ProblemError(f"{name}: not an array of numbers ({error})") from error
    if array.ndim == 1 and dimensions == 2 and array.size == 0:
        array = array.reshape(0, 1)
    if array.ndim != dimensions or (shape is not None and array.shape != shape):
        wanted = shape if shape is not None else f"{dimensions} dimensions"
        raise ProblemError(f"{name}: shape {array.shape}, expected {wanted}")
    if np.any(np.isnan(array)) or np.any(array < 0):
        raise ProblemError(f"{name}: must be >= 0 everywhere")
    if np.any(np.isfinite(array) & (array > LARGEST)):
        raise ProblemError(f"{name}: numbers beyond {LARGEST:g} are no seconds or tokens")
    return array
