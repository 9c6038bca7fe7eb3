"""What is remembered of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from router.gateway.explanations.choice import Choice
from solver.arrays import FloatArray
from solver.packing.bounds import packing_bound
from solver.packing.plan import Method, Plan, evaluate
from solver.routing.assign import Assignment
from solver.routing.problem import Job, WorkerView, build_problem
from solver.routing.window import CloseReason


@dataclass(frozen=True, eq=False)
class PlanRecord:
    """What was planned together: who was in it, on which workers, with what result.

    Attributes:
        planned_s: when the plan was ready, seconds since the epoch; `took_s`: how long it took.
        reason, wait_s: why the window closed, and how long it was open.
        plan: who is planned where, and who goes there now.
        method: what found it; `gained_s`: by how many request-seconds it bettered the first one.
        jobs, views, eligible: what was planned, on what, and who may serve whom, if not all.
        cached: (n, m) prompt tokens of request i that worker j has in its cache.
        now_s: when, on the monotonic clock.
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
    jobs: Sequence[Job]
    views: Sequence[WorkerView]
    eligible: Sequence[frozenset[int]] | None
    cached: FloatArray | None
    now_s: float

    @cached_property
    def batch(self) -> Plan:
        """The same plan as a batch, with its makespan and the bound that certifies it.

        It decides nothing, so it is made for whoever looks at the latest plan.
        """
        problem = build_problem(self.jobs, self.views, self.eligible, self.cached, self.now_s)
        return evaluate(problem, self.plan.workers, packing_bound(problem), Method.HEURISTIC)

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
        return Choice(
            number=self.number,
            planned_s=self.planned_s,
            method=self.method,
            requests=len(self.requests),
            workers=self.workers,
            chosen=self.plan.workers[index],
            terms=self.plan.terms[:, index].copy(),
            weight=self.jobs[index].weight,
            cached_tokens=None if self.cached is None else self.cached[index].copy(),
        )
