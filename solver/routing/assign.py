"""Who goes where, one after the other: the plan that is there at once.

Rules:
- in the order given, each request is planned on the worker where it costs least (`objective`),
  with all that was placed before it there;
- whoever may still keep the target of its first token goes at once where a slot is free: it is not
  held back for a faster worker;
- any other waits for a worker that has no room only if the cheapest that has room costs more by
  `DOUBT`, as costs are predictions; while it waits it counts as planned there, so that those behind
  it see the queue;
- a worker is closed once its slots and its lead are taken, its memory is full, or more than
  `QUEUED_S` of prefill are queued there: what would only queue there is better bound later.

Work is O(n m) and does not depend on what waits behind the n, or runs. Whoever knows a better plan
(`solver.routing.joint`) wishes it, and the same rules decide who goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from solver.arrays import BoolArray, FloatArray, IntArray
from solver.routing.objective import TERMS, Load, Requests, ends_at_best_s, terms
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


@dataclass(slots=True, eq=False)
class Settled:
    """A plan that keeps the rules, and what each of n requests finds when it is its turn.

    Attributes:
        workers, go: (n,) as in `Assignment`.
        before: (3, n, m) what is placed where by then, as `Turns.before`.
        terms, costs: (terms, n, m) and their sums, infinite where it must not go.
        open, free: (n, m) whether the worker may be sent something, and has a free slot.
        able: (n, m) where the rules would let it go at once.
    """

    workers: IntArray
    go: BoolArray
    before: FloatArray
    terms: FloatArray
    costs: FloatArray
    open: BoolArray
    free: BoolArray
    able: BoolArray

    @property
    def total_s(self) -> float:
        """Request-seconds of all."""
        return float(self.costs[np.arange(len(self.workers)), self.workers].sum())

    def copy(self) -> Settled:
        """One that may be changed."""
        return Settled(*(getattr(self, field.name).copy() for field in fields(self)))


def settle(turns: Turns, wishes: IntArray, near: Settled | None = None) -> Settled:
    """The plan that puts each where it is wished (n,), or where the rules send it instead.

    It is quicker if it begins with a plan that is nearly the same.
    """
    n, hopeful, start = turns.n, turns.requests.hopeful, 0
    plan = _unsettled(turns) if near is None else near.copy()
    different = np.flatnonzero(plan.workers != wishes)
    changed = np.unique([plan.workers[different], wishes[different]])
    plan.workers[:] = wishes
    while True:
        _see(turns, plan, np.arange(turns.m) if near is None else changed)
        near = plan
        for k in range(start, n):
            to, plan.go[k] = _choose(
                plan.costs[k], plan.able[k], wishes[k], hopeful=bool(hopeful[k])
            )
            if to != wishes[k]:  # those after it find something else
                plan.workers[k], changed, start = to, np.array((wishes[k], to)), k + 1
                break
        else:
            return plan


def _unsettled(turns: Turns) -> Settled:
    shape = turns.n, turns.m
    return Settled(
        np.zeros(turns.n, dtype=np.intp),
        np.zeros(turns.n, dtype=np.bool_),
        np.zeros((3, *shape)),
        np.zeros((len(TERMS), *shape)),
        np.zeros(shape),
        *(np.zeros(shape, dtype=np.bool_) for _ in range(3)),
    )


def _see(turns: Turns, plan: Settled, changed: IntArray) -> None:
    """What all find on the workers that have `changed` (k,)."""
    plan.before = turns.before(plan.workers)
    i, j = (index.ravel() for index in np.meshgrid(np.arange(turns.n), changed, indexing="ij"))
    seen = turns.seen(j, plan.before[:, i, j])
    plan.terms[:, i, j] = turns.terms(i, j, seen)
    plan.costs[:, changed] = plan.terms[:, :, changed].sum(axis=0)
    plan.costs[~turns.allowed] = np.inf
    plan.open[i, j], plan.free[i, j] = is_open(seen), seen.free > 0
    plan.able = may_go(plan.open, plan.free, turns.allowed, turns.requests.hopeful)


class _Planning:
    """A plan in the making: `state` is what the next one finds, with costs (n, m) as of then."""

    def __init__(self, requests: Requests, load: Load) -> None:
        self._requests, self._state = requests, load.copy()
        self._best = ends_at_best_s(requests, load)
        n, m = requests.uncached.shape
        self._parts, self._chosen, self._go = np.empty((len(TERMS), n, m)), [-1] * n, [False] * n
        self.costs = np.empty((n, m))
        self._fill(0)

    def plan(self, planned: int, bound_s: float) -> Assignment:
        """What has been decided."""
        return Assignment(
            tuple(self._chosen), tuple(self._go), self._parts, planned, bound_s
        )

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
        n, state, hopeful = len(self._requests), self._state, self._requests.hopeful
        for i in range(start, n):
            costs, open_ = self.costs[i], is_open(state)
            if not open_.any():
                self._chosen[i:] = self.costs[i:].argmin(axis=1).tolist()
                return i
            allowed = np.isfinite(costs)[None]
            able = may_go(open_, state.free > 0, allowed, hopeful[i : i + 1])[0]
            wish, hopes = int(costs.argmin()), bool(hopeful[i])
            j, self._go[i] = _choose(costs, able, wish, hopeful=hopes)
            self._chosen[i] = j
            state.place(self._requests, i, j)
            if i + 1 < n:
                self._fill(i + 1, j)
        return n

    def _fill(self, start: int, j: slice | int = slice(None)) -> None:
        """The costs of all from `start` on, on worker(s) j."""
        rows = slice(start, None)
        found = terms(self._requests, self._state, self._best, rows, j)
        for k, term in enumerate(found):
            self._parts[k, rows, j] = term
        self.costs[rows, j] = self._parts[:, rows, j].sum(axis=0)
        if self._requests.forbidden is not None:
            self.costs[rows, j][self._requests.forbidden[rows, j]] = np.inf


def is_open(load: Load) -> BoolArray:
    """(m,) who may be sent something."""
    most = np.maximum(QUEUED_S, QUEUED_ALPHAS * load.cost.alpha_p_s)
    return (load.room > 0) & (load.queued_s <= most) & (load.kv_now > 0)


def may_go(
    open_: BoolArray, free: BoolArray, allowed: BoolArray, hopeful: BoolArray
) -> BoolArray:
    """(n, m) where requests may go at once; `hopeful` ones (n,) only to free slots, if there are.

    `open_` and `free` say the same of all of them, (m,), or of each as it finds the workers.
    """
    able = allowed & open_
    now = able & free
    return np.where((hopeful & now.any(axis=1))[:, None], now, able)


def _choose(costs: FloatArray, able: BoolArray, wish: int, *, hopeful: bool) -> tuple[int, bool]:
    """(worker, whether it goes there now) for a request that is wished somewhere."""
    if able[wish]:
        return wish, True
    if able.any():
        k = int(np.where(able, costs, np.inf).argmin())
        if hopeful or costs[k] <= (1.0 + DOUBT) * costs[wish]:
            return k, True
    return wish, False
