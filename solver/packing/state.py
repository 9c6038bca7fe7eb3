"""An assignment under way: what each worker comes to, and what it would come to.

Local search asks for many small changes a second, so everything is kept up to date by worker, and
what breaks a rule is not refused but dear: an infinite cost, and memory beyond its limit, weigh
more than any finish. So a search can begin outside the rules and finds its way back.
"""

from __future__ import annotations

from functools import cache, cached_property

import numpy as np

from solver.arrays import FloatArray, IntArray
from solver.packing.problem import TOLERANCE, Problem

# How much worse than any finish it is to be where one cannot be served.
NEVER = 1e3


@cache
def bipartitions(requests: int) -> tuple[FloatArray, FloatArray]:
    """(2^r, r) all subsets as rows of zeros and ones, and their complements."""
    numbers = np.arange(1 << requests)[:, None]
    subsets = ((numbers >> np.arange(requests)) & 1).astype(np.float64)
    return subsets, 1.0 - subsets


class AssignmentState:
    """Who is where, and what that comes to.

    Attributes:
        assignment: (n,) the worker of each request.
        assigned: the requests of each worker.
        load, kv_used, longest: (m,) seconds, cached tokens and longest span of each worker.
        finish: (m,) when each worker has done its new work; above `ceiling_s` if it breaks a rule.
        cost: (n, m) as the problem's, `never_s` where infinite.
        ceiling_s: no plan finishes after that.
    """

    def __init__(self, problem: Problem, assignment: IntArray) -> None:
        self.initial, self.span = problem.initial_s, problem.spans_s
        self.kv_capacity = problem.kv_capacity
        self.kv = problem.kv_tokens if problem.memory_limited else None
        may = np.isfinite(problem.cost_s)
        self._may = may
        finite = np.where(may, problem.alone_s, 0.0)
        self.ceiling_s = float(finite.max(axis=1).sum() + problem.initial_s.max())
        self.never_s = NEVER * max(self.ceiling_s, 1.0)
        self.cost: FloatArray = np.where(may, problem.cost_s, self.never_s)
        self._largest_kv = max(1.0, float(problem.kv_tokens.max(initial=0.0)))
        self.assignment = assignment.copy()
        workers = len(self.initial)
        self.assigned: list[IntArray] = [np.flatnonzero(assignment == j) for j in range(workers)]
        self.load = self.initial.copy()
        self.kv_used, self.longest = np.zeros(workers), np.zeros(workers)
        self.finish = np.zeros(workers)
        for j in range(workers):
            self._refresh(j)

    @cached_property
    def eligible_workers(self) -> list[IntArray]:
        """The workers that may serve each request."""
        return [np.flatnonzero(row) for row in self._may]

    @property
    def worst_s(self) -> float:
        """The latest finish."""
        return float(self.finish.max())

    @property
    def allowed(self) -> bool:
        """Whether no rule is broken."""
        return self.worst_s <= self.ceiling_s * (1 + TOLERANCE)

    def penalty(self, used: FloatArray, room: FloatArray | float) -> FloatArray:
        """What it costs to use so much memory where there is so much room."""
        over = used - room
        broken = over > TOLERANCE * self._largest_kv
        dear = self.ceiling_s * (1.0 + over / self._largest_kv)
        return np.asarray(np.where(broken, dear, 0.0))

    def reassign(self, j: int, k: int, to_j: IntArray, to_k: IntArray) -> None:
        """Workers `j` and `k` have these requests from now on."""
        self.assigned[j], self.assigned[k] = to_j, to_k
        self.assignment[to_j] = j
        self.assignment[to_k] = k
        self._refresh(j)
        self._refresh(k)

    def move(self, i: int, k: int) -> None:
        """Request `i` is on worker `k` from now on."""
        j = int(self.assignment[i])
        self.reassign(j, k, self.assigned[j][self.assigned[j] != i], np.append(self.assigned[k], i))

    def totals(self, j: int, some: IntArray, rest: IntArray, subsets: FloatArray) -> FloatArray:
        """(ways,) the finish of worker `j` with `rest` and each subset of `some`."""
        finish: FloatArray = self.initial[j] + self.cost[rest, j].sum()
        finish = finish + subsets @ self.cost[some, j]
        if self.span is not None:
            np.maximum(finish, (subsets * self.span[some, j]).max(axis=1), out=finish)
            np.maximum(finish, self.span[rest, j].max(initial=0.0), out=finish)
        if self.kv is not None:
            used = self.kv[rest].sum() + subsets @ self.kv[some]
            finish += self.penalty(used, self.kv_capacity[j])
        if not len(rest):
            finish[subsets.sum(axis=1) == 0] = 0.0  # a worker without new work does not count
        return finish

    def _refresh(self, j: int) -> None:
        """Recompute a worker from its requests."""
        mine = self.assigned[j]
        self.load[j] = self.initial[j] + self.cost[mine, j].sum()
        if not len(mine):
            self.kv_used[j] = self.longest[j] = self.finish[j] = 0.0
            return
        finish = self.load[j]
        if self.span is not None:
            self.longest[j] = self.span[mine, j].max()
            finish = max(finish, self.longest[j])
        if self.kv is not None:
            self.kv_used[j] = self.kv[mine].sum()
            finish += float(self.penalty(self.kv_used[j : j + 1], self.kv_capacity[j])[0])
        self.finish[j] = finish
