"""``makespan plan``: one packing problem, planned as the gateway plans its windows."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import orjson

from router.lab.packing.problems import read_problem
from router.settings.plan import PlanSettings
from router.solver_process import Search, SolverProcess
from solver.errors import InfeasibleProblem
from solver.packing.check import check
from solver.packing.pipeline import first_plan, improvements, nothing_to_win, supersedes, warm_up
from solver.packing.plan import Plan
from solver.packing.problem import Problem

# Rows of the table of workers that people are shown.
MOST_ROWS = 32
BAR = 40
PACKING = Search(warm_up, improvements, check, supersedes)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a problem: a plan, or why there is none.

    `solve_s` counts from the problem in memory; loading the solver is not in it.
    """

    plan: Plan | None
    solve_s: float
    infeasible: InfeasibleProblem | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields that other programs read."""
        if self.plan is not None:
            return self.plan.to_json() | {"solve_s": self.solve_s}
        names = ("assignment", "makespan_s", "lower_bound_s", "gap_ratio", "method")
        status = "unknown" if self.infeasible is None else "infeasible"
        out: dict[str, Any] = dict.fromkeys(names) | {"solve_s": self.solve_s, "status": status}
        out["request"] = None if self.infeasible is None else self.infeasible.request
        out["message"] = (
            "no plan was found in time" if not self.infeasible else str(self.infeasible)
        )
        return out


def plan(settings: PlanSettings) -> None:
    """Plan, and print; exits with 1 where there is no plan.

    Raises:
        BadSettings: if the file or a field of it is wrong.
    """
    problem = read_problem(settings.problem)
    answer = asyncio.run(_solve(problem, settings.deadline))
    print(orjson.dumps(answer.to_json()).decode() if settings.json else _table(problem, answer))
    if answer.plan is None:
        sys.exit(1)


async def _solve(problem: Problem, deadline_s: float) -> Answer:
    start = time.perf_counter()
    try:
        first = first_plan(problem, lambda: deadline_s - (time.perf_counter() - start))
    except InfeasibleProblem as error:
        return Answer(None, time.perf_counter() - start, error)
    used_s = time.perf_counter() - start
    if first is not None and nothing_to_win(problem, first):
        return Answer(first, used_s)
    solver = SolverProcess(PACKING)
    solver.start()
    try:
        await solver.warm()
        return await improved(solver, problem, first, deadline_s, used_s)
    finally:
        solver.stop()


async def improved(
    solver: SolverProcess[Problem, Plan],
    problem: Problem,
    first: Plan | None,
    deadline_s: float,
    used_s: float,
) -> Answer:
    """What a warm solver makes of a first plan in what is left of the deadline."""
    start = time.perf_counter() - used_s
    deadline = time.monotonic() + deadline_s - used_s
    try:
        best = await solver.improve(problem, first, deadline)
    except InfeasibleProblem as error:
        return Answer(None, time.perf_counter() - start, error)
    return Answer(best, time.perf_counter() - start)


def _table(problem: Problem, answer: Answer) -> str:
    """For people."""
    found = answer.plan
    if found is None:
        status = answer.to_json()
        return f"{status['status']}: {status['message']}"
    rows = [
        f"{problem.requests:,} requests on {problem.workers:,} workers, {found.status.value} "
        f"({found.method.value}, {answer.solve_s * 1000:.1f} ms)",
        "",
        f"makespan        {found.makespan_s:12.4g} s",
        f"lower bound     {found.lower_bound_s:12.4g} s   (makespan {found.gap_ratio:.3%} above)",
        f"new work done   {found.finish_s:12.4g} s   "
        f"({found.finish_gap_ratio:.3%} above its bound)",
        "",
        "worker  requests    backlog     planned",
    ]
    counts, load = Counter(found.assignment), problem.initial_s.copy()
    for i, j in enumerate(found.assignment):
        load[j] += problem.cost_s[i, j]
    scale = BAR / max(found.makespan_s, 1e-12)
    for j in range(min(problem.workers, MOST_ROWS)):
        before, after = float(problem.initial_s[j]), float(load[j])
        old = round(before * scale)
        bar = "░" * old + "█" * (round(after * scale) - old)
        rows.append(f"{j:>6}{counts[j]:>10}{before:>9.4g} s{after:>10.4g} s  {bar}")
    if problem.workers > MOST_ROWS:
        rows.append(f"   ... and {problem.workers - MOST_ROWS:,} more")
    return "\n".join(rows)
