"""Who of those that finish in time is first: weights and due times, within the same makespan.

A worker serves what it has by weight, then by due time, then longest first. A plan's *lateness* is
the weight of the requests that end after their due time, its *waiting* the sum of weights times
ends. Among plans that finish as early, the least lateness wins, then the least waiting.
"""

from __future__ import annotations

import random

import numpy as np

from solver.arrays import FloatArray, IntArray
from solver.packing.heuristic import longest_first
from solver.packing.problem import TOLERANCE, Problem
from solver.packing.search import Search

# Exchanges tried for late requests, to each step of local search: both take about as long.
TRIES_A_STEP = 4
# Beyond so many pairs of a request and a worker, priorities only order what a worker has.
MOST_PAIRS = 1 << 18


def refine(problem: Problem, assignment: IntArray, limit_s: float, steps: int) -> IntArray:
    """An assignment that serves weights and due times better, and finishes no later.

    "No later" is by `limit_s`, or with `assignment` if that is later; `steps` are those of local
    search that it may take.
    """
    same = bool((problem.weight == problem.weight[0]).all() and np.isinf(problem.due_s).all())
    if same or problem.requests * problem.workers > MOST_PAIRS:
        return assignment
    order = precedence(problem)
    search = Search(problem, assignment, random.Random(0))
    limit = max(limit_s, search.worst_s) * (1 + TOLERANCE)
    best, value = assignment, _value(problem, assignment, order)
    placed = longest_first(problem, order=order)
    if placed is not None:
        search = Search(problem, placed, random.Random(0))
        search.descend(limit, steps)
        found = _value(problem, search.assignment, order)
        if search.worst_s <= limit and found < value:
            best, value = search.assignment, found
    tries = TRIES_A_STEP * steps
    return _in_time(problem, best, order, limit, tries) if value[0] > 0 else best


def precedence(problem: Problem) -> IntArray:
    """(n,) requests in the order in which a worker serves them: its own among these."""
    longest = -problem.cost_s.min(axis=1)
    return np.lexsort((longest, problem.due_s, -problem.weight))


def ends(problem: Problem, assignment: IntArray, order: IntArray) -> FloatArray:
    """(n,) seconds until each request is done if workers serve what they have in this order."""
    end = np.empty(problem.requests)
    load = problem.initial_s.tolist()
    cost, span = problem.costs_of(assignment).tolist(), problem.spans_of(assignment)
    for i, j in zip(order.tolist(), assignment[order].tolist(), strict=True):
        load[j] += cost[i]
        end[i] = load[j]
    return np.maximum(end, span)


def _value(problem: Problem, assignment: IntArray, order: IntArray) -> tuple[float, float]:
    """(lateness, waiting)."""
    end = ends(problem, assignment, order)
    return float(problem.weight[end > problem.due_s].sum()), float(problem.weight @ end)


def _in_time(
    problem: Problem, best: IntArray, order: IntArray, limit_s: float, tries: int
) -> IntArray:
    """Exchange late requests for others of about their size that are served elsewhere."""
    value = _value(problem, best, order)
    end = ends(problem, best, order)
    late = [i for i in order.tolist() if end[i] > problem.due_s[i]]
    for i in late:
        j = int(best[i])
        for other in _rivals(problem, best, i):
            if not tries:
                return best
            tries -= 1
            found = best.copy()
            found[i], found[other] = best[other], j
            new = _value(problem, found, order)
            if new < value and Search(problem, found, random.Random(0)).worst_s <= limit_s:
                best, value = found, new
                break
    return best


def _rivals(problem: Problem, assignment: IntArray, i: int) -> list[int]:
    """Requests of less weight on other workers, those nearest in size first, one a worker."""
    cost = problem.costs_of(assignment)
    lighter = (problem.weight < problem.weight[i]) | (problem.due_s > problem.due_s[i])
    away = np.flatnonzero(lighter & (assignment != assignment[i]))
    nearest = away[np.argsort(np.abs(cost[away] - cost[i]), kind="stable")]
    _, first = np.unique(assignment[nearest], return_index=True)
    return [int(nearest[at]) for at in np.sort(first)]
