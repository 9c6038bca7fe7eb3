"""What else could plan a window: a MILP alone, and OR-Tools' CP-SAT. For the planner's bench only.

Each runs in a process of its own, kept warm: HiGHS and OR-Tools cannot share one. CP-SAT is a
development dependency, and the time to build its model is not counted.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from router.lab.simulation.pool import give_up
from router.solver_process import deaf_to_ctrl_c
from solver.packing.problem import Problem

# CP-SAT has whole numbers only: tenths of a millisecond.
TICKS = 10_000
# Beyond so many pairs of a request and a worker the models alone take minutes and gigabytes.
MOST_PAIRS = 300_000


@dataclass(frozen=True, slots=True)
class SolverResult:
    """What one found: an assignment, if any; a proven bound, if any; and whether it is done."""

    assignment: tuple[int, ...] | None
    bound_s: float
    proven: bool
    took_s: float


def milp_alone(problem: Problem, deadline_s: float) -> SolverResult:
    """HiGHS on the whole model, without an incumbent."""
    from solver.packing.milp import model

    start = time.perf_counter()
    outcome = model.solve(
        problem, None, left_s=lambda: max(0.0, deadline_s - (time.perf_counter() - start))
    )
    took = time.perf_counter() - start
    found = None if outcome.assignment is None else tuple(outcome.assignment.tolist())
    return SolverResult(found, outcome.finish_bound_s or 0.0, took < deadline_s, took)


def cp_sat(problem: Problem, deadline_s: float) -> SolverResult:
    """OR-Tools' CP-SAT, with its defaults: all cores."""
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    ticks = np.where(problem.eligible, np.round(problem.cost_s * TICKS), -1).astype(np.int64)
    start_ticks = np.round(problem.initial_s * TICKS).astype(np.int64)
    finish = model.new_int_var(0, int(ticks.max(axis=1).sum() + start_ticks.max()), "finish")
    to: list[list[tuple[int, Any]]] = [[] for _ in range(problem.workers)]
    chosen = []
    for i in range(problem.requests):
        row = {int(j): model.new_bool_var("") for j in np.flatnonzero(ticks[i] >= 0)}
        model.add_exactly_one(row.values())
        for j, var in row.items():
            to[j].append((i, var))
        chosen.append(row)
    for j, pairs in enumerate(to):
        load = sum(int(ticks[i, j]) * var for i, var in pairs)
        model.add(load + int(start_ticks[j]) <= finish)
        if np.isfinite(problem.kv_capacity[j]):
            used = sum(int(problem.kv_tokens[i]) * var for i, var in pairs)
            model.add(used <= int(problem.kv_capacity[j]))
    model.minimize(finish)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = deadline_s
    start = time.perf_counter()
    status = solver.solve(model)
    took = time.perf_counter() - start
    found = None
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        found = tuple(next(j for j, v in row.items() if solver.value(v)) for row in chosen)
    done = status in (cp_model.OPTIMAL, cp_model.INFEASIBLE)
    return SolverResult(found, solver.best_objective_bound / TICKS, done, took)


class OtherSolver:
    """One of them, in its process."""

    def __init__(self, name: str, solve: Callable[[Problem, float], SolverResult]) -> None:
        self.name, self._solve = name, solve
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, context)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._pool.shutdown()
        else:
            give_up(self._pool)

    def run(self, problem: Problem, deadline_s: float) -> SolverResult | None:
        """None where the problem is too large for it, or it is not installed."""
        if problem.requests * problem.workers > MOST_PAIRS:
            return None
        try:
            with deaf_to_ctrl_c():
                answer = self._pool.submit(self._solve, problem, deadline_s)
            return answer.result()
        except ModuleNotFoundError:
            return None
