"""Plans for windows, made in the event loop: one request after the other, in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass

from solver.routing.assign import Assignment, assign
from solver.routing.objective import Load, Requests


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """A plan, and what found it."""

    assignment: Assignment
    method: str


class Planner:
    """Plans windows; see the module."""

    async def plan(self, requests: Requests, load: Load) -> Planned:
        """The plan that is there at once."""
        return Planned(assign(requests, load), "in_turn")
