"""Weights and due times: served within the same makespan, and never for a later one."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver.arrays import FloatArray
from solver.packing.check import check
from solver.packing.pipeline import first_plan, improvements
from solver.packing.plan import GOOD_ENOUGH, Method
from solver.packing.problem import Problem
from solver.packing.refine import ends, precedence
from tests.strategies import problems


def window(requests: int, workers: int, seed: int, share: float) -> Problem:
    """Work that can be balanced, of which a share is interactive."""
    rng = np.random.default_rng(seed)
    weight = np.where(rng.random(requests) < share, 4.0, 1.0)
    return Problem.related_of(rng.lognormal(0.0, 0.5, requests), np.ones(workers), weight=weight)


def planned_ends(problem: Problem, *, blind: bool = False) -> FloatArray:
    """When each request is done by the plan of the problem, or of one that knows no weights."""
    known = problem
    if blind:
        assert problem.related is not None
        known = Problem.related_of(problem.related.work_s, problem.related.slowness)
    plan = first_plan(known)
    assert plan is not None
    return ends(problem, np.array(plan.assignment), precedence(problem))


@pytest.mark.parametrize("seed", range(5))
def test_interactive_requests_end_earlier_within_the_same_makespan(seed: int) -> None:
    problem = window(100, 8, seed, 0.3)
    plan = first_plan(problem)
    assert plan is not None
    assert plan.finish_gap_ratio <= GOOD_ENOUGH * 1.5
    urgent = problem.weight > 1
    ours, blind = planned_ends(problem), planned_ends(problem, blind=True)
    assert ours[urgent].mean() < blind[urgent].mean()
    assert ours[urgent].max() < blind[urgent].max()


def test_a_better_plan_serves_priorities_too() -> None:
    """Unrelated times, where search goes on from the first plan."""
    rng = np.random.default_rng(0)
    weight = np.where(rng.random(60) < 0.3, 4.0, 1.0)
    problem = Problem.of(rng.uniform(1, 3, (60, 6)), weight=weight)
    looks = count()
    *_, best = improvements(problem, first_plan(problem), lambda: 1.0 - next(looks) / 300)
    order, urgent = precedence(problem), weight > 1
    end = ends(problem, np.array(best.assignment), order)
    assert best.method is not Method.HEURISTIC
    assert end[urgent].max() < 0.6 * best.finish_s


@pytest.mark.parametrize("seed", range(5))
def test_deadlines_are_kept_where_a_plan_without_them_misses_some(seed: int) -> None:
    base = window(60, 6, seed, 0.0)
    assert base.related is not None
    work = base.related.work_s
    due = np.full(60, np.inf)
    soon = np.argsort(-work)[:12]
    due[soon] = 2 * work[soon].max() * 1.05
    problem = Problem.related_of(work, np.ones(6), due_s=due)
    late = (planned_ends(problem) > due).sum()
    assert late <= (planned_ends(problem, blind=True) > due).sum()
    assert late == 0


@given(problems(max_requests=12, max_workers=4), st.integers(0, 99))
@settings(max_examples=60)
def test_plans_stay_feasible_and_finish_no_later(problem: Problem, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = problem.requests
    urgent = Problem.of(
        problem.cost_s,
        problem.initial_s,
        span_s=problem.spans_s,
        kv_tokens=problem.kv_tokens,
        kv_capacity=problem.kv_capacity,
        weight=rng.choice([0.25, 1.0, 4.0], n),
        due_s=np.where(rng.random(n) < 0.3, rng.uniform(0, 100, n), np.inf),
    )
    plain, found = first_plan(problem), first_plan(urgent)
    assert plain is not None
    assert found is not None
    check(urgent, found)
    assert found.finish_s <= max(plain.finish_s, plain.finish_bound_s * (1 + GOOD_ENOUGH)) * 1.0001
