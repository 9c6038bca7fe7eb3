"""Why one request went where it went: what each worker would have meant for it, in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from solver.arrays import FloatArray


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

    def runner_up(self) -> tuple[str, float] | None:
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
        others = [row for row in candidates if row["eligible"] and not row["chosen"]]
        runner_up = min(others, key=lambda row: float(row["finish_s"]), default=None)
        actual = None if ended_s is None else ended_s - self.planned_s
        return {
            "plan": self.number,
            "method": self.method,
            "window_requests": self.requests,
            "chosen": chosen["worker"],
            "runner_up": runner_up["worker"] if runner_up else None,
            "predicted_s": chosen["finish_s"],
            "runner_up_predicted_s": runner_up["finish_s"] if runner_up else None,
            "actual_s": actual,
            "error_s": None if actual is None else actual - chosen["finish_s"],
            "regret_s": None if actual is None or not runner_up else actual - runner_up["finish_s"],
            "candidates": candidates,
        }
