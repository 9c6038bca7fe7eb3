"""A Pyomo model into HiGHS and back.

Models are handed over in standard form rather than through Pyomo's own interface, which takes no
starting point and throws an incumbent away when a limit stops the search.
"""

from __future__ import annotations

from typing import Any

import highspy
import numpy as np
import pyomo.environ as pyo
from pyomo.opt import WriterFactory

StandardForm = Any  # Pyomo's LinearStandardFormInfo, which has no types


def standard_form(model: pyo.ConcreteModel) -> StandardForm:
    """The model as rows ``A x (<=, =, >=) rhs`` over ``form.columns``, its variables."""
    return WriterFactory("compile_standard_form").write(model, mixed_form=True)


def load_model(
    form: StandardForm,
    *,
    gap: float,
    time_limit_s: float | None = None,
    node_limit: int | None = None,
) -> highspy.Highs:
    """HiGHS with the model and when to stop, ready to run; a limit that is None does not apply.

    `gap` is relative to the objective. A time limit is not reproducible, a node limit is.
    """
    h = highspy.Highs()
    h.silent()
    h.setOptionValue("threads", 1)  # changing it later in a process makes run() fail
    h.setOptionValue("mip_rel_gap", gap)
    if time_limit_s is not None:
        h.setOptionValue("time_limit", max(0.0, time_limit_s))
    if node_limit is not None:
        h.setOptionValue("mip_max_nodes", node_limit)
    h.passModel(_lp(form))
    return h


def start_from_values(h: highspy.Highs, form: StandardForm) -> None:
    """Give HiGHS the values that the model's variables now have, all of them, as incumbent."""
    start = highspy.HighsSolution()
    start.col_value = [float(v.value) for v in form.columns]
    start.value_valid = True
    h.setSolution(start)


def read_values(h: highspy.Highs, form: StandardForm) -> bool:
    """Give the model's variables the values that HiGHS found; False if it found none."""
    feasible = highspy.SolutionStatus.kSolutionStatusFeasible
    if h.getInfo().primal_solution_status != feasible:
        return False
    for var, value in zip(form.columns, h.getSolution().col_value, strict=True):
        var.set_value(value, skip_validation=True)
    return True


def dual_bound(h: highspy.Highs) -> float | None:
    """The bound that HiGHS has proven on the objective, if any."""
    bound = float(h.getInfo().mip_dual_bound)
    return bound if np.isfinite(bound) else None


def is_infeasible(h: highspy.Highs) -> bool:
    """Whether the constraints were proven contradictory."""
    return bool(h.getModelStatus() == highspy.HighsModelStatus.kInfeasible)


def _lp(form: StandardForm) -> highspy.HighsLp:
    """Pyomo's mixed standard form ``rows (<=, =, >=) rhs`` as HiGHS's ``lower <= A x <= upper``."""
    lp = highspy.HighsLp()
    columns, matrix = form.columns, form.A
    lp.num_col_, lp.num_row_ = len(columns), len(form.rows)
    lp.col_cost_ = np.asarray(form.c.todense(), dtype=np.float64).ravel()
    bounds = [(v.lb, v.ub) for v in columns]
    lp.col_lower_ = np.array([-highspy.kHighsInf if lo is None else lo for lo, _ in bounds])
    lp.col_upper_ = np.array([highspy.kHighsInf if up is None else up for _, up in bounds])
    sense = np.array([row.bound_type for row in form.rows])
    rhs = np.asarray(form.rhs, dtype=np.float64)
    lp.row_lower_ = np.where(sense == 1, -highspy.kHighsInf, rhs)
    lp.row_upper_ = np.where(sense == -1, highspy.kHighsInf, rhs)
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_, lp.a_matrix_.index_ = matrix.indptr, matrix.indices
    lp.a_matrix_.value_ = matrix.data
    kinds = highspy.HighsVarType
    lp.integrality_ = [kinds.kInteger if v.is_binary() else kinds.kContinuous for v in columns]
    return lp
