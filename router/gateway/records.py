"""What is remembered of requests and plans, and how it explains each choice in numbers."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from solver.types import Plan, Problem
from solver.window import Close


@dataclass(frozen=True, eq=False, slots=True)
class PlanRecord:
    """A window that was planned: who was in it, on which workers, with what result.

    `planned_s` is when the plan was ready (seconds since the epoch), `took_s` how long it took.
    """

    number: int
    planned_s: float
    reason: Close
    wait_s: float
    took_s: float
    requests: tuple[str, ...]
    workers: tuple[str, ...]
    problem: Problem
    plan: Plan

    def to_json(self) -> dict[str, Any]:
        """The plan as ``/makespan/v1/plans/latest`` shows it."""
        load = self.problem.initial_s.copy()
        for i, j in enumerate(self.plan.assignment):
            load[j] += self.problem.cost_s[i, j]
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

    def candidates(self, index: int) -> list[dict[str, Any]]:
        """What each worker would have meant for request `index`; they add up.

        ``backlog_s + others_s + cost_s = load_s``, and the request is done by ``finish_s``, the
        later of ``load_s`` and ``span_s``.
        """
        problem, chosen = self.problem, self.plan.assignment[index]
        others = np.zeros(problem.workers)
        for i, j in enumerate(self.plan.assignment):
            if i != index:
                others[j] += problem.cost_s[i, j]
        rows = []
        for j, name in enumerate(self.workers):
            row: dict[str, Any] = {"worker": name, "chosen": j == chosen}
            eligible = bool(np.isfinite(problem.cost_s[index, j]))
            row["eligible"] = eligible
            if eligible:
                row |= _sum(problem, index, j, float(others[j]))
            rows.append(row)
        return rows


def _sum(problem: Problem, i: int, j: int, others_s: float) -> dict[str, float]:
    backlog, cost = float(problem.initial_s[j]), float(problem.cost_s[i, j])
    load, span = backlog + others_s + cost, float(problem.span_s[i, j])
    return {
        "backlog_s": backlog,
        "others_s": others_s,
        "cost_s": cost,
        "load_s": load,
        "span_s": span,
        "finish_s": max(load, span),
    }


@dataclass(eq=False, slots=True)
class RequestRecord:
    """One request as the gateway saw it. Times are seconds since the epoch."""

    id: str
    model: str
    stream: bool
    received_s: float
    prompt_tokens: int = 0
    expected_tokens: float = 0.0
    outcome: str = "in_flight"
    status: int | None = None
    error: str | None = None
    worker: str | None = None
    failed_workers: list[str] = field(default_factory=list)
    plan: PlanRecord | None = None
    index: int = 0
    sent_s: float | None = None
    first_token_s: float | None = None
    ended_s: float | None = None
    output_tokens: int | None = None

    def explain(self) -> dict[str, Any]:
        """Why it went where it went, and how that turned out."""
        return {
            "id": self.id,
            "model": self.model,
            "stream": self.stream,
            "outcome": self.outcome,
            "status": self.status,
            "error": self.error,
            "worker": self.worker,
            "failed_workers": self.failed_workers,
            "prompt_tokens": self.prompt_tokens,
            "expected_tokens": self.expected_tokens,
            "output_tokens": self.output_tokens,
            "times": {
                "received_at": self.received_s,
                "planned_at": self.plan.planned_s if self.plan else None,
                "sent_at": self.sent_s,
                "first_token_at": self.first_token_s,
                "ended_at": self.ended_s,
            },
            "choice": self._choice(),
        }

    def _choice(self) -> dict[str, Any] | None:
        if self.plan is None:
            return None
        candidates = self.plan.candidates(self.index)
        chosen = next(row for row in candidates if row["chosen"])
        rivals = [row for row in candidates if row["eligible"] and not row["chosen"]]
        rival = min(rivals, key=lambda row: float(row["finish_s"]), default=None)
        actual = None if self.ended_s is None else self.ended_s - self.plan.planned_s
        return {
            "plan": self.plan.number,
            "method": self.plan.plan.method.value,
            "window_requests": len(self.plan.requests),
            "chosen": chosen["worker"],
            "runner_up": rival["worker"] if rival else None,
            "predicted_s": chosen["finish_s"],
            "runner_up_predicted_s": rival["finish_s"] if rival else None,
            "actual_s": actual,
            "error_s": None if actual is None else actual - chosen["finish_s"],
            "regret_s": None if actual is None or not rival else actual - rival["finish_s"],
            "candidates": candidates,
        }


class RequestLog:
    """The latest requests by id, running ones always, finished ones up to a number.

    `running` counts the requests in the gateway now.
    """

    def __init__(self, remember: int) -> None:
        self._remember = remember
        self.running = 0
        self._running: dict[str, RequestRecord] = {}
        self._ended: OrderedDict[str, RequestRecord] = OrderedDict()

    def begin(self, record: RequestRecord) -> None:
        """A request has come; one with the same id as before takes its place here."""
        self.running += 1
        self._running[record.id] = record

    def end(self, record: RequestRecord) -> None:
        """It has ended."""
        self.running -= 1
        if self._running.get(record.id) is record:
            del self._running[record.id]
        self._ended[record.id] = record
        self._ended.move_to_end(record.id)
        while len(self._ended) > self._remember:
            self._ended.popitem(last=False)

    def find(self, request_id: str) -> RequestRecord | None:
        """The request with this id, if it is still remembered."""
        return self._running.get(request_id) or self._ended.get(request_id)
