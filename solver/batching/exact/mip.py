"""The whole problem of one engine as a mixed-integer program, in Pyomo, solved by HiGHS.

`engine_model` is its single definition as mathematics: the MIP of README section 2 (the paper's,
corrected). It is a ground truth for tiny cases: eight requests on three slots take seconds.
`solver.batching.exact.search` finds the same optimum faster; a test holds the two together.

Where the paper rounds, this model is exact, so its optimum is that of the engine:
- levels: a bin's prefill stage is at one of two, ``empty`` (no tokens, no time) or ``stage`` (as
  many tokens as fit, the fixed time alpha_p), and lasts beta_p more for every prompt token;
- rounds: a bin has a number of decode rounds, ``rounds[k] >= sum_i D_i w_ijk`` for every slot j,
  and lasts alpha_d for each of them and beta_d for every token made in it.

Rounds need not be declared whole: once every request has a slot and a bin, what remains is ``the
rounds from bin k to bin l are at least D`` for whole numbers D, whose vertices are whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import inf

import highspy
import pyomo.core as pyo

from solver.batching.exact.case import EngineCase, EngineSchedule, Placement
from solver.cost.model import CostModel
from solver.errors import SolverError
from solver.packing.milp.compile import compile_model
from solver.packing.milp.highs import dual_bound, load_program, read_values
from solver.packing.problem import TOLERANCE

EMPTY, STAGE = "empty", "stage"


class Stop(StrEnum):
    """Why the solver stopped."""

    OPTIMAL = "optimal"  # nothing is better by more than the gap
    INFEASIBLE = "infeasible"  # no schedule ends by `upper_s`
    TIME_LIMIT = "time_limit"
    NODE_LIMIT = "node_limit"


@dataclass(frozen=True, slots=True)
class EngineOutcome:
    """Why the solver stopped and what it found: two questions.

    Attributes:
        stop: why.
        schedule: the best one found, if any.
        bound_s: no schedule has a smaller makespan.
        nodes: of the search tree.
    """

    stop: Stop
    schedule: EngineSchedule | None
    bound_s: float
    nodes: int

    @property
    def makespan_s(self) -> float:
        """Of the schedule; infinite without one."""
        return inf if self.schedule is None else self.schedule.makespan_s

    @property
    def optimal(self) -> bool:
        """Whether the schedule is proven to be the best."""
        return self.stop is Stop.OPTIMAL


def solve(
    requests: Sequence[tuple[int, int]],
    slots: int,
    cost: CostModel,
    *,
    prefill_budget: float = inf,
    upper_s: float = inf,
    time_limit_s: float | None = None,
    node_limit: int | None = None,
) -> EngineOutcome:
    """The shortest makespan of requests given as (prompt tokens, output tokens).

    `upper_s`, a makespan known to be feasible, leaves out what would be worse.

    Raises:
        ProblemError: if the input makes no sense, or the cost model has terms beyond the paper's.
        InfeasibleProblem: if a prompt is above the budget.
    """
    case = EngineCase.of(requests, slots, cost, prefill_budget)
    limit_s = upper_s * (1 + TOLERANCE)
    if limit_s < case.bound_s:
        return EngineOutcome(Stop.INFEASIBLE, None, case.bound_s, 0)
    unit_s = case.bound_s or 1.0  # HiGHS's tolerances are absolute, so let the makespan be about 1
    scaled = replace(case, cost=cost.scaled(1 / unit_s))
    model = engine_model(scaled, case.most_bins(limit_s), limit_s / unit_s)
    compiled = compile_model(model)
    highs = load_program(compiled.numbers, time_limit_s=time_limit_s, node_limit=node_limit)
    highs.run()
    stop = _why_stopped(highs)
    schedule = _read(model, case) if read_values(highs, compiled) else None
    bound_s = limit_s
    if stop is not Stop.INFEASIBLE:
        bound_s = max(case.bound_s, unit_s * (dual_bound(highs) or 0.0))
    if schedule is not None:
        bound_s = min(bound_s, schedule.makespan_s)
    return EngineOutcome(stop, schedule, bound_s, max(0, highs.getInfo().mip_node_count))


def engine_model(case: EngineCase, bins: int, upper_s: float = inf) -> pyo.ConcreteModel:
    """The model with so many bins, restricted to schedules that end by `upper_s`."""
    m = pyo.ConcreteModel()
    m.I = pyo.RangeSet(0, case.requests - 1)
    m.J = pyo.RangeSet(0, case.slots - 1)
    m.K = pyo.RangeSet(0, bins - 1)
    m.L = pyo.Set(initialize=[EMPTY, STAGE])
    m.A = pyo.Set(dimen=2, initialize=_admissible(case))

    # First what the makespan is made of: HiGHS takes columns in this order where all else is equal.
    m.t_max = pyo.Var(bounds=(case.bound_s, upper_s if upper_s < inf else None))
    m.y = pyo.Var(m.K, m.L, domain=pyo.Binary)  # the prefill stage of bin k is at level l
    m.p = pyo.Var(m.A, m.K, domain=pyo.Binary)  # request i is prefilled on slot j in bin k
    m.rounds = pyo.Var(m.K, bounds=(0, sum(case.output)))
    m.w = pyo.Var(m.A, m.K, bounds=(0, 1))  # the share of its tokens made there
    m.x = pyo.Var(m.A, domain=pyo.Binary)  # request i is on slot j
    m.d = pyo.Var(m.A, m.K, domain=pyo.Binary)  # it holds the slot for the rounds of bin k

    _add_time(m, case)
    _add_prefill(m, case)
    _add_decode(m, case)
    _add_order(m, case)
    m.makespan = pyo.Objective(expr=m.t_max, sense=pyo.minimize)
    return m


def _admissible(case: EngineCase) -> list[tuple[int, int]]:
    """Pairs (i, j): slots are alike, so the i-th longest request needs only slots 0 to i."""
    longest = sorted(range(case.requests), key=lambda i: -case.output[i])
    return [(i, j) for rank, i in enumerate(longest) for j in range(min(rank + 1, case.slots))]


def _add_time(m: pyo.ConcreteModel, case: EngineCase) -> None:
    """Stages follow one another without a pause, so starts are sums of the lengths before."""
    cost, on = case.cost, _requests_on(m)
    level_s = {EMPTY: 0.0, STAGE: cost.alpha_p_s}

    @m.Expression(m.K)
    def prefill_s(m: pyo.ConcreteModel, k: int) -> object:
        prompt = sum(case.prompt[i] * m.p[i, j, k] for i, j in m.A)
        return sum(level_s[n] * m.y[k, n] for n in m.L) + cost.beta_p_s * prompt

    @m.Expression(m.K)
    def decode_s(m: pyo.ConcreteModel, k: int) -> object:
        output = sum(case.output[i] * m.w[i, j, k] for i, j in m.A)
        return cost.alpha_d_s * m.rounds[k] + cost.beta_d_s * output

    @m.Constraint()
    def ends(m: pyo.ConcreteModel) -> object:
        return sum(m.prefill_s[k] + m.decode_s[k] for k in m.K) <= m.t_max

    @m.Constraint(m.J)
    def slot_ends(m: pyo.ConcreteModel, j: int) -> object:
        """Implied by `ends` and `slot_rounds`; as a row of its own it makes for strong cuts."""
        rounds = sum(case.output[i] * m.x[i, j] for i in on[j])
        stages = sum(m.y[k, STAGE] for k in m.K)
        return case.tokens_s + cost.alpha_p_s * stages + cost.alpha_d_s * rounds <= m.t_max


def _add_prefill(m: pyo.ConcreteModel, case: EngineCase) -> None:
    most_tokens = {EMPTY: 0.0, STAGE: case.stage_tokens}
    on = _requests_on(m)

    @m.Constraint(m.K)
    def one_level(m: pyo.ConcreteModel, k: int) -> object:
        return sum(m.y[k, n] for n in m.L) == 1

    @m.Constraint(m.K)
    def budget(m: pyo.ConcreteModel, k: int) -> object:
        tokens = sum(case.prompt[i] * m.p[i, j, k] for i, j in m.A)
        return tokens <= sum(most_tokens[n] * m.y[k, n] for n in m.L)

    @m.Constraint(m.A)
    def prefilled(m: pyo.ConcreteModel, i: int, j: int) -> object:
        return sum(m.p[i, j, k] for k in m.K) == m.x[i, j]

    @m.Constraint(m.I)
    def once(m: pyo.ConcreteModel, i: int) -> object:
        return sum(m.x[h, j] for h, j in m.A if h == i) == 1

    @m.Constraint(m.J, m.K)
    def one_enters(m: pyo.ConcreteModel, j: int, k: int) -> object:
        return sum(m.p[i, j, k] for i in on[j]) <= m.y[k, STAGE]


def _add_decode(m: pyo.ConcreteModel, case: EngineCase) -> None:
    on = _requests_on(m)

    @m.Constraint(m.A)
    def decoded(m: pyo.ConcreteModel, i: int, j: int) -> object:
        return sum(m.w[i, j, k] for k in m.K) == m.x[i, j]

    @m.Constraint(m.A, m.K)
    def holding(m: pyo.ConcreteModel, i: int, j: int, k: int) -> object:
        return m.w[i, j, k] <= m.d[i, j, k]

    @m.Constraint(m.A, m.K)
    def from_prefill(m: pyo.ConcreteModel, i: int, j: int, k: int) -> object:
        return m.d[i, j, k] >= m.p[i, j, k]

    @m.Constraint(m.A, m.K)
    def contiguous(m: pyo.ConcreteModel, i: int, j: int, k: int) -> object:
        before = m.d[i, j, k - 1] if k > 0 else 0
        return m.d[i, j, k] <= before + m.p[i, j, k]

    @m.Constraint(m.J, m.K)
    def one_holds(m: pyo.ConcreteModel, j: int, k: int) -> object:
        """At most one in each slot, and none in an empty bin: it has no rounds (see `in_order`)."""
        return sum(m.d[i, j, k] for i in on[j]) <= m.y[k, STAGE]

    @m.Constraint(m.J, m.K)
    def slot_rounds(m: pyo.ConcreteModel, j: int, k: int) -> object:
        return sum(case.output[i] * m.w[i, j, k] for i in on[j]) <= m.rounds[k]


def _add_order(m: pyo.ConcreteModel, case: EngineCase) -> None:
    """Of schedules that differ in nothing but empty bins, keep one; see `EngineCase.most_bins`."""

    @m.Constraint(m.K)
    def in_order(m: pyo.ConcreteModel, k: int) -> object:
        return m.y[k, STAGE] <= m.y[k - 1, STAGE] if k > 0 else pyo.Constraint.Skip

    @m.Constraint()
    def first_bin(m: pyo.ConcreteModel) -> object:
        if case.budget_binds:
            return pyo.Constraint.Skip
        return sum(m.p[i, j, 0] for i, j in m.A) == min(case.slots, case.requests)


def _requests_on(m: pyo.ConcreteModel) -> dict[int, list[int]]:
    return {j: [i for i, h in m.A if h == j] for j in m.J}


def _why_stopped(h: highspy.Highs) -> Stop:
    status = highspy.HighsModelStatus
    why = {
        status.kOptimal: Stop.OPTIMAL,
        status.kInfeasible: Stop.INFEASIBLE,
        status.kTimeLimit: Stop.TIME_LIMIT,
        status.kSolutionLimit: Stop.NODE_LIMIT,
    }.get(h.getModelStatus())
    if why is None:
        raise SolverError(f"HiGHS stopped with status {h.getModelStatus()}")
    return why


def _read(m: pyo.ConcreteModel, case: EngineCase) -> EngineSchedule:
    chosen = {i: Placement(j, k) for i, j in m.A for k in m.K if m.p[i, j, k].value > 0.5}
    return case.schedule([chosen[i] for i in m.I])
