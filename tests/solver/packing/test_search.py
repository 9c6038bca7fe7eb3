"""Local search: never worse, within the rules once it is there, and its figures are true."""

from __future__ import annotations

import random
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.lab.packing.instances import KINDS
from solver.packing.check import check
from solver.packing.heuristic import longest_first
from solver.packing.pipeline import first_plan
from solver.packing.plan import Method, evaluate
from solver.packing.problem import Problem, SecondsLeft
from solver.packing.search import Search
from tests.strategies import problems


def looks(most: int) -> SecondsLeft:
    """So many looks at the time."""
    left = count()
    return lambda: float(most - next(left))


@given(problems(max_requests=14, max_workers=5, tight_memory=True), st.integers(0, 9))
@settings(max_examples=150)
def test_a_walk_never_gets_worse_and_knows_where_it_is(problem: Problem, seed: int) -> None:
    rng = random.Random(seed)
    start = np.array([rng.randrange(problem.workers) for _ in range(problem.requests)])
    search = Search(problem, start, rng)
    before = search.worst_s
    search.descend(0.0, 30)
    between = search.worst_s
    search.walk(0.0, looks(60))
    assert search.worst_s <= between * (1 + 1e-9) <= before * (1 + 2e-9)
    for j, mine in enumerate(search.assigned):
        assert sorted(mine) == np.flatnonzero(search.assignment == j).tolist()
    fresh = Search(problem, search.assignment, rng)
    assert fresh.finish == pytest.approx(search.finish)
    if search.allowed:
        plan = evaluate(problem, search.assignment, 0.0, Method.SEARCH)
        check(problem, plan)
        assert plan.finish_s == pytest.approx(search.worst_s)


def test_a_start_that_breaks_memory_limits_is_repaired() -> None:
    problem = KINDS["memory"](64, 8, 0)
    start = longest_first(Problem.of(problem.cost_s))
    assert start is not None
    search = Search(problem, start, random.Random(0))
    assert not search.allowed
    search.descend(0.0, 200)
    assert search.allowed


def test_nobody_stays_where_they_may_not_be() -> None:
    problem = KINDS["two-way"](50, 8, 0)
    search = Search(problem, np.zeros(50, dtype=np.intp), random.Random(0))
    search.walk(0.0, looks(2000))
    assert search.allowed
    check(problem, evaluate(problem, search.assignment, 0.0, Method.SEARCH))


def test_a_chain_of_moves_where_no_exchange_helps() -> None:
    """0 -> 1 -> 2: each request has two workers, and only the last has time."""
    never = np.inf
    cost = [[4.0, 4.0, never], [never, 4.0, 4.0], [3.0, never, never]]
    search = Search(Problem.of(cost), np.array([0, 1, 0]), random.Random(0))
    search.descend(0.0, 5)
    assert search.assignment.tolist() == [1, 2, 0]


@pytest.mark.parametrize("kind", ["affinity", "hardware", "memory", "everything"])
def test_a_walk_pays(kind: str) -> None:
    problem = KINDS[kind](64, 8, 1)
    first = first_plan(problem)
    assert first is not None
    search = Search(problem, np.array(first.assignment), random.Random(0))
    search.walk(first.finish_bound_s, looks(500))
    assert search.worst_s < first.finish_s
