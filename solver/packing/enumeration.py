"""Windows in which no request has more than two workers left: all plans near the bound.

Worker by worker: which of its undecided requests does it take? What it leaves goes to the other
worker, so that a state is what everyone has by then, and what may still be lost. Prices of workers'
time tell the latter: with prices w that add up to 1, a plan that finishes by C has

    sum_j w_j (C - load_j) + sum_i (w_j(i) T_ij(i) - min_j w_j T_ij) = C - B

where B is the Lagrangian bound (README section 3). No term is negative, so idle time and dear
places are all paid out of C - B. Close to the bound hardly any subset of a worker's requests is
left; C rises from there until there is a plan, and the earliest of these is the optimum. Fifty
requests on eight workers take milliseconds, where HiGHS takes seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from solver.arrays import BoolArray, FloatArray, IntArray
from solver.packing.problem import TOLERANCE, Problem, SecondsLeft

# How far above the bound to begin, and how much farther each time.
NEAR, FARTHER = 5e-4, 1.2
# Requests that a worker may or may not take, and states; more take tenths of seconds. Of those
# where only workers without a price are left to fill, so many are enough.
MOST_FREE, MOST_STATES, ENOUGH_STATES = 17, 1 << 17, 1 << 10
TINY = 1e-12


@dataclass(frozen=True, slots=True)
class WorkerChoice:
    """What one worker was given: of (k,) requests, one of (s, k) subsets in each state.

    What it was not given went to `other`; (N,) `before` is the state from which each state comes,
    and `subset` by which subset.
    """

    worker: int
    requests: IntArray
    other: IntArray
    subsets: BoolArray
    before: IntArray
    subset: IntArray


class PartialPlans:
    """Plans that may finish by `limit_s`, as far as they are decided.

    Workers without a price have room to spare: there are too many ways to fill them, and of these
    only some are looked at. `bound_s` is the earliest finish among all plans before that.
    """

    def __init__(self, problem: Problem, price: FloatArray, limit_s: float) -> None:
        self._problem, self._limit = problem, limit_s * (1 + TOLERANCE)
        useful = problem.initial_s <= self._limit  # the others get nothing
        self._initial = np.where(useful, problem.initial_s, 0.0)
        price = np.where(useful, price, 0.0)
        self._price = price / max(float(price.sum()), TINY)
        self.bound_s: float | None = None
        self._choices: list[WorkerChoice] = []
        # (N, m) everyone's load; (N,) what may still be lost; (n, m) pairs that are not decided.
        self._load = self._initial[None, :].copy()
        self._budget = np.zeros(1)
        self._open = problem.alone_s <= self._limit
        self._lost = np.zeros(self._open.shape)
        self._only = np.full(problem.requests, -1)
        self._fix()

    def _fix(self) -> None:
        """Leave out pairs that lose more than there is, and settle who has one worker left."""
        cost, allowed = self._problem.cost_s, self._open
        priced = np.where(allowed, self._price * np.where(allowed, cost, 0.0), np.inf)
        least = priced.min(axis=1)
        bound = least.sum() + self._price @ self._initial
        self._budget[0] = self._limit * (1 + TOLERANCE) - bound  # it ends at 0, give or take
        if self._budget[0] < 0:
            self._keep(np.zeros(1, dtype=np.bool_))
            return
        self._lost = np.where(allowed, priced - least[:, None], 0.0)
        allowed &= self._lost <= self._budget[0]
        single = np.flatnonzero(allowed.sum(axis=1) == 1)
        self._only[single] = allowed[single].argmax(axis=1)
        np.add.at(self._load[0], self._only[single], cost[single, self._only[single]])
        allowed[single] = False
        self._keep(np.asarray((self._load <= self._limit).all(axis=1)))

    def _keep(self, which: BoolArray | IntArray) -> None:
        self._load, self._budget = self._load[which], self._budget[which]

    def __len__(self) -> int:
        return len(self._load)

    def decide(self, left_s: SecondsLeft) -> bool:
        """Decide all pairs; False if there are too many choices, or time runs out."""
        if self._open.sum(axis=1).max(initial=0) > 2:
            return False
        todo = set(np.flatnonzero(self._open.any(axis=0) | (self._price > 0)).tolist())
        while todo and len(self):
            free = self._open.sum(axis=0)
            worker = min(todo, key=lambda j: (self._price[j] <= 0, free[j]))
            todo.remove(worker)
            if left_s() <= 0 or free[worker] > MOST_FREE or not self._decide(worker):
                return False
        if len(self) and self.bound_s is None:
            self.bound_s = float(self._finish().min())
        return True

    def _decide(self, worker: int) -> bool:
        """What `worker` is given, in each state; False if these are too many ways."""
        requests = np.flatnonzero(self._open[:, worker])
        self._open[requests, worker] = False
        other = self._open[requests].argmax(axis=1)
        self._open[requests] = False
        subsets, added, lost = self._subsets(worker, requests, other)
        price, limit, own = self._price[worker], self._limit, added[:, worker]
        kept = np.arange(len(self))
        if price <= 0 and len(self) * len(own) > ENOUGH_STATES:
            finish = self._finish()
            self.bound_s = float(finish.min()) if self.bound_s is None else self.bound_s
            kept = np.argsort(finish)[: max(1, ENOUGH_STATES // len(own))]
            self._keep(kept)
        room = limit - self._load[:, worker]
        slack = self._budget / price if price > 0 else np.full(len(self), np.inf)
        low = np.searchsorted(own, room - slack)
        ways = np.maximum(np.searchsorted(own, room, side="right") - low, 0)
        if ways.sum() > MOST_STATES:
            return False
        before = np.repeat(np.arange(len(self)), ways)
        subset = np.arange(len(before)) + np.repeat(low - np.cumsum(ways) + ways, ways)
        self._keep(before)
        self._budget -= price * (room[before] - own[subset]) + lost[subset]
        self._load += added[subset]
        may = (self._budget >= 0) & (self._load <= limit).all(axis=1)
        self._keep(may)
        self._choices.append(
            WorkerChoice(worker, requests, other, subsets, kept[before[may]], subset[may])
        )
        return True

    def _subsets(
        self, worker: int, requests: IntArray, other: IntArray
    ) -> tuple[BoolArray, FloatArray, FloatArray]:
        """(s, k) subsets by what they take, (s, m) the load that each adds, (s,) what is lost."""
        cost, k = self._problem.cost_s, len(requests)
        subsets = np.zeros((1, k), dtype=np.bool_)
        added, lost = np.zeros((1, self._problem.workers)), np.zeros(1)
        room = self._limit - self._load.min(axis=0)
        budget = self._budget.max()
        for at, (i, j) in enumerate(zip(requests.tolist(), other.tolist(), strict=True)):
            taken = subsets.copy()
            taken[:, at] = True
            subsets = np.concatenate((taken, subsets))
            more = np.zeros((2, self._problem.workers))
            more[0, worker], more[1, j] = cost[i, worker], cost[i, j]
            added = np.concatenate((added + more[0], added + more[1]))
            lost = np.concatenate((lost + self._lost[i, worker], lost + self._lost[i, j]))
            may = (added <= room).all(axis=1) & (lost <= budget)
            subsets, added, lost = subsets[may], added[may], lost[may]
        order = np.argsort(added[:, worker], kind="stable")
        return subsets[order], added[order], lost[order]

    def _finish(self) -> FloatArray:
        """(N,) when the new work is done that is placed so far."""
        worked = self._load > self._initial
        return np.asarray(np.where(worked, self._load, 0.0).max(axis=1))

    def best(self) -> IntArray:
        """The plan that finishes first."""
        assignment, at = self._only.copy(), int(self._finish().argmin())
        for choice in reversed(self._choices):
            given = choice.subsets[choice.subset[at]]
            assignment[choice.requests] = np.where(given, choice.worker, choice.other)
            at = int(choice.before[at])
        return assignment


def best_near_bound(
    problem: Problem, price: FloatArray, bound_s: float, best_s: float, left_s: SecondsLeft
) -> tuple[IntArray | None, float]:
    """A plan no later than `best_s` and the highest bound found, from `bound_s` up; or no plan.

    `price` (m,) >= 0 is what a second of each worker's time is worth (any is right, the dual of the
    relaxation is best). Memory must not be limited, nor requests take longer than their work.
    """
    assert not problem.memory_limited
    assert problem.spans_s is None
    reached, above = bound_s, NEAR
    while price.sum() > 0 and reached < best_s * (1 - TOLERANCE):
        limit = min(bound_s * (1 + above), best_s)
        states = PartialPlans(problem, price, limit)
        if not states.decide(left_s):
            break
        if states.bound_s is not None:
            reached = max(reached, states.bound_s)
            return states.best() if len(states) else None, reached
        reached, above = limit, above * FARTHER
    return None, reached
