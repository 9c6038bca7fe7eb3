"""Independent check of a plan: placed once more, one request after the other.

Every plan that comes from elsewhere passes here before it is used, so a defect in the model, in the
search or on the way costs a plan and never a request.
"""

from __future__ import annotations

from math import isclose

import numpy as np

from solver.arrays import BoolArray, FloatArray
from solver.errors import InvalidPlan
from solver.packing.problem import TOLERANCE
from solver.routing.assign import Assignment, begins_in_time, is_open
from solver.routing.joint import Question
from solver.routing.objective import TERMS, Load
from solver.routing.turns import Turns


def check(question: Question, plan: Assignment) -> None:
    """Return silently if `plan` keeps the rules and its figures are true.

    Raises:
        InvalidPlan: naming the first thing that is wrong.
    """
    requests, load = question.requests, question.load
    turns = Turns(requests, load)
    _require_allowed(turns, plan)
    state, found = load.copy(), np.zeros((3, turns.n))  # what each finds on its worker
    for i, j in enumerate(plan.workers):
        able = is_open(state)
        if i >= plan.planned and not able.any():
            _require_waiting(plan, i)
            break
        _require_rules(turns, plan, i, state, able & turns.allowed[i])
        found[:, i] = (
            state.in_flight[j] - load.in_flight[j],
            state.queued_s[j] - load.queued_s[j],
            state.kv[j] - load.kv[j],
        )
        state.place(requests, i, j)
    _require_true(turns, plan, found)


def _require_allowed(turns: Turns, plan: Assignment) -> None:
    n, m = turns.n, turns.m
    if (len(plan.workers), len(plan.go), plan.terms.shape) != (n, n, (len(TERMS), n, m)):
        raise InvalidPlan(f"it is not a plan of {n} requests on {m} workers")
    if not 0 <= plan.planned <= n:
        raise InvalidPlan(f"it is about {plan.planned} of {n} requests")
    for i, j in enumerate(plan.workers):
        if not 0 <= j < m:
            raise InvalidPlan(f"request {i}: there is no worker {j}")
        if not turns.allowed[i, j]:
            raise InvalidPlan(f"request {i}: worker {j} may not serve it")


def _require_rules(turns: Turns, plan: Assignment, i: int, state: Load, able: BoolArray) -> None:
    j = plan.workers[i]
    if plan.go[i] and not able[j]:
        raise InvalidPlan(f"request {i}: worker {j} is closed")
    at_once = able & begins_in_time(turns.requests, i, state, plan.terms[:, i])
    if at_once.any() and not (plan.go[i] and at_once[j]):
        raise InvalidPlan(f"request {i}: it is held back though it could begin at once elsewhere")


def _require_waiting(plan: Assignment, start: int) -> None:
    for i in range(start, len(plan.go)):
        if plan.go[i]:
            raise InvalidPlan(f"request {i}: all workers are closed")


def _require_true(turns: Turns, plan: Assignment, found: FloatArray) -> None:
    rows, workers = np.arange(plan.planned), np.array(plan.workers[: plan.planned], dtype=np.intp)
    seen = turns.seen(workers, found[:, : plan.planned])
    total = float(turns.costs(rows, workers, seen).sum())
    if not isclose(total, plan.total_s, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
        raise InvalidPlan(f"total_s is {total!r}, the plan says {plan.total_s!r}")
    if plan.bound_s > total * (1 + TOLERANCE) + TOLERANCE:
        raise InvalidPlan(f"bound_s {plan.bound_s!r} is beaten by the plan itself: {total!r}")
