"""Longest first, then polish: a plan in well under a millisecond for usual windows.

`longest_first` gives each request, longest first, to the worker where it would end earliest if it
came after what the window has put there before.
`polish` then takes the worker that finishes last and moves one of its requests, or swaps one
against another worker's, as long as that helps. Both respect eligibility and memory, both are
deterministic, and neither promises to find a plan where memory is tight.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from solver.types import TOLERANCE, FloatArray, Problem

IntArray = NDArray[np.intp]

# Each step of `polish` costs O(requests) and shortens a worker that finishes last; at 500 requests
# on 32 workers so many steps stay within about 4 ms of CPU, which an event loop can bear.
POLISH_STEPS = 32


def longest_first(problem: Problem) -> IntArray | None:
    """Assign every request, or return None if memory ran out on the way."""
    size = problem.cost_s.min(axis=1)
    placed = _place(problem, np.argsort(-size, kind="stable"))
    if placed is None:  # memory is what binds: large requests first leave fewer gaps
        placed = _place(problem, np.argsort(-problem.kv_tokens, kind="stable"))
    return placed


def _place(problem: Problem, order: IntArray) -> IntArray | None:
    cost, span, kv = problem.cost_s, problem.span_s, problem.kv_tokens
    load, room = problem.initial_s.copy(), problem.kv_capacity.copy()
    limited = bool(np.isfinite(room).any())
    assignment = np.empty(problem.requests, dtype=np.intp)
    for i in order:
        finish = np.maximum(load + cost[i], span[i] + (load - problem.initial_s))
        if limited:
            finish[room < kv[i]] = np.inf
        j = int(finish.argmin())
        if finish[j] == np.inf:
            return None
        assignment[i] = j
        load[j] += cost[i, j]
        room[j] -= kv[i]
    return assignment


def polish(problem: Problem, assignment: IntArray, bound_s: float) -> IntArray:
    """Shorten the worker that finishes last until nothing helps or `bound_s` is reached.

    Each step lowers the finish of a worker that is last and leaves the other one it touches below
    that, so the sorted finishes fall with every step and no state comes twice.
    """
    for _ in range(POLISH_STEPS):
        changes = _Step(problem, assignment, bound_s).best()
        if not changes:
            break
        assignment = assignment.copy()
        for i, j in changes.items():
            assignment[i] = j
    return assignment


class _Step:
    """One look at an assignment: its loads and finishes, and the best change for who is last."""

    def __init__(self, problem: Problem, assignment: IntArray, bound_s: float) -> None:
        self.problem, self.assignment, self.bound_s = problem, assignment, bound_s
        rows = np.arange(problem.requests)
        self.load = problem.initial_s.copy()
        np.add.at(self.load, assignment, problem.cost_s[rows, assignment])
        self.room = problem.kv_capacity.copy()
        np.subtract.at(self.room, assignment, problem.kv_tokens)
        self.span = np.zeros(problem.workers)
        np.maximum.at(self.span, assignment, problem.span_s[rows, assignment])
        used = np.zeros(problem.workers, dtype=np.bool_)
        used[assignment] = True
        self.finish = np.where(used, np.maximum(self.load, self.span), 0.0)

    def best(self) -> dict[int, int]:
        """Request -> new worker, of one move or one swap; empty if nothing helps."""
        last = int(self.finish.argmax())
        finish = float(self.finish[last])
        if finish <= self.bound_s * (1 + TOLERANCE):
            return {}
        mine = np.flatnonzero(self.assignment == last)
        move_s, i, j = self._best_move(mine, last)
        swap_s, a, b = self._best_swap(mine, last)
        if min(move_s, swap_s) >= finish * (1 - TOLERANCE):
            return {}
        return {i: j} if move_s <= swap_s else {a: last, b: int(self.assignment[a])}

    def _span_without(self, mine: IntArray, last: int) -> FloatArray:
        """For each of `mine`, the longest span left on `last` once that request is gone."""
        spans = self.problem.span_s[mine, last]
        if len(mine) == 1:
            return np.zeros(1)
        second, first = np.sort(spans)[-2:]
        without: FloatArray = np.where(spans == first, second, first)
        return without

    def _best_move(self, mine: IntArray, last: int) -> tuple[float, int, int]:
        """(finish of the two workers afterwards, request, new worker)."""
        p = self.problem
        there = np.maximum(np.maximum(self.load + p.cost_s[mine], p.span_s[mine]), self.span)
        there[self.room < p.kv_tokens[mine, None]] = np.inf
        there[:, last] = np.inf
        here = np.maximum(self.load[last] - p.cost_s[mine, last], self._span_without(mine, last))
        if len(mine) == 1:
            here[:] = 0.0  # a worker without new work does not count
        value = np.maximum(there, here[:, None])
        k, j = np.unravel_index(int(value.argmin()), value.shape)
        return float(value[k, j]), int(mine[k]), int(j)

    def _best_swap(self, mine: IntArray, last: int) -> tuple[float, int, int]:
        """(finish of the two workers afterwards, other's request, own request)."""
        p = self.problem
        others = np.flatnonzero(self.assignment != last)
        if not len(others):
            return np.inf, 0, 0
        host = self.assignment[others]
        come, leave = p.cost_s[others, last], p.cost_s[others, host]
        here = self.load[last] - p.cost_s[mine, last][:, None] + come
        here = np.maximum(here, p.span_s[others, last])
        here = np.maximum(here, self._span_without(mine, last)[:, None])
        there = (self.load[host] - leave) + p.cost_s[np.ix_(mine, host)]
        there = np.maximum(there, p.span_s[np.ix_(mine, host)])
        there = np.maximum(there, self.span[host])
        value = np.maximum(here, there)
        more = p.kv_tokens[mine][:, None] - p.kv_tokens[others]
        value[(more > self.room[host]) | (-more > self.room[last])] = np.inf
        k, at = np.unravel_index(int(value.argmin()), value.shape)
        return float(value[k, at]), int(others[at]), int(mine[k])
