"""The planner's pipeline: bound, heuristic, relaxation, search, MILP, check, the better one.

Rules:
- there is always an incumbent before anything slow starts, and that may only improve on it;
- no plan leaves this module unchecked;
- it stops where the bound certifies that little more could be won;
- whoever lacks time may stop after `first_plan`; `improvements` may run elsewhere, be listened to
  while it runs, and be abandoned.

`plan` runs all of it in this process; the gateway runs `first_plan` itself and `improvements` in a
child process, which it does not wait for beyond its deadline.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from math import inf

import numpy as np

from solver.arrays import IntArray
from solver.errors import InfeasibleProblem, NoPlanInTime
from solver.packing.bounds import packing_bound
from solver.packing.check import check
from solver.packing.heuristic import even_noise, longest_first, pack_related
from solver.packing.improve import PROVABLE_PAIRS, Improver
from solver.packing.infeasible import require_placeable
from solver.packing.plan import GOOD_ENOUGH, PROVEN, Method, Plan, evaluate
from solver.packing.problem import TOLERANCE, Problem, SecondsLeft
from solver.packing.refine import refine
from solver.packing.search import Search

# Steps of local search in a first plan: each shortens a worker that finishes last, and at 500
# requests on 32 workers so many stay within what an event loop can bear.
FIRST_STEPS = 24
# Beyond so many pairs of a request and a worker, only the fast path is quick enough for a loop.
FIRST_PAIRS = 1 << 18


def plan(problem: Problem, left_s: SecondsLeft | None = None) -> Plan:
    """The whole pipeline in this process.

    `left_s` tells the seconds left until the deadline; without it, it goes on until the plan is
    good enough.

    Raises:
        InfeasibleProblem: if it is proven that no plan exists.
        NoPlanInTime: if none was found by the deadline.
    """
    best = first_plan(problem, left_s)
    for found in improvements(problem, best, left_s):
        best = found
    if best is None:
        raise NoPlanInTime("no plan within the workers' memory was found before the deadline")
    return best


def first_plan(
    problem: Problem, left_s: SecondsLeft | None = None, steps: int = FIRST_STEPS
) -> Plan | None:
    """Bound and heuristic: checked, in milliseconds. None if memory is too tight for it.

    `steps` are those of local search.

    Raises:
        InfeasibleProblem: if a request fits on no worker at all, or all together do not.
    """
    require_placeable(problem)
    if problem.requests == 0:
        return evaluate(problem, (), 0.0, Method.HEURISTIC)
    if problem.requests == 1:  # it ends where it ends earliest, and nowhere earlier
        fits = problem.kv_tokens[0] <= problem.kv_capacity
        alone = np.where(fits, problem.alone_s[0], np.inf)
        found = np.array([alone.argmin()])
        bound = float(alone.min())
    else:
        bound = packing_bound(problem)
        first = _first(problem, bound, left_s, steps)
        if first is None:
            return None
        found = refine(problem, first, bound * (1 + GOOD_ENOUGH), steps)
    result = evaluate(problem, found, bound, Method.HEURISTIC)
    check(problem, result)
    return result


def _first(
    problem: Problem, bound_s: float, left_s: SecondsLeft | None, steps: int
) -> IntArray | None:
    """The best of a few quick attempts."""
    goal, best, best_s = bound_s * (1 + GOOD_ENOUGH), None, inf
    for noise in (even_noise(problem.requests), np.zeros(problem.requests)):
        found = pack_related(problem, bound_s, goal * (1 - 1e-6), noise)
        if found is None:
            break
        finish = evaluate(problem, found, 0.0, Method.HEURISTIC).finish_s
        if finish < best_s:
            best, best_s = found, finish
        if finish <= goal or (left_s is not None and left_s() <= 0):
            return best
    if best is not None and problem.requests * problem.workers > FIRST_PAIRS:
        return best
    placed = _descended(problem, goal, left_s, steps)
    if placed is not None and placed.worst_s < best_s:
        return placed.assignment if placed.allowed else None
    return best


def _descended(
    problem: Problem, goal_s: float, left_s: SecondsLeft | None, steps: int
) -> Search | None:
    """Longest first, and down from there; where memory ran out, back into its limits if it can."""
    start = longest_first(problem, left_s)
    if start is None:
        unlimited = replace(problem, kv_capacity=np.full(problem.workers, np.inf))
        start = longest_first(unlimited, left_s)
    if start is None:
        return None
    search = Search(problem, start, random.Random(0))
    search.descend(goal_s, steps, left_s)
    if not search.allowed:
        search.descend(goal_s, problem.requests, left_s)
    return search


def first_plan_or_queue(problem: Problem) -> tuple[Problem, Plan]:
    """The first plan; where memory is too tight for one, that of the problem without its limits.

    For live traffic: what does not fit at once queues until memory falls free. Returns the problem
    that was planned, too.

    Raises:
        InfeasibleProblem: if a request has no eligible worker.
    """
    try:
        found = first_plan(problem)
    except InfeasibleProblem:
        found = None
    if found is None:
        problem = replace(problem, kv_capacity=np.full(problem.workers, np.inf))
        found = first_plan(problem)
    assert found is not None  # without memory limits longest-first places everything
    return problem, found


def worth_improving(incumbent: Plan, deadline_s: float) -> bool:
    """Whether improving could win more than it costs.

    At best it saves the distance to the bound; it may cost the deadline, during which the requests
    wait.
    """
    to_win_s = incumbent.finish_s - incumbent.finish_bound_s
    return not incumbent.good_enough and to_win_s > deadline_s


def nothing_to_win(problem: Problem, incumbent: Plan) -> bool:
    """Whether what could still be won is not worth looking for, however much time there is."""
    if incumbent.finish_gap_ratio <= PROVEN or problem.requests > PROVABLE_PAIRS:
        return incumbent.good_enough
    few = np.count_nonzero(problem.eligible) <= PROVABLE_PAIRS
    return incumbent.good_enough and not few  # few are solved to the end


def improvements(
    problem: Problem, incumbent: Plan | None, left_s: SecondsLeft | None = None
) -> Iterator[Plan]:
    """Better plans and better bounds, as they are found, each better than the one before.

    Raises:
        InfeasibleProblem: if it is proven that there is no plan.
    """
    if incumbent is not None and nothing_to_win(problem, incumbent):
        return
    best = incumbent
    for assignment, bound_s, method in Improver(problem, incumbent, left_s).run():
        found = best
        if assignment is not None:
            served = refine(problem, assignment, bound_s * (1 + GOOD_ENOUGH), FIRST_STEPS)
            found = evaluate(problem, served, bound_s, method)
            check(problem, found)
        if found is None:
            continue
        if best is not None and not is_better(found, best):
            found = evaluate(problem, best.assignment, bound_s, best.method)
            check(problem, found)
        best = found
        yield best


def warm_up() -> None:
    """Load what the first problem should not have to wait for."""
    for _ in improvements(Problem.of([[1.0, 2.0], [2.0, 1.0]]), None):
        pass


def supersedes(a: Plan, b: Plan) -> bool:
    """Whether `a` is better than `b`, or says more of how good a plan could be."""
    return is_better(a, b) or a.finish_bound_s > b.finish_bound_s


def is_better(a: Plan, b: Plan) -> bool:
    """Whether `a` finishes its new work before `b`, or as early with earlier ends on the way."""
    margin = TOLERANCE * max(a.finish_s, b.finish_s)
    if abs(a.finish_s - b.finish_s) > margin:
        return a.finish_s < b.finish_s
    return a.total_finish_s < b.total_finish_s * (1 - TOLERANCE)
