"""Plans for windows: at once from the heuristic, and better ones from the solver's process.

The heuristic's plan is there before anything else starts, and is used unless a better one has come
by the deadline.
"""

from __future__ import annotations

import time

from router.observe.metrics import GatewayMetrics
from router.solver_process import WARM_UP, SolverProcess
from solver.packing.pipeline import FIRST_STEPS, first_plan_or_queue, worth_improving
from solver.packing.plan import Plan
from solver.packing.problem import Problem

# Steps of local search in the event loop: one takes a quarter of a millisecond at 16,000 pairs of a
# request and a worker, and a turn of the loop should take less than five.
LARGE_PAIRS, LARGE_STEPS = 1024, 6


class Planner:
    """Plans windows; see the module."""

    def __init__(self, deadline_s: float, metrics: GatewayMetrics) -> None:
        self._deadline_s = deadline_s
        self.solver = SolverProcess(metrics.planner_restarts.inc)

    def start(self) -> None:
        """Start the solver; without a deadline to use it in, there is none."""
        first_plan_or_queue(WARM_UP)  # the first request is not to pay for numpy's first calls
        if self._deadline_s > 0:
            self.solver.start()

    def stop(self) -> None:
        """End the solver."""
        self.solver.stop()

    async def plan(self, problem: Problem, *, binding: bool = True) -> tuple[Problem, Plan]:
        """The best plan found by the deadline, and the problem that it solves.

        A plan that is not `binding` will be made again before most of it is carried out: then the
        heuristic's is as good as any.

        Raises:
            InfeasibleProblem: if a request has no eligible worker.
        """
        deadline = time.monotonic() + self._deadline_s
        large = problem.requests * problem.workers > LARGE_PAIRS
        problem, best = first_plan_or_queue(problem, LARGE_STEPS if large else FIRST_STEPS)
        if not binding or not worth_improving(best, self._deadline_s) or not self.solver.ready():
            return problem, best
        return problem, await self.solver.improve(problem, best, deadline) or best
