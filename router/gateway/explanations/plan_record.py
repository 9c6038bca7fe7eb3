"""What is remembered of a plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from solver.arrays import FloatArray
from solver.packing.plan import Plan
from solver.routing.asked import Asked
from solver.routing.assign import Assignment
from solver.routing.objective import ALL
from solver.routing.turns import Turns
from solver.routing.window import CloseReason


@dataclass(eq=False)
class Seen:
    """What a plan saw, and where it sent whom: enough to say why, when somebody asks.

    Attributes:
        number, method, planned_s: of the plan; the last in seconds since the epoch.
        names: of the workers.
        workers: (n,) where each request goes.
        asked: the requests, and what the workers had.
    """

    number: int
    method: str
    planned_s: float
    names: tuple[str, ...]
    workers: tuple[int, ...]
    asked: Asked

    def terms(self, index: int) -> FloatArray:
        """(terms, m) of a request on each worker when it was its turn; infinite: not there."""
        turns = Turns(self.asked.requests, self.asked.load)
        before = turns.before(np.array(self.workers, dtype=np.intp))[:, index]
        terms = np.stack(turns.terms(index, ALL, before))
        if turns.allowed is not None:
            terms[:, ~turns.allowed[index]] = np.inf
        return terms


@dataclass(eq=False)
class PlanRecord:
    """What was planned together: who was in it, on which workers, with what result.

    Attributes:
        reason, wait_s: why the window closed, and how long it was open.
        took_s: how long planning took.
        requests: their names.
        plan: who is planned where, and who goes there now.
        gained_s: by how many request-seconds its method bettered the first plan.
        seen: what it saw.
        as_batch: makes `batch`, for those who ask.
    """

    reason: CloseReason
    wait_s: float
    took_s: float
    requests: tuple[str, ...]
    plan: Assignment
    gained_s: float
    seen: Seen
    as_batch: Callable[[], Plan]

    @cached_property
    def batch(self) -> Plan:
        """The same plan as a batch, with its makespan and the bound that certifies it."""
        return self.as_batch()

    def to_json(self) -> dict[str, Any]:
        """The plan as ``/makespan/v1/plans/latest`` shows it."""
        seen, plan, batch = self.seen, self.plan, self.batch
        pairs = list(zip(self.requests, plan.workers, strict=True))
        return {
            "number": seen.number,
            "planned_at": seen.planned_s,
            "closed_by": self.reason.value,
            "wait_s": self.wait_s,
            "plan_s": self.took_s,
            "method": seen.method,
            "cost_s": plan.total_s,
            "cost_bound_s": plan.bound_s,
            "gained_s": self.gained_s,
            "makespan_s": batch.makespan_s,
            "lower_bound_s": batch.lower_bound_s,
            "gap_ratio": batch.gap_ratio,
            "assignment": {name: seen.names[j] for name, j in pairs},
            "held_back": [
                name for name, goes in zip(self.requests, plan.go, strict=True) if not goes
            ],
        }
