"""Why one request went where it went: what each worker would have cost all together, in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from router.gateway.explanations.plan_record import Seen
from solver.arrays import FloatArray
from solver.routing.columns import WEIGHT
from solver.routing.formulas import FIRST_TOKEN
from solver.routing.objective import TERMS, Term


@dataclass(eq=False)
class Choice:
    """What each of m workers would have meant for request `index` of a plan, of so many answers."""

    seen: Seen
    index: int
    answers: int = 1

    @property
    def workers(self) -> tuple[str, ...]:
        """Their names."""
        return self.seen.names

    @property
    def chosen(self) -> int:
        """Where it goes."""
        return self.seen.workers[self.index]

    @cached_property
    def terms(self) -> FloatArray:
        """(terms, m) request-seconds of `solver.routing.objective`, whose sum decides.

        Infinite where the request must not go.
        """
        return self.seen.terms(self.index)

    @cached_property
    def ends_s(self) -> FloatArray:
        """(m,) seconds from the plan to its end: the terms less what weight and first token add."""
        first = (self.terms[Term.WAIT] + self.terms[Term.PREFILL]) / (1.0 + FIRST_TOKEN)
        weight = float(self.seen.asked.rows[self.index][WEIGHT])
        return np.asarray((first + self.terms[Term.DECODE]) / weight, dtype=np.float64)

    @property
    def cached_tokens(self) -> FloatArray:
        """(m,) of its prompt, what is in each worker's cache: once, as engines' usage counts it.

        A plan counts it for each of its answers.
        """
        cached = self.seen.asked.cached
        if cached is None:
            return np.zeros(len(self.workers))
        found = np.maximum(cached[self.index], 0.0) / self.answers
        return np.asarray(found, dtype=np.float64)

    @property
    def predicted_cached(self) -> float:
        """Of its prompt, what is in the cache of the worker that it goes to."""
        if self.seen.asked.cached is None:
            return 0.0
        return float(self.cached_tokens[self.chosen])

    @property
    def finish_s(self) -> float:
        """When it is done where it goes, in seconds after the plan."""
        return float(self.ends_s[self.chosen])

    def first_token_s(self, weight: float) -> float:
        """Until its first token where it goes, in seconds after the plan."""
        waited = self.terms[Term.WAIT, self.chosen] + self.terms[Term.PREFILL, self.chosen]
        return float(waited) / (1.0 + FIRST_TOKEN) / weight

    @property
    def cost_s(self) -> FloatArray:
        """(m,) request-seconds in all."""
        return np.asarray(self.terms.sum(axis=0), dtype=np.float64)

    def candidates(self) -> list[dict[str, Any]]:
        """A row a worker."""
        rows, cost = [], self.cost_s
        for j, name in enumerate(self.workers):
            eligible = bool(np.isfinite(cost[j]))
            row: dict[str, Any] = {"worker": name, "chosen": j == self.chosen, "eligible": eligible}
            if eligible:
                row |= {
                    "cost_s": float(cost[j]),
                    "terms_s": dict(zip(TERMS, self.terms[:, j].tolist(), strict=True)),
                    "finish_s": float(self.ends_s[j]),
                    "cached_tokens": float(self.cached_tokens[j]),
                }
            rows.append(row)
        return rows

    def runner_up(self) -> tuple[str, float] | None:
        """The runner-up, and how many request-seconds more it would have cost."""
        found = self._runner_up()
        if found is None:
            return None
        cost = self.cost_s
        return self.workers[found], float(cost[found] - cost[self.chosen])

    def line(self) -> str:
        """Where it goes, when it should be done there, and the same of the runner-up."""
        second = self._runner_up()
        told = [f"{self.workers[self.chosen]} in {self.finish_s:.3f} s"]
        if second is not None:
            told.append(f"{self.workers[second]} in {self.ends_s[second]:.3f} s")
        return "; ".join(told)

    def _runner_up(self) -> int | None:
        others = self.cost_s
        others[self.chosen] = np.inf
        best = int(others.argmin())
        return best if np.isfinite(others[best]) else None

    def to_json(self, ended_s: float | None) -> dict[str, Any]:
        """The choice, the runner-up and, once the request has `ended_s`, the regret."""
        second, cost = self._runner_up(), self.cost_s
        actual = None if ended_s is None else ended_s - self.seen.planned_s
        second_s = None if second is None else float(self.ends_s[second])
        return {
            "plan": self.seen.number,
            "method": self.seen.method,
            "window_requests": len(self.seen.workers),
            "chosen": self.workers[self.chosen],
            "cost_s": float(cost[self.chosen]),
            "runner_up": None if second is None else self.workers[second],
            "runner_up_cost_s": None if second is None else float(cost[second]),
            "predicted_s": self.finish_s,
            "runner_up_predicted_s": second_s,
            "actual_s": actual,
            "error_s": None if actual is None else actual - self.finish_s,
            "regret_s": None if actual is None or second_s is None else actual - second_s,
            "candidates": self.candidates(),
        }
