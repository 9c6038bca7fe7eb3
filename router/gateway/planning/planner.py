"""Plans for windows: at once in the event loop, and joint ones from the solver's process.

The plan made in the loop, one request after the other, is there before anything else starts. Where
it is so far above its bound that a joint plan should save more than its requests lose by waiting,
the process is asked, and what it has found by the deadline is used.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from router.observe.metrics import GatewayMetrics
from router.solver_process import Search, SolverProcess
from solver.routing import joint
from solver.routing.asked import Asked
from solver.routing.assign import Assignment, plan_in_turn
from solver.routing.check import check

JOINT = Search(joint.warm_up, joint.improvements, check, joint.supersedes)


@dataclass(slots=True, eq=False)
class Planned:
    """A plan, what found it, and the request-seconds that it is better than the one before."""

    assignment: Assignment
    method: str
    gained_s: float = 0.0


class Planner:
    """Plans windows; see the module."""

    def __init__(self, deadline_s: float, metrics: GatewayMetrics) -> None:
        self._deadline_s = deadline_s
        self.solver = SolverProcess(JOINT, metrics.planner_restarts.inc)

    def stop(self) -> None:
        """End the solver."""
        self.solver.stop()

    def plan_alone(self, asked: Asked) -> Planned:
        """The plan of one request, of which there is no better one."""
        return Planned(plan_in_turn(asked), "in_turn")

    async def plan(self, asked: Asked) -> Planned:
        """The best plan found by the deadline."""
        deadline = time.monotonic() + self._deadline_s
        first = plan_in_turn(asked)
        several = len(asked.rows) > 1 and self._deadline_s > 0
        worth = several and joint.worth_improving(asked.rows, first, self._deadline_s)
        if not worth or not self.solver.ready():
            return Planned(first, "in_turn")
        question = joint.Question(asked.requests, asked.load)
        found = await self.solver.improve(question, first, deadline)
        gained_s = 0.0 if found is None else first.total_s - found.total_s
        if found is None or gained_s <= 0:
            return Planned(found or first, "in_turn")
        return Planned(found, "joint", gained_s)
