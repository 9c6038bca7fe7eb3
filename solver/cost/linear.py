"""Linear algebra of two to four unknowns in plain floats, where numpy's calls would take longer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TypeAlias

Vector: TypeAlias = tuple[float, ...]
Matrix: TypeAlias = list[list[float]]

SINGULAR = 1e-13  # a pivot below this share of its diagonal element is nothing but rounding


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    """The inner product."""
    total = 0.0
    for x, y in zip(a, b, strict=True):
        total += x * y
    return total


def times(matrix: Matrix, factor: float) -> Matrix:
    """The matrix with every element multiplied."""
    return [[value * factor for value in row] for row in matrix]


def solve(matrix: Sequence[Sequence[float]], right: Sequence[float]) -> list[float] | None:
    """Solve ``matrix x = right`` for a symmetric positive definite matrix; None if it is not."""
    n = len(right)
    rows = [[*matrix[i], right[i]] for i in range(n)]
    for i in range(n):
        pivot = rows[i][i]
        if not pivot > SINGULAR * matrix[i][i]:  # true for NaN too
            return None
        for j in range(i + 1, n):
            share = rows[j][i] / pivot
            if share:
                for k in range(i, n + 1):
                    rows[j][k] -= share * rows[i][k]
    found = [0.0] * n
    for i in reversed(range(n)):
        rest = rows[i][n]
        for k in range(i + 1, n):
            rest -= rows[i][k] * found[k]
        found[i] = rest / rows[i][i]
    return found


def nearest(matrix: Matrix, point: Sequence[float]) -> Vector:
    """The vector >= 0 nearest to `point`, by the distance ``d' matrix d``.

    With the matrix of a least squares problem and its solution, this is the solution without
    negative terms. Every choice of terms that are 0 is tried: there are few.
    """
    n = len(point)
    target = [dot(row, point) for row in matrix]
    best, least = tuple(max(0.0, value) for value in point), float("inf")
    for size in range(n + 1):
        for kept in combinations(range(n), size):
            part = solve([[matrix[i][j] for j in kept] for i in kept], [target[i] for i in kept])
            if part is None or any(value < 0 for value in part):
                continue
            whole = [0.0] * n
            for i, value in zip(kept, part, strict=True):
                whole[i] = value
            # Of the distance, what does not depend on the choice is left out.
            distance = -sum(whole[i] * target[i] for i in kept)
            if distance < least:
                best, least = tuple(whole), distance
    return best
