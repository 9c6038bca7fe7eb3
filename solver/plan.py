"""The planner's pipeline: bound, heuristic, MILP where it can pay, check, the better one.

Rules:
- there is always an incumbent before the MILP starts, and the MILP may only improve on it;
- no plan leaves this module unchecked;
- whoever lacks time may stop after `first_plan`; `improved` may run elsewhere and be abandoned.

`plan` runs all of it in this process; the gateway runs `first_plan` itself and `improved` in a
child process, which it does not wait for beyond its deadline.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from solver.bounds import packing_bound
from solver.check import check
from solver.errors import InfeasibleProblem
from solver.heuristic import longest_first, polish
from solver.types import TOLERANCE, Left, Method, Plan, Problem, measure

# Beyond this many (request, worker) pairs building the model alone eats a deadline of 50 ms.
MILP_PAIRS = 1500
# Plans this close to the bound are as good as optimal: predictions are off by far more.
GOOD_ENOUGH = 0.001


def plan(problem: Problem, left_s: Left | None = None) -> Plan:
    """The whole pipeline in this process.

    `left_s` tells the seconds left until the deadline; without it the MILP runs to its end.

    Raises:
        InfeasibleProblem: if no plan exists, or none was found by the deadline.
    """
    incumbent = first_plan(problem)
    if incumbent is not None:
        deadline_s = None if left_s is None else left_s()
        if not milp_pays(problem, incumbent, deadline_s):
            return incumbent
    result = improved(problem, incumbent, left_s)
    if result is None:
        raise InfeasibleProblem("no plan within the workers' memory was found before the deadline")
    return result


def first_plan(problem: Problem) -> Plan | None:
    """Bound and heuristic: checked, in milliseconds. None if memory is too tight for it.

    Raises:
        InfeasibleProblem: if a request fits on no worker at all.
    """
    _require_placeable(problem)
    if problem.requests == 0:
        return measure(problem, (), 0.0, Method.HEURISTIC)
    found = longest_first(problem)
    if found is None:
        return None
    if problem.requests == 1:  # it ends where it ends earliest, and nowhere earlier
        bound = float(problem.alone_s[0, found[0]])
    else:
        bound = packing_bound(problem)
        found = polish(problem, found, bound)
    result = measure(problem, found.tolist(), bound, Method.HEURISTIC)
    check(problem, result)
    return result


def first_plan_or_queue(problem: Problem) -> tuple[Problem, Plan]:
    """The first plan; where memory is too tight for one, that of the problem without its limits.

    For live traffic: what does not fit at once queues at its worker until memory falls free. Late
    binding will hold such requests back here instead. Returns the problem that was planned, too.

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


def milp_pays(problem: Problem, incumbent: Plan, deadline_s: float | None) -> bool:
    """Whether the MILP could win more than it costs.

    At best it saves the distance to the bound; it may cost the deadline, during which the requests
    wait. With no deadline it is always worth it until the plan is good enough.
    """
    to_win_s = incumbent.finish_s - incumbent.finish_bound_s
    if incumbent.finish_gap_ratio <= GOOD_ENOUGH:
        return False
    if deadline_s is None:
        return True
    pairs = int(np.count_nonzero(problem.alone_s <= incumbent.finish_s * (1 + TOLERANCE)))
    return to_win_s > deadline_s and pairs <= MILP_PAIRS


def improved(problem: Problem, incumbent: Plan | None, left_s: Left | None = None) -> Plan | None:
    """The MILP's plan if it is better than the incumbent, else the incumbent with a better bound.

    Raises:
        InfeasibleProblem: if the MILP proves that there is no plan.
    """
    from solver.milp import packing  # late: Pyomo and HiGHS load only where a model is solved

    bound = packing_bound(problem) if incumbent is None else incumbent.finish_bound_s
    outcome = packing.solve(problem, incumbent, bound_s=bound, left_s=left_s, gap=GOOD_ENOUGH)
    if outcome.infeasible and incumbent is None:
        raise InfeasibleProblem("the requests do not fit into the workers' memory together")
    bound = max(bound, outcome.finish_bound_s or 0.0)
    if outcome.assignment is not None:
        found = measure(problem, outcome.assignment, bound, Method.MILP)
        check(problem, found)
        if incumbent is None or better(found, incumbent):
            return found
    if incumbent is None:
        return None
    kept = measure(problem, incumbent.assignment, bound, incumbent.method)
    check(problem, kept)
    return kept


def better(a: Plan, b: Plan) -> bool:
    """Whether `a` finishes its new work before `b`, or as early with earlier ends on the way."""
    margin = TOLERANCE * max(a.finish_s, b.finish_s)
    if abs(a.finish_s - b.finish_s) > margin:
        return a.finish_s < b.finish_s
    return a.total_finish_s < b.total_finish_s * (1 - TOLERANCE)


def _require_placeable(problem: Problem) -> None:
    fits = problem.eligible & (problem.kv_tokens[:, None] <= problem.kv_capacity)
    homeless = np.flatnonzero(~fits.any(axis=1))
    if len(homeless):
        i = int(homeless[0])
        why = "does not fit into any eligible worker's memory"
        if not problem.eligible[i].any():
            why = "has no eligible worker"
        raise InfeasibleProblem(f"request {i} {why}", request=i)
