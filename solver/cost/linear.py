"""Linear algebra of two to four unknowns in plain floats, where numpy's calls would take longer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TypeAlias

Vector: TypeAlias = tuple[float, ...]
Matrix: TypeAlias = list[list[float]]

SINGULAR = 1e-13  # a pivot below this share of its diagonal element is nothing but rounding


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    """The inner product, as far as `b` goes."""
    total = 0.0
    for i, value in enumerate(b):
        total += a[i] * value
    return total


def times(matrix: Matrix, factor: float) -> Matrix:
    """The matrix with every element multiplied."""
    return [[value * factor for value in row] for row in matrix]


def solve(system: Matrix) -> list[float] | None:
    """Solve ``matrix x = right`` for a symmetric positive definite matrix; None if it is not.

    Each row of the system is one of the matrix, with its element of `right` behind it.
    """
    if len(system) == 3:
        return _solve_three(system)
    rows = [[*row] for row in system]
    for i, row in enumerate(rows):
        pivot = row[i]
        if not pivot > SINGULAR * system[i][i]:  # true for NaN too
            return None
        for below in rows[i + 1 :]:
            if share := below[i] / pivot:
                for k in range(i + 1, len(row)):
                    below[k] -= share * row[k]
    found: list[float] = []
    for i in reversed(range(len(rows))):
        row = rows[i]
        found.insert(0, (row[-1] - dot(row[i + 1 :], found)) / row[i])
    return found


def _solve_three(system: Matrix) -> list[float] | None:
    """The same without loops, six times as fast: a decode round has three terms."""
    (a, b, c, x), (_, d, e, y), (_, _, f, z) = system
    if not a > 0:
        return None
    share_b, share_c = b / a, c / a
    d_left, e_left, y_left = d - share_b * b, e - share_b * c, y - share_b * x
    if not d_left > SINGULAR * d:
        return None
    share_e = e_left / d_left
    f_left = f - share_c * c - share_e * e_left
    if not f_left > SINGULAR * f:
        return None
    third = (z - share_c * x - share_e * y_left) / f_left
    second = (y_left - e_left * third) / d_left
    return [(x - b * second - c * third) / a, second, third]


def nearest(matrix: Matrix, point: Sequence[float]) -> list[float]:
    """The vector >= 0 nearest to `point`, by the distance ``d' matrix d``.

    With the matrix of a least squares problem and its solution, this is the solution without
    negative terms. Every choice of terms that are 0 is tried: there are few.
    """
    n = len(point)
    target = [dot(row, point) for row in matrix]
    best, least = [max(0.0, value) for value in point], float("inf")
    for size in range(n + 1):
        for kept in combinations(range(n), size):
            part = solve([[*(matrix[i][j] for j in kept), target[i]] for i in kept])
            if part is None or any(value < 0 for value in part):
                continue
            whole = [0.0] * n
            for i, value in zip(kept, part, strict=True):
                whole[i] = value
            # Of the distance, what does not depend on the choice is left out.
            distance = -dot(whole, target)
            if distance < least:
                best, least = whole, distance
    return best
