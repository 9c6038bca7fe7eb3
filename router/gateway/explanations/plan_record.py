"""What is remembered of a plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from router.gateway.explanations.choice import Choice
from solver.arrays import FloatArray
from solver.packing.plan import Plan
from solver.packing.problem import Problem
from solver.routing.window import CloseReason


@dataclass(frozen=True, eq=False, slots=True)
class PlanRecord:
    """What was planned together: who was in it, on which workers, with what result.

    `planned_s` is when the plan was ready (seconds since the epoch), `took_s` how long it took;
    `cached` (n, m) prompt tokens of request i that worker j has in its cache; `load_s` (m,) what
    each worker has to do once all is done as planned.
    """

    number: int
    planned_s: float
    reason: CloseReason
    wait_s: float
    took_s: float
    requests: tuple[str, ...]
    workers: tuple[str, ...]
    problem: Problem
    plan: Plan
    cached: FloatArray | None = None
    load_s: FloatArray = field(init=False)

    def __post_init__(self) -> None:
        load = self.problem.initial_s.copy()
        chosen = np.array(self.plan.assignment, dtype=np.intp)
        np.add.at(load, chosen, self.problem.cost_s[np.arange(len(chosen)), chosen])
        object.__setattr__(self, "load_s", load)

    def to_json(self) -> dict[str, Any]:
        """The plan as ``/makespan/v1/plans/latest`` shows it."""
        load = self.load_s
        pairs = zip(self.requests, self.plan.assignment, strict=True)
        return {
            "number": self.number,
            "planned_at": self.planned_s,
            "closed_by": self.reason.value,
            "wait_s": self.wait_s,
            "plan_s": self.took_s,
            **self.plan.to_json(),
            "assignment": {name: self.workers[j] for name, j in pairs},
            "workers": {
                name: {"backlog_s": backlog, "planned_load_s": after}
                for name, backlog, after in zip(
                    self.workers, self.problem.initial_s.tolist(), load.tolist(), strict=True
                )
            },
        }

    def choice(self, index: int) -> Choice:
        """Why request `index` goes where it goes; it stays small when the plan is forgotten."""
        problem, chosen = self.problem, self.plan.assignment[index]
        others = self.load_s - problem.initial_s
        others[chosen] -= problem.cost_s[index, chosen]
        none = np.zeros(problem.workers)
        cached = none if self.cached is None else self.cached[index].copy()
        toll = none if problem.toll_s is None else problem.toll_s[index].copy()
        return Choice(
            number=self.number,
            planned_s=self.planned_s,
            method=self.plan.method.value,
            requests=len(self.requests),
            workers=self.workers,
            chosen=chosen,
            backlog_s=problem.initial_s,
            others_s=np.maximum(0.0, others),
            cost_s=problem.cost_s[index].copy(),
            span_s=problem.span_s[index] - toll,
            toll_s=toll,
            cached_tokens=cached,
        )
