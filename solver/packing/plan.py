"""What comes out of the planner: who goes where, how good that is, and how good it could be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Any

import numpy as np

from solver.arrays import IntArray
from solver.packing.problem import TOLERANCE, Problem

# A MIP solver's own tolerances: a plan this close to its bound is optimal.
PROVEN = 5e-6

# A plan this close to its bound is as good as optimal: predictions are off by far more.
GOOD_ENOUGH = 0.001


class Method(StrEnum):
    """Which step of the pipeline found a plan."""

    HEURISTIC = "heuristic"  # longest first and polish
    SEARCH = "search"  # local search from there
    RELAXATION = "relaxation"  # its optimum, or prices where it is large, and search from there
    ENUMERATION = "enumeration"  # of all plans near the bound
    MILP = "milp"


class Status(StrEnum):
    """How good a plan is known to be."""

    OPTIMAL = "optimal"  # no plan finishes the new work earlier
    FEASIBLE = "feasible"


@dataclass(frozen=True, slots=True)
class Plan:
    """Who goes where, how good that is, and how good it could be at best.

    Attributes:
        assignment: worker index of each request.
        finish_s: latest finish among workers with new work: what was minimised.
        finish_bound_s: no assignment finishes the new work before this.
        makespan_s: when the whole fleet is done, old work included.
        lower_bound_s: no assignment has a smaller makespan.
        total_finish_s: sum over requests of their worker's load; decides between equal finishes.
    """

    assignment: tuple[int, ...]
    finish_s: float
    finish_bound_s: float
    makespan_s: float
    lower_bound_s: float
    total_finish_s: float
    method: Method

    @property
    def gap_ratio(self) -> float:
        """How far the makespan is above its bound, as a fraction of it; infinite if that is 0."""
        return _gap(self.makespan_s, self.lower_bound_s)

    @property
    def finish_gap_ratio(self) -> float:
        """How far the finish of the new work is above its bound, as a fraction of the bound."""
        return _gap(self.finish_s, self.finish_bound_s)

    @property
    def status(self) -> Status:
        """Whether the finish of the new work meets its bound; then the makespan does, too."""
        return Status.OPTIMAL if self.finish_gap_ratio <= PROVEN else Status.FEASIBLE

    @property
    def good_enough(self) -> bool:
        """Whether what could still be won is not worth looking for."""
        return self.finish_gap_ratio <= GOOD_ENOUGH

    def to_json(self) -> dict[str, Any]:
        """The answer's fields as other programs read them."""
        return {
            "assignment": list(self.assignment),
            "makespan_s": self.makespan_s,
            "lower_bound_s": self.lower_bound_s,
            "gap_ratio": self.gap_ratio,
            "finish_s": self.finish_s,
            "finish_bound_s": self.finish_bound_s,
            "finish_gap_ratio": self.finish_gap_ratio,
            "method": self.method.value,
            "status": self.status.value,
        }


def _gap(value: float, bound: float) -> float:
    if bound <= 0:
        return 0.0 if value <= 0 else inf
    return max(0.0, value / bound - 1.0)


def evaluate(
    problem: Problem, assignment: Sequence[int] | IntArray, bound_s: float, method: Method
) -> Plan:
    """Value an assignment; `bound_s` bounds the finish of the new work."""
    chosen = np.asarray(assignment, dtype=np.intp)
    load = problem.initial_s.copy()
    np.add.at(load, chosen, problem.costs_of(chosen))
    backlog = float(problem.initial_s.max())
    finish = 0.0
    if problem.requests:
        finish = float(max(load[chosen].max(), problem.spans_of(chosen).max()))
    if finish < bound_s <= finish * (1 + TOLERANCE):
        bound_s = finish  # the two were summed in different orders
    return Plan(
        assignment=tuple(chosen.tolist()),
        finish_s=finish,
        finish_bound_s=bound_s,
        makespan_s=max(finish, backlog),
        lower_bound_s=max(bound_s, backlog),
        total_finish_s=float(load[chosen].sum()),
        method=method,
    )
