"""A Pyomo model into HiGHS and back.

Models are handed over in standard form rather than through Pyomo's own interface, which takes no
starting point and throws an incumbent away when a limit stops the search.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import highspy
import numpy as np
import pyomo.environ as pyo
from numpy.typing import NDArray
from pyomo.opt import WriterFactory

from solver.arrays import FloatArray

StandardForm = Any  # Pyomo's LinearStandardFormInfo, which has no types
Whole = NDArray[np.int32]

# Costs of a packing's relaxation are all zero but one, which leaves dual simplex without a sense of
# direction; so much more noise than usual gives it one.
PERTURBATION = 30.0


@dataclass(frozen=True, slots=True)
class Program:
    """``lower <= A x <= upper``, A by columns; the least ``cost x`` with x between its bounds."""

    data: FloatArray
    index: Whole
    starts: Whole
    cost: FloatArray
    col_lower: FloatArray
    col_upper: FloatArray
    row_lower: FloatArray
    row_upper: FloatArray
    whole: NDArray[np.bool_]


def standard_form(model: pyo.ConcreteModel) -> StandardForm:
    """The model as rows ``A x (<=, =, >=) rhs`` over ``form.columns``, its variables."""
    return WriterFactory("compile_standard_form").write(model, mixed_form=True)


def program_of(form: StandardForm) -> Program:
    """The numbers of a compiled model."""
    bounds = [(v.lb, v.ub) for v in form.columns]
    sense = np.array([row.bound_type for row in form.rows])
    rhs = np.asarray(form.rhs, dtype=np.float64)
    return Program(
        data=np.asarray(form.A.data, dtype=np.float64),
        index=form.A.indices,
        starts=form.A.indptr,
        cost=np.asarray(form.c.todense(), dtype=np.float64).ravel(),
        col_lower=np.array([-highspy.kHighsInf if lo is None else lo for lo, _ in bounds]),
        col_upper=np.array([highspy.kHighsInf if up is None else up for _, up in bounds]),
        row_lower=np.where(sense == 1, -highspy.kHighsInf, rhs),
        row_upper=np.where(sense == -1, highspy.kHighsInf, rhs),
        whole=np.array([v.is_binary() for v in form.columns]),
    )


def load_program(
    program: Program,
    *,
    relaxed: bool = False,
    gap: float = 0.0,
    time_limit_s: float | None = None,
    node_limit: int | None = None,
) -> highspy.Highs:
    """HiGHS with the program and when to stop, ready to run; a limit that is None does not apply.

    `gap` is relative to the objective. A time limit is not reproducible, a node limit is.
    """
    h = highspy.Highs()
    h.silent()
    h.setOptionValue("threads", 1)  # changing it later in a process makes run() fail
    h.setOptionValue("mip_rel_gap", gap)
    if relaxed:  # as measured on dense packings: both about halve the time
        h.setOptionValue("presolve", "off")
        h.setOptionValue("dual_simplex_cost_perturbation_multiplier", PERTURBATION)
    if time_limit_s is not None:
        h.setOptionValue("time_limit", h.getRunTime() + max(0.0, time_limit_s))
    if node_limit is not None:
        h.setOptionValue("mip_max_nodes", node_limit)
    h.passModel(_lp(program, relaxed=relaxed))
    return h


def read_values(h: highspy.Highs, form: StandardForm) -> bool:
    """Give the model's variables the values that HiGHS found; False if it found none."""
    if not has_solution(h):
        return False
    for var, value in zip(form.columns, h.getSolution().col_value, strict=True):
        var.set_value(value, skip_validation=True)
    return True


def has_solution(h: highspy.Highs) -> bool:
    """Whether HiGHS has found a feasible point."""
    feasible = highspy.SolutionStatus.kSolutionStatusFeasible
    return bool(h.getInfo().primal_solution_status == feasible)


def dual_bound(h: highspy.Highs) -> float | None:
    """The bound that HiGHS has proven on the objective, if any."""
    bound = float(h.getInfo().mip_dual_bound)
    return bound if np.isfinite(bound) else None


def is_infeasible(h: highspy.Highs) -> bool:
    """Whether the constraints were proven contradictory."""
    return bool(h.getModelStatus() == highspy.HighsModelStatus.kInfeasible)


def _lp(program: Program, *, relaxed: bool) -> highspy.HighsLp:
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = len(program.cost), len(program.row_lower)
    lp.col_cost_ = program.cost
    lp.col_lower_, lp.col_upper_ = program.col_lower, program.col_upper
    lp.row_lower_, lp.row_upper_ = program.row_lower, program.row_upper
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_, lp.a_matrix_.index_ = program.starts, program.index
    lp.a_matrix_.value_ = program.data
    if not relaxed:
        kinds = highspy.HighsVarType
        lp.integrality_ = [kinds.kInteger if w else kinds.kContinuous for w in program.whole]
    return lp
