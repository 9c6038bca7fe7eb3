"""Who goes where, one after the other: the plan that is there at once.

Rules:
- in the order given, each request is planned on the worker where it costs least (`objective`),
  with all that was placed before it there;
- where a slot is free and its first token would still come in time, a request goes at once: it is
  not held back for a faster worker;
- any other waits for a worker that has no room only if the cheapest that has room costs more by
  `DOUBT`, as costs are predictions; while it waits it counts as planned there, so that those behind
  it see the queue;
- a worker is closed once its slots and its lead are taken, its memory is full, or more than
  `QUEUED_S` of prefill are queued there: what would only queue there is better bound later.

Work is O(n m) and does not depend on what waits behind the n, or runs. Whoever knows a better plan
(`solver.routing.joint`) wishes requests elsewhere than where each is cheapest now; the other rules
are the same.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from solver.arrays import BoolArray, FloatArray, IntArray
from solver.routing.objective import (
    FIRST_TOKEN,
    TERMS,
    Index,
    Load,
    Requests,
    Term,
    ends_at_best_s,
    terms,
)
from solver.routing.turns import Turns

DOUBT = 0.1
# Queued prefill that keeps a worker busy until the next decision, and no more: a second, or on slow
# engines so many fixed costs of a prefill.
QUEUED_S, QUEUED_ALPHAS = 1.0, 16.0


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """A plan for n requests on m workers.

    Attributes:
        workers: (n,) where each is planned.
        go: (n,) whether it is sent there now; the others wait and are planned again.
        terms: (terms, n, m) of the objective when it was its turn.
        planned: the first so many are what the plan is about. Who comes after them finds every
            worker closed and is planned again; where it would go counts for nothing.
        bound_s: request-seconds that no plan of those, in this order, can beat.
    """

    workers: tuple[int, ...]
    go: tuple[bool, ...]
    terms: FloatArray
    planned: int
    bound_s: float

    @property
    def cost_s(self) -> FloatArray:
        """(n,) request-seconds of each where it is planned."""
        rows = np.arange(len(self.workers))
        return np.asarray(self.terms[:, rows, list(self.workers)].sum(axis=0), dtype=np.float64)

    @property
    def total_s(self) -> float:
        """Request-seconds of those that are planned: what is minimised."""
        return float(self.cost_s[: self.planned].sum())

    @property
    def gap_s(self) -> float:
        """Request-seconds that a better plan could save at most."""
        return max(0.0, self.total_s - self.bound_s)


@dataclass(slots=True, eq=False)
class Settled:
    """A plan that keeps the rules, and what each of n requests finds when it is its turn.

    Attributes:
        workers, go: (n,) as in `Assignment`.
        before: (3, n, m) what is placed where by then, as `Turns.before`.
        terms, costs: (terms, n, m) and their sums, infinite where it must not go.
        open, at_once: (n, m) who may be sent it, and who would begin it at once and in time.
    """

    workers: IntArray
    go: BoolArray
    before: FloatArray
    terms: FloatArray
    costs: FloatArray
    open: BoolArray
    at_once: BoolArray

    @classmethod
    def nobody(cls, n: int, m: int) -> Settled:
        """Nothing seen yet."""
        numbers = np.zeros((3, n, m)), np.zeros((len(TERMS), n, m)), np.zeros((n, m))
        open_, at_once = np.zeros((2, n, m), dtype=np.bool_)
        return cls(
            np.zeros(n, dtype=np.intp), np.zeros(n, dtype=np.bool_), *numbers, open_, at_once
        )

    @property
    def total_s(self) -> float:
        """Request-seconds of all."""
        return float(self.costs[np.arange(len(self.workers)), self.workers].sum())

    def copy(self) -> Settled:
        """One that may be changed."""
        return Settled(*(getattr(self, field.name).copy() for field in fields(self)))


def assign(requests: Requests, load: Load) -> Assignment:
    """The plan; see the module. Each request must be allowed somewhere."""
    planning = _Planning(requests, load)
    least = planning.costs.min(axis=1)
    planned = planning.go_on(0)
    return planning.plan(planned, float(least[:planned].sum()))


def follow(requests: Requests, load: Load, settled: Settled, bound_s: float) -> Assignment:
    """As `assign`, but the first k are `settled`; others go after them if there is room.

    The plan is about these k, and so is `bound_s`.
    """
    planning = _Planning(requests, load)
    planning.take(settled)
    k = len(settled.workers)
    planning.go_on(k)
    return planning.plan(k, bound_s)


def settle(turns: Turns, wishes: IntArray, near: Settled | None = None) -> Settled:
    """The plan that puts each where it is wished (n,), or where the rules send it instead.

    It is quicker if it begins with a plan that is nearly the same.
    """
    plan, changed, start = Settled.nobody(turns.n, turns.m), np.arange(turns.m), 0
    if near is not None:
        plan, different = near.copy(), np.flatnonzero(near.workers != wishes)
        changed = np.unique([near.workers[different], wishes[different]])
    plan.workers[:] = wishes
    while True:
        _see(turns, plan, changed)
        for i in range(start, turns.n):
            to, plan.go[i] = _choose(plan.costs[i], plan.open[i], plan.at_once[i], wishes[i])
            if to != wishes[i]:  # those after it find something else
                plan.workers[i], changed, start = to, np.array((wishes[i], to)), i + 1
                break
        else:
            return plan


def _see(turns: Turns, plan: Settled, changed: IntArray) -> None:
    """What all find on the workers that have `changed` (k,)."""
    plan.before = turns.before(plan.workers)
    i, j = (index.ravel() for index in np.meshgrid(np.arange(turns.n), changed, indexing="ij"))
    seen = turns.seen(j, plan.before[:, i, j])
    parts = turns.terms(i, j, seen)
    plan.terms[:, i, j], plan.costs[i, j] = parts, parts.sum(axis=0)
    plan.costs[~turns.allowed] = np.inf
    plan.open[i, j] = is_open(seen) & turns.allowed[i, j]
    plan.at_once[i, j] = plan.open[i, j] & begins_in_time(turns.requests, i, seen, parts)


class _Planning:
    """A plan in the making: `costs` (n, m) are those on what the next request finds."""

    def __init__(self, requests: Requests, load: Load) -> None:
        self._requests, self._state = requests, load.copy()
        self._best = ends_at_best_s(requests, load)
        n, m = requests.uncached.shape
        self._parts, self._chosen, self._go = np.empty((len(TERMS), n, m)), [-1] * n, [False] * n
        self.costs = np.empty((n, m))
        self._fill(0)

    def plan(self, planned: int, bound_s: float) -> Assignment:
        """What has been decided."""
        return Assignment(tuple(self._chosen), tuple(self._go), self._parts, planned, bound_s)

    def take(self, settled: Settled) -> None:
        """The first k have been planned already."""
        k = len(settled.workers)
        self._parts[:, :k] = settled.terms
        self._chosen[:k], self._go[:k] = settled.workers.tolist(), settled.go.tolist()
        for i, j in enumerate(self._chosen[:k]):
            self._state.place(self._requests, i, j)
        self._fill(k)

    def go_on(self, start: int) -> int:
        """Plan the others; where it ended, as nobody is open any more."""
        n, state, requests = len(self._requests), self._state, self._requests
        for i in range(start, n):
            able = is_open(state)
            if not able.any():
                self._chosen[i:] = self.costs[i:].argmin(axis=1).tolist()
                return i
            costs, parts = self.costs[i], self._parts[:, i]
            at_once = able & begins_in_time(requests, i, state, parts) & np.isfinite(costs)
            j, self._go[i] = _choose(costs, able, at_once, int(costs.argmin()))
            self._chosen[i] = j
            state.place(requests, i, j)
            if i + 1 < n:
                self._fill(i + 1, j)
        return n

    def _fill(self, start: int, j: slice | int = slice(None)) -> None:
        """The costs of all from `start` on, on worker(s) j."""
        rows, forbidden = slice(start, None), self._requests.forbidden
        found = terms(self._requests, self._state, self._best, rows, j)
        for k, term in enumerate(found):
            self._parts[k, rows, j] = term
        self.costs[rows, j] = self._parts[:, rows, j].sum(axis=0)
        if forbidden is not None:
            self.costs[rows, j][forbidden[rows, j]] = np.inf


def is_open(load: Load) -> BoolArray:
    """(m,) who may be sent something."""
    most = np.maximum(QUEUED_S, QUEUED_ALPHAS * load.cost.alpha_p_s)
    return (load.room > 0) & (load.queued_s <= most) & (load.kv_now > 0)


def begins_in_time(requests: Requests, i: Index, load: Load, parts: FloatArray) -> BoolArray:
    """(m,) where a slot is free and the first token of request i comes within its target.

    `parts` (terms, m) are its terms on these workers. Or each has a request of its own: i (m,).
    """
    blind = requests.weight[i, 0] * (1.0 + FIRST_TOKEN)
    first_s = (parts[Term.WAIT] + parts[Term.PREFILL]) / blind
    wanted = requests.ttft_s[i, 0]
    in_time = np.isfinite(wanted) & (requests.waited_s[i, 0] + first_s <= wanted)
    return np.asarray(in_time & (load.free > 0))


def _choose(costs: FloatArray, able: BoolArray, at_once: BoolArray, wish: int) -> tuple[int, bool]:
    """(worker, whether it goes there now) for a request that would like to go to `wish`."""
    if at_once.any():
        return wish if at_once[wish] else int(np.where(at_once, costs, np.inf).argmin()), True
    if able[wish]:
        return wish, True
    now = np.where(able, costs, np.inf)
    k = int(now.argmin())
    if np.isfinite(now[k]) and now[k] <= (1.0 + DOUBT) * costs[wish]:
        return k, True
    return wish, False
