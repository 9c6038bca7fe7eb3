"""Who goes where, one after the other: the plan that is there at once.

Rules:
- in the order given, each request is planned on the worker where it costs least (`objective`),
  with all that was placed before it there;
- a request whose first token is awaited does not wait for somebody's end while another worker has
  a free slot and keeps its targets, or begins it soon while waiting would miss them all the same:
  when answers end is known least of all, and a target that nobody keeps is worth no wait;
- a request waits for a worker that has no room only if the cheapest that has room costs clearly
  more, as costs are predictions: by `DOUBT`, and more, if it is awaited, the less is known of its
  length; while it waits it counts as planned there, so that those behind it see the queue;
- a worker is closed once its slots and its lead are taken, its memory is full, or more than
  `QUEUED_S` of prefill are queued there: what would only queue there is better bound later.

Work is O(n m) and does not depend on what waits behind the n, or runs. Whoever knows a better plan
(`solver.routing.joint`) wishes requests elsewhere than where each is cheapest now; the other rules
are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from math import fsum, inf

import numpy as np

from solver.arrays import BoolArray, FloatArray, IntArray
from solver.routing.asked import Asked
from solver.routing.columns import Load, Requests
from solver.routing.few import NOTHING, FewPairs
from solver.routing.formulas import ARRAYS, Figures, clearly_more, patience
from solver.routing.objective import ALL, Pairs
from solver.routing.turns import Turns


@dataclass(slots=True, eq=False)
class Assignment:
    """A plan for n requests on m workers.

    Attributes:
        workers: (n,) where each is planned.
        go: (n,) whether it is sent there now; the others wait and are planned again.
        cost_s: (n,) request-seconds of each there, when it was its turn.
        planned: the first so many are what the plan is about. Who comes after them finds every
            worker closed and is planned again; where it would go counts for nothing.
        bound_s: request-seconds that no plan of those, in this order, can beat.
    """

    workers: tuple[int, ...]
    go: tuple[bool, ...]
    cost_s: FloatArray
    planned: int
    bound_s: float

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
        costs: (n, m) infinite where it must not go.
        open: (n, m) who may be sent it.
    """

    workers: IntArray
    go: BoolArray
    before: FloatArray
    costs: FloatArray
    open: BoolArray

    @classmethod
    def nobody(cls, n: int, m: int) -> Settled:
        """Nothing seen yet."""
        workers, go = np.zeros(n, dtype=np.intp), np.zeros(n, dtype=np.bool_)
        before, costs = np.zeros((3, n, m)), np.zeros((n, m))
        return cls(workers, go, before, costs, np.zeros((n, m), dtype=np.bool_))

    @property
    def total_s(self) -> float:
        """Request-seconds of all."""
        return float(self.costs[np.arange(len(self.workers)), self.workers].sum())

    def copy(self) -> Settled:
        """One that may be changed."""
        return Settled(*(getattr(self, field.name).copy() for field in fields(self)))


def plan_in_turn(asked: Asked) -> Assignment:
    """The plan; see the module. Each request must be allowed somewhere."""
    if asked.few:
        return _assign_few(FewPairs(asked))
    return assign(asked.requests, asked.load)


def assign(requests: Requests, load: Load) -> Assignment:
    """The same plan, by arrays."""
    planning = _Planning(Pairs(requests, load))
    least = planning.costs.min(axis=1)
    planned = planning.go_on(0)
    return planning.plan(planned, fsum(least[:planned].tolist()))


def _assign_few(pairs: FewPairs) -> Assignment:
    """In plain numbers what `_Planning` does in arrays."""
    n, m = pairs.n, pairs.m
    placed: list[Figures] = [NOTHING] * m
    at_first = [pairs.costs(i, placed) for i in range(n)]
    able = [pairs.is_open(j, NOTHING) for j in range(m)]
    chosen, go, cost_s, planned = [0] * n, [False] * n, [0.0] * n, n
    for i in range(n):
        costs = pairs.costs(i, placed) if i else at_first[0]
        j = costs.index(min(costs))
        if not any(able):
            planned = min(planned, i)
        else:
            found = costs, able, placed.__getitem__
            j, go[i] = _choose(pairs, i, j, found, pairs.patience[i])
        chosen[i], cost_s[i] = j, costs[j]
        if i < planned and i + 1 < n:
            sequences, prefill_s, prompt = placed[j]
            more = pairs.sizes(i, j)
            placed[j] = sequences + more[0], prefill_s + more[1], prompt + more[2]
            able[j] = pairs.is_open(j, placed[j])
    bound_s = fsum(min(costs) for costs in at_first[:planned])
    return Assignment(tuple(chosen), tuple(go), np.array(cost_s), planned, bound_s)


def follow(requests: Requests, load: Load, settled: Settled, bound_s: float) -> Assignment:
    """As `assign`, but the first k are `settled`; others go after them if there is room.

    The plan is about these k, and so is `bound_s`.
    """
    planning = _Planning(Pairs(requests, load))
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
    patiences = _patiences(turns.requests)
    while True:
        _see(turns, plan, changed)
        for i in range(start, turns.n):
            wish = int(wishes[i])
            found = plan.costs[i], plan.open[i], plan.before[:, i].T.__getitem__
            to, plan.go[i] = _choose(turns, i, wish, found, patiences[i])
            if to != wish:  # those after it find something else
                plan.workers[i], changed, start = to, np.array((wish, to)), i + 1
                break
        else:
            return plan


def _see(turns: Turns, plan: Settled, changed: IntArray) -> None:
    """What all find on the workers that have `changed` (k,)."""
    plan.before = turns.before(plan.workers)
    i, j = (index.ravel() for index in np.meshgrid(np.arange(turns.n), changed, indexing="ij"))
    placed = plan.before[:, i, j]
    plan.costs[i, j] = turns.costs(i, j, placed)
    plan.open[i, j] = turns.is_open(j, placed) & np.isfinite(plan.costs[i, j])


class _Planning:
    """A plan in the making: `costs` (n, m) are those on what the next request finds."""

    def __init__(self, pairs: Pairs) -> None:
        self._pairs, self._placed = pairs, np.zeros((3, pairs.m))
        self._chosen, self._go = [-1] * pairs.n, [False] * pairs.n
        self.costs = pairs.costs(ALL, ALL, self._placed)
        self._able = pairs.is_open(ALL, self._placed)
        self._patience = _patiences(pairs.requests)

    def plan(self, planned: int, bound_s: float) -> Assignment:
        """What has been decided."""
        cost_s = self.costs[np.arange(self._pairs.n), self._chosen]
        return Assignment(tuple(self._chosen), tuple(self._go), cost_s, planned, bound_s)

    def take(self, settled: Settled) -> None:
        """The first k have been planned already."""
        k = len(settled.workers)
        self._chosen[:k], self._go[:k] = settled.workers.tolist(), settled.go.tolist()
        for i, j in enumerate(self._chosen[:k]):
            self._placed[:, j] += self._pairs.sizes(i, j)
        for j in set(self._chosen[:k]):
            self._see(k, j)
        self.costs[:k] = settled.costs

    def go_on(self, start: int) -> int:
        """Plan the others; where it ended, as nobody is open any more."""
        pairs, able = self._pairs, self._able
        for i in range(start, pairs.n):
            if not able.any():
                self._chosen[i:] = self.costs[i:].argmin(axis=1).tolist()
                return i
            costs = self.costs[i]
            found = costs, able, self._placed.T.__getitem__
            j, self._go[i] = _choose(pairs, i, int(costs.argmin()), found, self._patience[i])
            self._chosen[i] = j
            self._placed[:, j] += pairs.sizes(i, j)
            if i + 1 < pairs.n:
                self._see(i + 1, j)
        return pairs.n

    def _see(self, start: int, j: int) -> None:
        """What all from `start` on find on worker j."""
        rows, placed = slice(start, None), self._placed[:, j]
        self.costs[rows, j] = self._pairs.costs(rows, j, placed)
        self._able[j] = self._pairs.is_open(j, placed)


def _patiences(requests: Requests) -> list[tuple[bool, float]]:
    """(n,) whether somebody waits for its first token, and `formulas.patience`."""
    awaited = np.isfinite(requests.ttft_s)
    doubts = patience(requests.ttft_s, requests.overrun, requests.output, ARRAYS)
    return list(zip(awaited[:, 0].tolist(), doubts[:, 0].tolist(), strict=True))


def _choose(
    pairs: Pairs | FewPairs,
    i: int,
    wish: int,
    found: tuple[Figures, Figures, Callable[[int], Figures]],
    waits: tuple[bool, float],
) -> tuple[int, bool]:
    """(worker, whether it goes there now) for request i, which would like to go to `wish`.

    `found` is what it finds: (m,) costs, (m,) who is open, and what is placed on each; `waits`
    as in `_patiences`.
    """
    (costs, able, placed), (awaited, most) = found, waits
    would_wait = awaited and pairs.waits(wish, placed(wish))
    if able[wish] and not would_wait:
        return wish, True
    may = [k for k, is_able in enumerate(able) if is_able and costs[k] < inf]
    if would_wait:
        free = [k for k in may if not pairs.waits(k, placed(k))]
        k = min(free, key=costs.__getitem__, default=wish)
        if k != wish and need_not_wait(pairs, i, (k, placed(k)), (wish, placed(wish))):
            return k, True
        if able[wish]:
            return wish, True
    k = min(may, key=costs.__getitem__, default=wish)
    return (wish, False) if k == wish or clearly_more(costs[k], costs[wish], most) else (k, True)


def need_not_wait(
    pairs: Pairs | FewPairs, i: int, free: tuple[int, Figures], wish: tuple[int, Figures]
) -> bool:
    """Whether request i goes to a worker with a free slot rather than wait for its wish.

    It does where it keeps its targets, and where it begins soon and would miss them at its wish.
    """
    return pairs.in_time(i, *free) or (pairs.is_soon(i, *free) and not pairs.in_time(i, *wish))
