"""What is remembered of a plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from router.gateway.explanations.choice import Choice
from solver.arrays import FloatArray
from solver.packing.plan import Plan
from solver.routing.assign import Assignment
from solver.routing.window import CloseReason


@dataclass(frozen=True, eq=False, slots=True)
class PlanRecord:
    """What was planned together: who was in it, on which workers, with what result.

    Attributes:
        planned_s: when the plan was ready, seconds since the epoch; `took_s`: how long it took.
        reason, wait_s: why the window closed, and how long it was open.
        plan: who is planned where, and who goes there now.
        method: what found it; `gained_s`: by how many request-seconds it bettered the first one.
        weight: (n,) of each request's own seconds.
        cached: (n, m) prompt tokens of request i that worker j has in its cache.
        batch: the same plan as a batch, with its makespan and the bound that certifies it.
    """

    number: int
    planned_s: float
    reason: CloseReason
    wait_s: float
    took_s: float
    requests: tuple[str, ...]
    workers: tuple[str, ...]
    plan: Assignment
    method: str
    gained_s: float
    weight: FloatArray
    batch: Plan
    cached: FloatArray | None = None

    def to_json(self) -> dict[str, Any]:
        """The plan as ``/makespan/v1/plans/latest`` shows it."""
        plan, batch = self.plan, self.batch
        pairs = list(zip(self.requests, plan.workers, strict=True))
        return {
            "number": self.number,
            "planned_at": self.planned_s,
            "closed_by": self.reason.value,
            "wait_s": self.wait_s,
            "plan_s": self.took_s,
            "method": self.method,
            "cost_s": plan.total_s,
            "cost_bound_s": plan.bound_s,
            "gained_s": self.gained_s,
            "makespan_s": batch.makespan_s,
            "lower_bound_s": batch.lower_bound_s,
            "gap_ratio": batch.gap_ratio,
            "assignment": {name: self.workers[j] for name, j in pairs},
            "held_back": [
                name for name, goes in zip(self.requests, plan.go, strict=True) if not goes
            ],
        }

    def choice(self, index: int) -> Choice:
        """Why request `index` goes where it goes; it stays small when the plan is forgotten."""
        terms = self.plan.terms[:, index].copy()
        none = np.zeros(len(self.workers))
        return Choice(
            number=self.number,
            planned_s=self.planned_s,
            method=self.method,
            requests=len(self.requests),
            workers=self.workers,
            chosen=self.plan.workers[index],
            terms=terms,
            ends_s=Choice.ends(terms, float(self.weight[index])),
            cached_tokens=none if self.cached is None else self.cached[index].copy(),
        )
