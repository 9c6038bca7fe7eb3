"""Plans of batches from a process of their own, each as it is found.

The process is started with the first plan that is too large to be made here. It goes on for
`SEARCH_S` after the heuristic's, as long as there is something to win; meanwhile nothing else is
planned, so it is not for longer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from router.observe.metrics import GatewayMetrics
from router.solver_process import Search, SolverProcess
from solver.errors import InfeasibleProblem
from solver.packing.pipeline import warm_up
from solver.packing.plan import Method
from solver.routing.bulk_plan import Asked, BulkPlan, better_plans, check, supersedes

log = logging.getLogger(__name__)

# Lines go on beginning: what is found later is of a plan that is no longer.
SEARCH_S = 5.0


BATCHES: Search[Asked, BulkPlan] = Search(warm_up, better_plans, check, supersedes)


class Searching:
    """See the module; it is what `planned.Planner` asks for."""

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._metrics = metrics
        self._solver = SolverProcess(BATCHES, metrics.planner_restarts.inc)
        self._task: asyncio.Task[None] | None = None

    def ready(self) -> bool:
        """Whether it could plan something now; the process is started with the first call."""
        return (self._task is None or self._task.done()) and self._solver.ready()

    def plan(self, asked: Asked, follow: Callable[[BulkPlan], None]) -> None:
        """Begin to plan it; `follow` is called with every better plan."""
        self._task = asyncio.create_task(self._plan(asked, follow))

    async def _plan(self, asked: Asked, follow: Callable[[BulkPlan], None]) -> None:
        start_s = time.monotonic()
        try:
            best = await self._solver.improve(asked, None, start_s + SEARCH_S, follow)
        except InfeasibleProblem:
            best = None
        if best is None:
            log.warning("no plan of batches was found in time; the one before is followed")
            return
        self._metrics.batch_plan_gain.set(best.gained_s)
        if best.method is not Method.HEURISTIC:
            log.info(
                "a better plan of batches",
                extra={
                    "method": best.method.value,
                    "gained_s": round(best.gained_s, 3),
                    "finish_s": round(best.schedule.finish_s, 3),
                },
            )

    def stop(self) -> None:
        """End the process."""
        if self._task is not None:
            self._task.cancel()
        if self._solver.pid is not None:
            self._solver.stop()
