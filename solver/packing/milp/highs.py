"""A Pyomo model into HiGHS and back.

Models are handed over as numbers rather than through Pyomo's own interface, which takes no
starting point and throws an incumbent away when a limit stops the search.
"""

from __future__ import annotations

import highspy
import numpy as np

from solver.packing.milp.compile import Compiled, Program

# Costs of a packing's relaxation are all zero but one, which leaves dual simplex without a sense of
# direction; so much more noise than usual gives it one.
PERTURBATION = 30.0
# A plan within so much of the best, relative to it, is taken for the best.
GAP = 1e-6


def load_program(
    program: Program,
    *,
    relaxed: bool = False,
    time_limit_s: float | None = None,
    node_limit: int | None = None,
) -> highspy.Highs:
    """HiGHS with the program and when to stop, ready to run; a limit that is None does not apply.

    It stops within `GAP` of the best. A time limit is not reproducible, a node limit is.
    """
    h = highspy.Highs()
    h.silent()
    h.setOptionValue("threads", 1)  # changing it later in a process makes run() fail
    h.setOptionValue("mip_rel_gap", GAP)
    if relaxed:  # as measured on dense packings: both about halve the time
        h.setOptionValue("presolve", "off")
        h.setOptionValue("dual_simplex_cost_perturbation_multiplier", PERTURBATION)
    if time_limit_s is not None:
        h.setOptionValue("time_limit", h.getRunTime() + max(0.0, time_limit_s))
    if node_limit is not None:
        h.setOptionValue("mip_max_nodes", node_limit)
    h.passModel(_lp(program, relaxed=relaxed))
    return h


def read_values(h: highspy.Highs, model: Compiled) -> bool:
    """Give the model's variables the values that HiGHS found; False if it found none."""
    if not has_solution(h):
        return False
    for var, value in zip(model.columns, h.getSolution().col_value, strict=True):
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
