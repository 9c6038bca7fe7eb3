"""Independent check of a plan: recomputed from the data, sharing no code with those who made it.

Every plan passes here before it is used, so a defect in a heuristic, in the model or in the MIP
solver costs a plan and never a request.
"""

from __future__ import annotations

from math import isclose

import numpy as np
from numpy.typing import NDArray

from solver.errors import InvalidPlan
from solver.packing.plan import Plan
from solver.packing.problem import TOLERANCE, Problem


def check(problem: Problem, plan: Plan) -> None:
    """Return silently if `plan` is feasible and its figures are true.

    Raises:
        InvalidPlan: naming the first thing that is wrong.
    """
    chosen = np.array(plan.assignment, dtype=np.int64)
    if len(chosen) != problem.requests:
        raise InvalidPlan(f"{len(chosen)} assigned of {problem.requests} requests")
    _require_allowed(problem, chosen)
    workers = problem.workers
    load = problem.initial_s + np.bincount(chosen, problem.costs_of(chosen), workers)
    tokens = np.bincount(chosen, problem.kv_tokens, workers)
    over = tokens - problem.kv_capacity
    if np.any(over > TOLERANCE * np.maximum(1.0, problem.kv_capacity)):
        j = int(over.argmax())
        raise InvalidPlan(f"worker {j}: its memory is exceeded by {over[j]:.0f} tokens")
    used = np.unique(chosen)
    finish = float(load[used].max(initial=0.0))
    finish = max(finish, float(problem.spans_of(chosen).max(initial=0.0)))
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


def _require_allowed(problem: Problem, chosen: NDArray[np.int64]) -> None:
    outside = (chosen < 0) | (chosen >= problem.workers)
    if outside.any():
        i = int(outside.argmax())
        raise InvalidPlan(f"request {i}: there is no worker {chosen[i]}")
    refused = ~np.isfinite(problem.costs_of(chosen))
    if refused.any():
        i = int(refused.argmax())
        raise InvalidPlan(f"request {i}: worker {chosen[i]} may not serve it")
