"""All plans near the bound: the optimum, and no bound above it, whatever the prices."""

from __future__ import annotations

from itertools import count, product
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.lab.packing.instances import KINDS
from solver.packing.bounds import packing_bound
from solver.packing.enumeration import best_near_bound
from solver.packing.pipeline import plan
from solver.packing.plan import Method, Status, evaluate
from solver.packing.problem import Problem


@st.composite
def cases(draw: st.DrawFn) -> tuple[Problem, np.ndarray]:
    """Up to nine requests, with one or two workers each of up to five, and prices."""
    n, m = draw(st.integers(1, 9)), draw(st.integers(2, 5))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    eligible = np.zeros((n, m), dtype=np.bool_)
    for row in eligible:
        row[rng.choice(m, rng.integers(1, 3), replace=False)] = True
    whole = draw(st.booleans())  # many ties
    cost = rng.integers(0, 6, (n, m)).astype(float) if whole else rng.lognormal(0, 0.7, (n, m))
    initial = rng.uniform(0, 3, m) * rng.integers(0, 2, m)
    price = np.maximum(rng.uniform(-0.5 if draw(st.booleans()) else 0.1, 1.0, m), 0.0)
    return Problem.of(cost, initial, eligible=eligible), price


def finish(problem: Problem, assignment: tuple[int, ...]) -> float:
    return evaluate(problem, assignment, 0.0, Method.ENUMERATION).finish_s


def optimum(problem: Problem) -> float:
    choices = [np.flatnonzero(row).tolist() for row in problem.eligible]
    return min(finish(problem, chosen) for chosen in product(*choices))


@given(cases(), st.floats(0.5, 2.0))
@settings(max_examples=200)
def test_it_is_the_optimum_or_proven_that_none_is_so_early(
    case: tuple[Problem, np.ndarray], times: float
) -> None:
    problem, price = case
    best, bound = optimum(problem), packing_bound(problem)
    latest = max(best * times, bound)
    found, reached = best_near_bound(problem, price, bound, latest, lambda: 1.0)
    assert reached <= max(best, latest if latest < best else 0.0) * (1 + 1e-7) + 1e-12
    if found is not None:
        assert finish(problem, tuple(found.tolist())) <= latest * (1 + 1e-7)
    if (price > 0).all() and latest > bound > 0:
        assert reached == pytest.approx(min(best, latest), rel=1e-6)
        assert (found is not None) == (best <= latest) or latest == pytest.approx(best)


@pytest.mark.parametrize("workers", [8, 16])
@pytest.mark.parametrize("seed", range(4))
def test_windows_of_a_hundred_pairs_are_proven_optimal(workers: int, seed: int) -> None:
    looks = count()
    found = plan(KINDS["two-way"](50, workers, seed), lambda: 10.0 - next(looks) / 1000)
    assert found.status is Status.OPTIMAL


def test_it_gives_up_when_time_is_over_and_where_there_are_too_many() -> None:
    problem = KINDS["two-way"](50, 8, 0)
    bound, price = packing_bound(problem), np.ones(8)
    found, reached = best_near_bound(problem, price, bound, inf, lambda: 0.0)
    assert found is None
    assert bound <= reached <= plan(problem, lambda: 1.0).finish_bound_s
    many = KINDS["two-way"](400, 8, 0)
    assert best_near_bound(many, price, packing_bound(many), inf, lambda: 1.0)[0] is None
    wide = KINDS["four-way"](20, 8, 0)
    assert best_near_bound(wide, price, packing_bound(wide), inf, lambda: 1.0)[0] is None
