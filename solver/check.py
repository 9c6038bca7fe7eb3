"""Independent check of a plan: recomputed from the data, in plain loops, sharing no code with it.

Every plan passes here before it is used, so a defect in a heuristic, in the model or in the MIP
solver costs a plan and never a request.
"""

from __future__ import annotations

from math import inf, isclose, isfinite

from solver.errors import InvalidPlan
from solver.types import TOLERANCE, Plan, Problem


def check(problem: Problem, plan: Plan) -> None:
    """Return silently if `plan` is feasible and its figures are true.

    Raises:
        InvalidPlan: naming the first thing that is wrong.
    """
    load, span, room = _replay(problem, plan)
    for j, left in enumerate(room):
        if left < -TOLERANCE * max(1.0, float(problem.kv_capacity[j])):
            raise InvalidPlan(f"worker {j}: its memory is exceeded by {-left:.0f} tokens")
    used = set(plan.assignment)
    finish = max((max(load[j], span[j]) for j in used), default=0.0)
    makespan = max(finish, float(problem.initial_s.max()))
    for name, true, told in (
        ("finish_s", finish, plan.finish_s),
        ("makespan_s", makespan, plan.makespan_s),
    ):
        if not isclose(true, told, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            raise InvalidPlan(f"{name} is {true!r}, the plan says {told!r}")
    for name, bound, value in (
        ("finish_bound_s", plan.finish_bound_s, plan.finish_s),
        ("lower_bound_s", plan.lower_bound_s, plan.makespan_s),
    ):
        if bound > value * (1 + TOLERANCE) + TOLERANCE:
            raise InvalidPlan(f"{name} {bound!r} is beaten by the plan itself: {value!r}")


def _replay(problem: Problem, plan: Plan) -> tuple[list[float], list[float], list[float]]:
    """Hand out the requests one by one; (load, longest span, memory left) per worker."""
    if len(plan.assignment) != problem.requests:
        raise InvalidPlan(f"{len(plan.assignment)} assigned of {problem.requests} requests")
    load = [float(b) for b in problem.initial_s]
    span = [0.0] * problem.workers
    room = [float(k) if isfinite(k) else inf for k in problem.kv_capacity]
    for i, j in enumerate(plan.assignment):
        if not 0 <= j < problem.workers:
            raise InvalidPlan(f"request {i}: there is no worker {j}")
        cost = float(problem.cost_s[i, j])
        if not isfinite(cost):
            raise InvalidPlan(f"request {i}: worker {j} may not serve it")
        load[j] += cost
        span[j] = max(span[j], float(problem.span_s[i, j]))
        room[j] -= float(problem.kv_tokens[i])
    return load, span, room
