"""Plans: always feasible, never below the bound, and the best there is where one can count."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings

from solver.errors import InfeasibleProblem, InvalidPlan, ProblemError
from solver.packing.bounds import packing_bound
from solver.packing.check import check
from solver.packing.pipeline import (
    first_plan,
    first_plan_or_queue,
    improvements,
    is_better,
    plan,
    worth_improving,
)
from solver.packing.plan import Method, Plan, evaluate
from solver.packing.problem import Problem
from tests.strategies import problems

GAP_OVER_MEAN = 0.001  # what the MILP may leave, plus its weight for ties


def best_finish(problem: Problem) -> float:
    """By trying everything; infinite if nothing is feasible."""
    best = inf
    for assignment in product(range(problem.workers), repeat=problem.requests):
        candidate = evaluate(problem, assignment, 0.0, Method.MILP)
        try:
            check(problem, candidate)
        except InvalidPlan:
            continue
        best = min(best, candidate.finish_s)
    return best


@given(problems())
@settings(max_examples=60)
def test_bound_below_milp_below_heuristic_and_milp_is_the_optimum(problem: Problem) -> None:
    first = first_plan(problem)
    assert first is not None
    final = first
    for found in improvements(problem, first):
        assert found.finish_s <= final.finish_s * (1 + 1e-9)
        assert found.finish_bound_s >= final.finish_bound_s
        final = found
    optimum = best_finish(problem)
    assert first.finish_bound_s <= final.finish_bound_s <= optimum * (1 + 1e-9)
    assert optimum <= final.finish_s * (1 + 1e-9) <= first.finish_s * (1 + 2e-9)
    assert final.finish_s <= optimum * (1 + 3 * GAP_OVER_MEAN)


@given(problems(tight_memory=True))
@settings(max_examples=60)
def test_tight_memory_is_kept_or_refused_rightly(problem: Problem) -> None:
    optimum = best_finish(problem)
    try:
        found = plan(problem)
    except InfeasibleProblem:
        assert optimum == inf
    else:
        check(problem, found)
        assert found.finish_s <= optimum * (1 + 3 * GAP_OVER_MEAN)


@given(problems(max_requests=40, max_workers=8))
@settings(max_examples=100)
def test_heuristic_is_feasible_at_any_size(problem: Problem) -> None:
    found = first_plan(problem)
    assert found is not None
    check(problem, found)
    assert packing_bound(problem) <= found.finish_s * (1 + 1e-9)
    assert len(found.assignment) == problem.requests


@given(problems(max_requests=12, max_workers=4, tight_memory=True))
@settings(max_examples=60)
def test_live_traffic_always_gets_a_plan(problem: Problem) -> None:
    solved, found = first_plan_or_queue(problem)
    check(solved, found)


def test_same_problem_same_plan() -> None:
    problem = Problem.of(np.random.default_rng(3).uniform(1, 9, (30, 4)))
    assert first_plan(problem) == first_plan(problem)


def test_small_windows_minimise_their_own_finish_not_the_largest_backlog() -> None:
    problem = Problem.of([[5.0, 5.0, 5.0]], [100.0, 3.0, 1.0])
    found = plan(problem)
    assert found.assignment == (2,)
    assert (found.finish_s, found.makespan_s, found.lower_bound_s) == (6.0, 100.0, 100.0)
    assert found.finish_gap_ratio == 0.0


def test_slow_worker_gets_work_in_proportion() -> None:
    costs = [[1.0, 1.0, 3.0]] * 70
    counts = np.bincount(plan(Problem.of(costs)).assignment)
    assert counts.tolist() == [30, 30, 10]


def test_span_keeps_a_lone_long_request_off_a_slow_worker() -> None:
    problem = Problem.of([[1.0, 0.9]], span_s=[[2.0, 6.0]])
    assert plan(problem).assignment == (0,)


def test_the_solver_is_asked_only_where_it_can_win_more_than_its_deadline() -> None:
    first = first_plan(Problem.of([[3.0], [2.0]]))
    assert first is not None
    assert not worth_improving(first, 0.05)  # one worker: the bound is met
    loose = replace(first, finish_bound_s=first.finish_s - 0.06)
    assert worth_improving(loose, 0.05)
    assert not worth_improving(loose, 0.07)


def test_between_equal_finishes_earlier_ends_win() -> None:
    late = Plan((0,), 9.0, 9.0, 9.0, 9.0, 20.0, Method.HEURISTIC)
    assert is_better(replace(late, total_finish_s=19.0), late)
    assert not is_better(late, late)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"assignment": (0,)}, "1 assigned of 2"),
        ({"assignment": (0, 5)}, "no worker 5"),
        ({"assignment": (1, 1)}, "may not serve"),
        ({"finish_s": 0.5}, "finish_s"),
        ({"makespan_s": 0.5}, "makespan_s"),
        ({"finish_bound_s": 99.0}, "finish_bound_s"),
        ({"lower_bound_s": 99.0}, "lower_bound_s"),
    ],
)
def test_check_refuses(change: dict[str, object], complaint: str) -> None:
    problem = Problem.of([[1.0, 2.0], [2.0, 1.0]], eligible=[[True, False], [True, True]])
    good = plan(problem)
    with pytest.raises(InvalidPlan, match=complaint):
        check(problem, replace(good, **change))  # type: ignore[arg-type]


def test_check_refuses_more_than_fits_into_memory() -> None:
    problem = Problem.of([[1.0], [1.0]], kv_tokens=[5, 6], kv_capacity=[10])
    with pytest.raises(InvalidPlan, match="memory is exceeded by 1"):
        check(problem, evaluate(problem, (0, 0), 0.0, Method.HEURISTIC))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"cost_s": [[1.0], [2.0, 3.0]]}, "cost_s"),
        ({"cost_s": [["x"]]}, "cost_s"),
        ({"cost_s": [[-1.0]]}, "cost_s"),
        ({"cost_s": [[float("nan")]]}, "cost_s"),
        ({"cost_s": [[]]}, "no worker"),
        ({"cost_s": [[1.0]], "initial_s": [1.0, 2.0]}, "initial_s"),
        ({"cost_s": [[1.0]], "initial_s": [inf]}, "initial_s"),
        ({"cost_s": [[1.0]], "eligible": [[True, True]]}, "eligible"),
        ({"cost_s": [[1.0]], "kv_tokens": [1, 2]}, "kv_tokens"),
    ],
)
def test_malformed_problems_name_the_field(fields: dict[str, object], complaint: str) -> None:
    with pytest.raises(ProblemError, match=complaint):
        Problem.of(**fields)  # type: ignore[arg-type]


def test_a_request_that_fits_nowhere_is_named() -> None:
    problem = Problem.of([[1.0], [1.0]], kv_tokens=[1, 50], kv_capacity=[10])
    with pytest.raises(InfeasibleProblem, match="request 1 does not fit") as caught:
        plan(problem)
    assert caught.value.request == 1


def test_an_empty_window_has_an_empty_plan() -> None:
    found = plan(Problem.of(np.zeros((0, 2)), [3.0, 4.0]))
    assert (found.assignment, found.makespan_s, found.finish_s) == ((), 4.0, 0.0)
