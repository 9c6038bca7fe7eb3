"""What is remembered of requests and plans, and how it explains each choice in numbers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import numpy as np

from solver.arrays import FloatArray
from solver.batching.priority import Priority
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


@dataclass(frozen=True, eq=False, slots=True)
class Choice:
    """What each worker would have meant for one request, as its plan saw it; (m,) each.

    ``backlog_s + others_s + cost_s = load_s``, and the request is done by ``finish_s``, the later
    of ``load_s`` and ``span_s``; ``toll_s`` is what it would take from others there.
    """

    number: int
    planned_s: float
    method: str
    requests: int
    workers: tuple[str, ...]
    chosen: int
    backlog_s: FloatArray
    others_s: FloatArray
    cost_s: FloatArray
    span_s: FloatArray
    toll_s: FloatArray
    cached_tokens: FloatArray

    @property
    def finish_s(self) -> float:
        """When it is done where it goes, in seconds after the plan."""
        return self._sum(self.chosen)["finish_s"]

    def candidates(self) -> list[dict[str, Any]]:
        """A row a worker."""
        rows = []
        for j, name in enumerate(self.workers):
            eligible = bool(np.isfinite(self.cost_s[j]))
            row: dict[str, Any] = {"worker": name, "chosen": j == self.chosen, "eligible": eligible}
            rows.append(row | self._sum(j) if eligible else row)
        return rows

    def _sum(self, j: int) -> dict[str, float]:
        backlog, others, cost, span = (
            float(part[j]) for part in (self.backlog_s, self.others_s, self.cost_s, self.span_s)
        )
        load = backlog + others + cost
        return {
            "backlog_s": backlog,
            "others_s": others,
            "cost_s": cost,
            "load_s": load,
            "span_s": span,
            "toll_s": float(self.toll_s[j]),
            "finish_s": max(load, span),
            "cached_tokens": float(self.cached_tokens[j]),
        }

    def rival(self) -> tuple[str, float] | None:
        """The runner-up, and how many seconds sooner the chosen worker was to be done."""
        load = self.backlog_s + self.others_s + self.cost_s
        finish = np.maximum(load, self.span_s)
        others = finish.copy()
        others[self.chosen] = np.inf
        best = int(others.argmin())
        if not np.isfinite(others[best]):
            return None
        return self.workers[best], float(others[best] - finish[self.chosen])

    def to_json(self, ended_s: float | None) -> dict[str, Any]:
        """The choice, the runner-up and, once the request has `ended_s`, the regret."""
        candidates = self.candidates()
        chosen = next(row for row in candidates if row["chosen"])
        rivals = [row for row in candidates if row["eligible"] and not row["chosen"]]
        rival = min(rivals, key=lambda row: float(row["finish_s"]), default=None)
        actual = None if ended_s is None else ended_s - self.planned_s
        return {
            "plan": self.number,
            "method": self.method,
            "window_requests": self.requests,
            "chosen": chosen["worker"],
            "runner_up": rival["worker"] if rival else None,
            "predicted_s": chosen["finish_s"],
            "runner_up_predicted_s": rival["finish_s"] if rival else None,
            "actual_s": actual,
            "error_s": None if actual is None else actual - chosen["finish_s"],
            "regret_s": None if actual is None or not rival else actual - rival["finish_s"],
            "candidates": candidates,
        }


@dataclass(eq=False, slots=True)
class RequestRecord:
    """One request as the gateway saw it. Times are seconds since the epoch.

    `choice` is that of the plan that sent it last, after `planned` plans; `recalled` counts how
    often it was taken back from a worker's queue; `deadline_s` counts from its arrival.
    """

    id: str
    model: str
    stream: bool
    received_s: float
    trace_id: str | None = None
    prompt_tokens: int = 0
    expected_tokens: float = 0.0
    outcome: str = "in_flight"
    status: int | None = None
    error: str | None = None
    worker: str | None = None
    failed_workers: list[str] = field(default_factory=list)
    tenant: str = ""
    priority: str = Priority.DEFAULT.value
    deadline_s: float | None = None
    planned: int = 0
    recalled: int = 0
    choice: Choice | None = None
    sent_s: float | None = None
    first_token_s: float | None = None
    ended_s: float | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None

    def summary(self) -> dict[str, Any]:
        """What a log line says of it: that which there is, times as seconds from its arrival."""
        times = {"sent": self.sent_s, "first_byte": self.first_token_s, "ended": self.ended_s}
        told = {
            "outcome": self.outcome,
            "status": self.status,
            "error": self.error,
            "model": self.model,
            "worker": self.worker,
            "failed_workers": ",".join(self.failed_workers) or None,
            "tenant": self.tenant or None,
            "priority": self.priority,
            "prompt_tokens": self.prompt_tokens or None,
            "output_tokens": self.output_tokens,
            **{
                f"{name}_after_s": None if when is None else round(when - self.received_s, 4)
                for name, when in times.items()
            },
        }
        return {name: value for name, value in told.items() if value is not None}

    def explain(self) -> dict[str, Any]:
        """Why it went where it went, and how that turned out."""
        return {
            "id": self.id,
            "trace_id": self.trace_id,
            "model": self.model,
            "stream": self.stream,
            "outcome": self.outcome,
            "status": self.status,
            "error": self.error,
            "worker": self.worker,
            "failed_workers": self.failed_workers,
            "tenant": self.tenant,
            "priority": self.priority,
            "deadline_s": self.deadline_s,
            "planned": self.planned,
            "recalled": self.recalled,
            "prompt_tokens": self.prompt_tokens,
            "expected_tokens": self.expected_tokens,
            "output_tokens": self.output_tokens,
            "cached_tokens": self.cached_tokens,
            "times": {
                "received_at": self.received_s,
                "planned_at": self.choice.planned_s if self.choice else None,
                "sent_at": self.sent_s,
                "first_token_at": self.first_token_s,
                "ended_at": self.ended_s,
            },
            "choice": self.choice.to_json(self.ended_s) if self.choice else None,
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

    def in_flight(self) -> Iterable[RequestRecord]:
        """Those that run, the oldest first."""
        return self._running.values()

    def latest(self, most: int) -> list[RequestRecord]:
        """Those that run or have ended last, the newest first; at most a quarter wait for a worker.

        However many wait, there is something to see of those that have gone somewhere.
        """
        running = self._running.values()
        waiting = (record for record in reversed(running) if record.worker is None)
        placed = (record for record in reversed(running) if record.worker is not None)
        newest = chain(
            islice(waiting, most // 4),
            islice(placed, most),
            islice(reversed(self._ended.values()), most),
        )
        return sorted(newest, key=lambda record: -record.received_s)[:most]

    def find(self, request_id: str) -> RequestRecord | None:
        """The request with this id, if it is still remembered."""
        return self._running.get(request_id) or self._ended.get(request_id)
