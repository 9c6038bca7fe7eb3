"""The packing problem as a mixed-integer program, in Pyomo, solved by HiGHS.

`makespan_model` is the single definition of the problem as mathematics (method.md section 3).
HiGHS begins with the incumbent and can only improve on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import highspy
import numpy as np
import pyomo.environ as pyo

from solver.milp.highs import (
    StandardForm,
    dual_bound,
    is_infeasible,
    load_model,
    read_values,
    standard_form,
    start_from_values,
)
from solver.types import TOLERANCE, Left, Plan, Problem

# Weight of the requests' own earliest ends, relative to the finish, both per second. Small enough
# to leave the finish within a thousandth of its best, large enough to decide between equal ones.
TIE_WEIGHT = 1e-3


@dataclass(frozen=True, slots=True)
class Outcome:
    """Why the solver stopped and what it found: two questions.

    Attributes:
        assignment: worker of each request, or None if no feasible point was found in time.
        finish_bound_s: proven lower bound on the finish of the new work, or None without one.
        infeasible: the constraints were proven contradictory.
    """

    assignment: tuple[int, ...] | None
    finish_bound_s: float | None
    infeasible: bool


def admissible(problem: Problem, limit_s: float) -> list[tuple[int, int]]:
    """Pairs (i, j) that may occur in a plan that finishes by `limit_s`."""
    fits = problem.kv_tokens[:, None] <= problem.kv_capacity
    allowed = (problem.alone_s <= limit_s * (1 + TOLERANCE)) & fits
    return [(int(i), int(j)) for i, j in np.argwhere(allowed)]


def makespan_model(
    problem: Problem, limit_s: float | None = None, bound_s: float = 0.0
) -> pyo.ConcreteModel:
    """The model, restricted to plans that finish by `limit_s` (None: any plan)."""
    cost, initial, alone = problem.cost_s, problem.initial_s, problem.alone_s
    finite = float(alone[np.isfinite(alone)].max(initial=0.0)) * max(1, problem.requests)
    limit = finite if limit_s is None else limit_s
    m = pyo.ConcreteModel()
    m.I = pyo.RangeSet(0, problem.requests - 1)
    m.J = pyo.RangeSet(0, problem.workers - 1)
    m.A = pyo.Set(dimen=2, initialize=admissible(problem, limit))
    to = {j: [i for i, k in m.A if k == j] for j in m.J}
    at = {i: [k for h, k in m.A if h == i] for i in m.I}
    m.B = pyo.Set(initialize=[j for j in m.J if initial[j] > 0 and to[j]])  # backlogged workers
    m.M = pyo.Set(initialize=[j for j in m.J if np.isfinite(problem.kv_capacity[j]) and to[j]])

    m.x = pyo.Var(m.A, domain=pyo.Binary)  # request i goes to worker j
    m.y = pyo.Var(m.B, bounds=(0, 1))  # backlogged worker j gets new work
    m.t = pyo.Var(bounds=(bound_s, limit * (1 + TOLERANCE)))  # finish of the new work, seconds

    @m.Constraint(m.I)
    def once(m: pyo.ConcreteModel, i: int) -> object:
        return sum(m.x[i, j] for j in at[i]) == 1

    @m.Constraint(m.J)
    def worker_done(m: pyo.ConcreteModel, j: int) -> object:
        if not to[j]:
            return pyo.Constraint.Skip
        backlog = initial[j] * m.y[j] if j in m.B else 0.0
        return backlog + sum(cost[i, j] * m.x[i, j] for i in to[j]) <= m.t

    @m.Constraint(m.A)
    def opened(m: pyo.ConcreteModel, i: int, j: int) -> object:
        return m.x[i, j] <= m.y[j] if j in m.B else pyo.Constraint.Skip

    @m.Constraint(m.I)
    def request_done(m: pyo.ConcreteModel, i: int) -> object:
        return sum(alone[i, j] * m.x[i, j] for j in at[i]) <= m.t

    @m.Constraint(m.M)
    def memory(m: pyo.ConcreteModel, j: int) -> object:
        used = sum(problem.kv_tokens[i] * m.x[i, j] for i in to[j])
        return used <= problem.kv_capacity[j]

    early = sum(alone[i, j] * m.x[i, j] for i, j in m.A) / max(1, problem.requests)
    m.finish = pyo.Objective(expr=m.t + TIE_WEIGHT * early, sense=pyo.minimize)
    return m


def solve(
    problem: Problem,
    incumbent: Plan | None,
    *,
    bound_s: float = 0.0,
    left_s: Left | None = None,
    gap: float = 1e-4,
) -> Outcome:
    """Improve on `incumbent`, or find a first plan if there is none.

    There must be a request, and each must fit somewhere by itself.

    Stops when the finish is proven within `gap` of the best, or when about `left_s()` seconds,
    asked once the model is built, have passed. HiGHS may overrun that: whoever has a deadline must
    not wait for the answer.
    """
    limit = None if incumbent is None else incumbent.finish_s
    model = makespan_model(problem, limit, bound_s)
    form = standard_form(model)
    highs = load_model(form, gap=gap, time_limit_s=None if left_s is None else left_s())
    if incumbent is not None:
        _start_from(highs, form, model, incumbent)
    highs.run()
    return _read(highs, form, model, problem)


def _start_from(h: highspy.Highs, form: StandardForm, m: pyo.ConcreteModel, plan: Plan) -> None:
    for i, j in m.A:
        m.x[i, j].set_value(int(plan.assignment[i] == j))
    for j in m.B:
        m.y[j].set_value(int(j in plan.assignment))
    m.t.set_value(plan.finish_s)
    start_from_values(h, form)


def _read(h: highspy.Highs, form: StandardForm, m: pyo.ConcreteModel, problem: Problem) -> Outcome:
    infeasible = is_infeasible(h)
    objective = None if infeasible else dual_bound(h)
    bound = None if objective is None else _finish_bound(objective)
    if not read_values(h, form):
        return Outcome(None, bound, infeasible)
    chosen = [-1] * problem.requests
    for i, j in m.A:
        if m.x[i, j].value > 0.5:
            chosen[i] = j
    return Outcome(tuple(chosen), bound, infeasible)


def _finish_bound(objective_bound: float) -> float:
    """A bound on the finish alone from one on ``finish + TIE_WEIGHT * early``.

    `early` is a mean of times that are none above the finish, so the objective is at most
    ``(1 + TIE_WEIGHT) * finish``.
    """
    return objective_bound / (1 + TIE_WEIGHT)
