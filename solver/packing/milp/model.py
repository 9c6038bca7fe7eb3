"""The packing problem as a mixed-integer program, in Pyomo, solved by HiGHS.

`makespan_model` is the single definition of the problem as mathematics (README section 3). Its
linear relaxation bounds what any plan can reach, and says where a good one would put whom; as a
MIP, HiGHS begins with the incumbent and can only improve on it. Large windows do not build the
model anew: see `solver.packing.milp.template`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import highspy
import numpy as np
import pyomo.core as pyo

from solver.arrays import BoolArray, FloatArray, IntArray
from solver.packing.milp.compile import Program, compile_model
from solver.packing.milp.highs import (
    dual_bound,
    has_solution,
    is_infeasible,
    load_program,
)
from solver.packing.milp.template import Columns, template
from solver.packing.plan import Plan
from solver.packing.problem import TOLERANCE, Problem, SecondsLeft

# Building the model for so few pairs of a request and a worker is as quick as patching one.
FEW_PAIRS = 400


@dataclass(frozen=True, slots=True)
class Outcome:
    """Why the solver stopped and what it found: two questions.

    Attributes:
        assignment: worker of each request, or None if no feasible point was found in time.
        finish_bound_s: proven lower bound on the finish of the new work, or None without one.
        infeasible: the constraints were proven contradictory.
    """

    assignment: IntArray | None
    finish_bound_s: float | None
    infeasible: bool


@dataclass(frozen=True, slots=True)
class Relaxation:
    """The optimum of the linear relaxation.

    Attributes:
        finish_bound_s: no plan finishes the new work before.
        share: (n, m) how much of each request goes to each worker.
        loss_s: (n, m) how much later the relaxation finishes at least if request i goes to j.
        price: (m,) how much later if worker j loses a second.
    """

    finish_bound_s: float
    share: FloatArray
    loss_s: FloatArray
    price: FloatArray


def admissible_pairs(problem: Problem, limit_s: float) -> BoolArray:
    """(n, m) pairs that may occur in a plan that finishes by `limit_s`."""
    allowed = problem.alone_s <= limit_s * (1 + TOLERANCE)
    allowed &= np.isfinite(problem.cost_s)
    if problem.memory_limited:
        allowed &= problem.kv_tokens[:, None] <= problem.kv_capacity
    return np.asarray(allowed)


def latest_finish_s(problem: Problem) -> float:
    """Seconds by which any plan has finished."""
    alone = np.where(np.isfinite(problem.alone_s), problem.alone_s, 0.0)
    return float(alone.max(axis=1).sum() + problem.initial_s.max())


def makespan_model(problem: Problem, allowed: BoolArray, bound_s: float) -> pyo.ConcreteModel:
    """The model, restricted to the pairs `allowed`; no plan finishes before `bound_s`.

    A worker that gets nothing does not count, however long its backlog. Where a backlog is no
    longer than `bound_s`, that makes no difference; elsewhere `y` says whether the worker is used.
    """
    cost, initial, alone = problem.cost_s, problem.initial_s, problem.alone_s
    m = pyo.ConcreteModel()
    m.I = pyo.RangeSet(0, problem.requests - 1)
    m.J = pyo.RangeSet(0, problem.workers - 1)
    pairs = [(int(i), int(j)) for i, j in np.argwhere(allowed)]
    m.A = pyo.Set(dimen=2, initialize=pairs)
    to: dict[int, list[int]] = {j: [] for j in m.J}
    at: dict[int, list[int]] = {i: [] for i in m.I}
    for i, j in pairs:
        to[j].append(i)
        at[i].append(j)
    m.B = pyo.Set(initialize=[j for j in m.J if initial[j] > bound_s and to[j]])
    m.M = pyo.Set(initialize=[j for j in m.J if np.isfinite(problem.kv_capacity[j]) and to[j]])
    m.S = pyo.Set(initialize=[] if problem.spans_s is None else list(m.I))

    m.t = pyo.Var(bounds=(bound_s, None))  # finish of the new work, seconds
    m.x = pyo.Var(m.A, domain=pyo.Binary)  # request i goes to worker j
    m.y = pyo.Var(m.B, bounds=(0, 1))  # backlogged worker j gets new work

    @m.Constraint(m.I)
    def once(m: pyo.ConcreteModel, i: int) -> object:
        return sum(m.x[i, j] for j in at[i]) == 1 if at[i] else pyo.Constraint.Infeasible

    @m.Constraint(m.J)
    def worker_done(m: pyo.ConcreteModel, j: int) -> object:
        if not to[j]:
            return pyo.Constraint.Skip
        backlog = initial[j] * m.y[j] if j in m.B else initial[j]
        return sum(cost[i, j] * m.x[i, j] for i in to[j]) - m.t <= -backlog

    @m.Constraint(m.A)
    def opened(m: pyo.ConcreteModel, i: int, j: int) -> object:
        return m.x[i, j] <= m.y[j] if j in m.B else pyo.Constraint.Skip

    @m.Constraint(m.S)
    def request_done(m: pyo.ConcreteModel, i: int) -> object:
        return sum(alone[i, j] * m.x[i, j] for j in at[i]) - m.t <= 0

    @m.Constraint(m.M)
    def memory(m: pyo.ConcreteModel, j: int) -> object:
        used = sum(problem.kv_tokens[i] * m.x[i, j] for i in to[j])
        return used <= problem.kv_capacity[j]

    m.finish = pyo.Objective(expr=m.t, sense=pyo.minimize)
    return m


def program(problem: Problem, allowed: BoolArray, bound_s: float) -> tuple[Program, Columns]:
    """The model's numbers for HiGHS, and where its columns are: patched where that is quicker."""
    backlogs = problem.initial_s[allowed.any(axis=0)]
    if np.count_nonzero(allowed) > FEW_PAIRS and backlogs.max() <= bound_s:
        made = template(makespan_model, problem)
        return made.patched(problem, allowed, bound_s), made.columns
    model = makespan_model(problem, allowed, bound_s)
    compiled = compile_model(model)
    return compiled.numbers, Columns.of(compiled, model)


def relax(
    problem: Problem, limit_s: float, bound_s: float, left_s: SecondsLeft | None = None
) -> Relaxation | None:
    """The linear relaxation over plans that finish by `limit_s`; None if time ran out, or none can.

    There must be a request, and each must fit somewhere by itself.
    """
    allowed = admissible_pairs(problem, limit_s)
    numbers, columns = program(problem, allowed, bound_s)
    if np.count_nonzero(allowed) <= FEW_PAIRS:  # else it is what makes it quick
        numbers.col_lower[columns.t] = 0.0  # where the bound binds, nothing else has a price
    h = load_program(numbers, relaxed=True, time_limit_s=None if left_s is None else left_s())
    h.run()
    if h.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return None
    solution, shape = h.getSolution(), (problem.requests, problem.workers)
    share = columns.matrix(np.array(solution.col_value), *shape)
    loss = np.maximum(columns.matrix(np.array(solution.col_dual), *shape), 0.0)
    loss[~allowed] = limit_s
    price, (rows, workers) = np.zeros(problem.workers), columns.done
    price[workers] = np.maximum(-np.array(solution.row_dual)[rows], 0.0)
    return Relaxation(float(h.getInfo().objective_function_value), share, loss, price)


def solve(
    problem: Problem,
    incumbent: Plan | None,
    *,
    bound_s: float = 0.0,
    left_s: SecondsLeft | None = None,
    allowed: BoolArray | None = None,
) -> Outcome:
    """Improve on `incumbent`, or find a first plan if there is none.

    There must be a request, and each must fit somewhere by itself.

    Stops when the finish is proven to be the best (within `highs.GAP`), or when about `left_s()`
    seconds, asked once the model is built, have passed. HiGHS may overrun that: whoever has a
    deadline must not wait for the answer. Only the pairs `allowed` are looked at; the bound is then
    that of plans made of these.
    """
    if allowed is None:
        allowed = admissible_pairs(
            problem, latest_finish_s(problem) if incumbent is None else incumbent.finish_s
        )
    numbers, columns = program(problem, allowed, bound_s)
    h = load_program(numbers, time_limit_s=None if left_s is None else left_s())
    if incumbent is not None:
        _start_from(h, columns, incumbent.assignment, incumbent.finish_s)
    h.run()
    infeasible = is_infeasible(h)
    bound = None if infeasible else dual_bound(h)
    if not has_solution(h):
        return Outcome(None, bound, infeasible)
    values = np.array(h.getSolution().col_value)
    share = columns.matrix(values, problem.requests, problem.workers)
    return Outcome(share.argmax(axis=1), bound, infeasible)


def _start_from(
    h: highspy.Highs, columns: Columns, assignment: Sequence[int], finish_s: float
) -> None:
    """Give HiGHS a plan to begin with."""
    values = columns.values(np.asarray(assignment), finish_s)
    start = highspy.HighsSolution()
    start.col_value = values.tolist()
    start.value_valid = True
    h.setSolution(start)
