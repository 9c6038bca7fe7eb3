"""Plans for windows: at once in the event loop, and better ones from the solver's process.

The plan made in the loop is there before anything else starts, and is used unless a better one has
come by the deadline.
"""

from __future__ import annotations

from dataclasses import dataclass

from router.observe.metrics import GatewayMetrics
from solver.routing.assign import Assignment, assign
from solver.routing.objective import Load, Requests


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """A plan, what found it, and the request-seconds that it is better than the one before."""

    assignment: Assignment
    method: str
    gained_s: float = 0.0


class Planner:
    """Plans windows; see the module."""

    def __init__(self, deadline_s: float, metrics: GatewayMetrics) -> None:
        self._deadline_s, self._metrics = deadline_s, metrics

    def start(self) -> None:
        """Start the solver."""

    def stop(self) -> None:
        """End the solver."""

    async def plan(self, requests: Requests, load: Load) -> Planned:
        """The best plan found by the deadline."""
        return Planned(assign(requests, load), "in_turn")
