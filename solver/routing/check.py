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
from solver.routing.assign import Assignment, need_not_wait
from solver.routing.few import SomePairs
from solver.routing.formulas import DOUBT
from solver.routing.joint import Question
from solver.routing.objective import ALL
from solver.routing.turns import Turns


def check(question: Question, plan: Assignment) -> None:
    """Return silently if `plan` keeps the rules and its figures are true.

    Raises:
        InvalidPlan: naming the first thing that is wrong.
    """
    turns = Turns(question.requests, question.load)
    pairs = SomePairs(turns)
    _require_allowed(turns, plan)
    placed, found = np.zeros((3, turns.m)), np.zeros((3, turns.n))  # on all, and on its own worker
    able = turns.is_open(ALL, placed)
    for i, j in enumerate(plan.workers):
        if i >= plan.planned and not able.any():
            _require_waiting(plan, i)
            break
        if plan.go[i] and not able[j]:
            raise InvalidPlan(f"request {i}: worker {j} is closed")
        costs = turns.costs(i, ALL, placed)
        free = able & np.isfinite(costs) & ~turns.waits(ALL, placed)
        _require_no_free_slot(pairs, np.where(free, costs, np.inf), placed, i, j)
        if not plan.go[i]:
            _require_worth_waiting(costs, able, i, j)
        found[:, i] = placed[:, j]
        placed[:, j] += turns.added[:, i, j]
        able = turns.is_open(ALL, placed)
    _require_true(turns, plan, found)


def _require_allowed(turns: Turns, plan: Assignment) -> None:
    n, m = turns.n, turns.m
    if (len(plan.workers), len(plan.go), len(plan.costs_s)) != (n, n, n):
        raise InvalidPlan(f"it is not a plan of {n} requests on {m} workers")
    if not 0 <= plan.planned <= n:
        raise InvalidPlan(f"it is about {plan.planned} of {n} requests")
    for i, j in enumerate(plan.workers):
        if not 0 <= j < m:
            raise InvalidPlan(f"request {i}: there is no worker {j}")
        if turns.allowed is not None and not turns.allowed[i, j]:
            raise InvalidPlan(f"request {i}: worker {j} may not serve it")


def _require_no_free_slot(
    pairs: SomePairs, free_s: FloatArray, placed: FloatArray, i: int, j: int
) -> None:
    """Who is awaited waits for nobody's end where the cheapest free slot will do.

    `free_s` are costs on those that have one, infinite elsewhere.
    """
    k = int(free_s.argmin())
    here, there = ((one, tuple(placed[:, one].tolist())) for one in (j, k))
    waits = pairs.would_wait(i, *here) and free_s[k] < np.inf
    if waits and need_not_wait(pairs, i, there, here):
        raise InvalidPlan(f"request {i}: it waits for worker {j}, and {k} has a free slot in time")


def _require_worth_waiting(costs: FloatArray, able: BoolArray, i: int, j: int) -> None:
    now_s, then_s = float(costs[able].min(initial=np.inf)), float(costs[j])
    if able[j] or now_s <= (1.0 + DOUBT) * then_s * (1.0 - TOLERANCE):
        raise InvalidPlan(f"request {i}: it is held back for {then_s!r}, and costs {now_s!r} now")


def _require_waiting(plan: Assignment, start: int) -> None:
    for i in range(start, len(plan.go)):
        if plan.go[i]:
            raise InvalidPlan(f"request {i}: all workers are closed")


def _require_true(turns: Turns, plan: Assignment, found: FloatArray) -> None:
    rows, workers = np.arange(plan.planned), np.array(plan.workers[: plan.planned], dtype=np.intp)
    total = float(turns.costs(rows, workers, found[:, : plan.planned]).sum())
    if not isclose(total, plan.total_s, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
        raise InvalidPlan(f"total_s is {total!r}, the plan says {plan.total_s!r}")
    if plan.bound_s > total * (1 + TOLERANCE) + TOLERANCE:
        raise InvalidPlan(f"bound_s {plan.bound_s!r} is beaten by the plan itself: {total!r}")
