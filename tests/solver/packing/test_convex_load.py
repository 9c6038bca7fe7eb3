"""The assignment with convex load: patched as if built anew, and as good as trying everything."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.arrays import FloatArray
from solver.packing.milp.compile import compile_model
from solver.packing.milp.convex_load import convex_load_model, program, solve_convex_load


@st.composite
def costs(draw: st.DrawFn) -> tuple[FloatArray, FloatArray]:
    """(n, m) and (m, k); some pairs are forbidden, and some workers lack their last places."""
    n, m, k = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(2, 5))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    place = rng.integers(0, 20, (n, m)).astype(np.float64)
    place[rng.random((n, m)) < 0.2] = np.inf
    place[np.arange(n), rng.integers(0, m, n)] = 7.0
    more = np.sort(rng.integers(0, 9, (m, k)), axis=1).astype(np.float64)
    more[:, 0] = 0.0
    return place, more


def cheapest(place: FloatArray, more: FloatArray) -> float:
    """By trying all plans; whoever comes after the last place costs as much as there."""
    n, m = place.shape
    best = np.inf
    for plan in product(range(m), repeat=n):
        total = float(place[np.arange(n), list(plan)].sum())
        for j in range(m):
            total += sum(more[j, min(k, more.shape[1] - 1)] for k in range(plan.count(j)))
        best = min(best, total)
    return best


@given(costs())
def test_it_finds_the_cheapest(numbers: tuple[FloatArray, FloatArray]) -> None:
    place, more = numbers
    found = solve_convex_load(place, more)
    assert found is not None
    assert found.total_s == pytest.approx(cheapest(place, more), abs=1e-6)
    n, m = place.shape
    assert (place[np.arange(n), found.workers] < np.inf).all()
    assert (found.price <= 0).all()
    mine = place + 0.0
    total = float(mine[np.arange(n), found.workers].sum())
    for count, row in zip(np.bincount(found.workers, minlength=m), more, strict=True):
        total += sum(row[min(k, len(row) - 1)] for k in range(count))
    assert total == pytest.approx(found.total_s, abs=1e-6)  # the corners are whole


@given(costs())
def test_a_patched_model_is_the_one_that_would_be_built(
    numbers: tuple[FloatArray, FloatArray],
) -> None:
    place, more = numbers
    n, m = place.shape
    fresh, patched = compile_model(convex_load_model(place, more)).numbers, program(place, more)
    padded = (len(patched.cost) - len(fresh.cost)) // m
    columns = np.r_[: n * m, (n + padded) * m : len(patched.cost)]
    rows = np.r_[:n, n + padded : n + padded + m]
    for name in ("cost", "col_lower", "col_upper"):
        np.testing.assert_array_equal(getattr(patched, name)[columns], getattr(fresh, name))
    for name in ("row_lower", "row_upper"):
        np.testing.assert_array_equal(getattr(patched, name)[rows], getattr(fresh, name))
    idle = np.delete(np.arange(n + padded), np.arange(n))
    assert (patched.row_lower[idle] == 0).all()
    assert (patched.row_upper[idle] == 0).all()
    np.testing.assert_array_equal(_dense(patched)[np.ix_(rows, columns)], _dense(fresh))


def _dense(numbers: object) -> FloatArray:
    starts, index, data = (getattr(numbers, name) for name in ("starts", "index", "data"))
    dense = np.zeros((len(numbers.row_lower), len(numbers.cost)))  # type: ignore[attr-defined]
    column = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    dense[index, column] = data
    return dense


def test_without_time_there_is_no_answer() -> None:
    place = np.random.default_rng(0).uniform(1, 9, (64, 16))
    more = np.tile(np.arange(24.0), (16, 1))
    assert solve_convex_load(place, more, lambda: 0.0) is None
