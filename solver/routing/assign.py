"""Who goes where, one after the other: the plan that is there at once.

Rules:
- in the order given, each request is planned on the worker where it costs least (`objective`),
  with all that was placed before it there;
- a request whose first token is awaited does not wait for somebody's end while another worker has
  a free slot and keeps its targets, or begins it soon while waiting would miss them all the same:
  when answers end is known least of all, and a target that nobody keeps is worth no wait;
- nor does it wait for memory while another worker keeps its targets for no more than `WORTH` times
  the cost: how long that takes hangs on how far others' answers grow meanwhile;
- a request waits for a worker that has no room only if the cheapest that has room costs clearly
  more, as costs are predictions: by `DOUBT`, and more, if it is awaited, the less is known of its
  length; while it waits it counts as planned there, so that those behind it see the queue;
- a worker is closed once its slots and its lead are taken, its memory is full, or more than
  `QUEUED_S` of prefill are queued there: what would only queue there is better bound later.

Work is O(n m) and does not depend on what waits behind the n, or runs; most pairs are valued once
(`solver.routing.found`). Whoever knows a better plan (`solver.routing.joint`) wishes requests
elsewhere than where each is cheapest now; the other rules are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import fsum, inf

import numpy as np

from solver.arrays import BoolArray, FloatArray, IntArray
from solver.routing.asked import MOST_IN_TURN, MOST_WORKERS, Asked
from solver.routing.columns import Load, Requests
from solver.routing.few import AllPairs, FewPairs, ManyPairs, OneByOne, Placed, SomePairs
from solver.routing.formulas import NOTHING, clearly_more
from solver.routing.found import Cost, FewInTurn, Found, InTurn, ManyInTurn
from solver.routing.lone import LonePairs
from solver.routing.objective import Pairs
from solver.routing.turns import Turns

# Who waits for what may come at any time, and gives up where going costs as much again, pays at
# most twice what whoever knew when would (ski rental: Karlin and others, Competitive snoopy
# caching, Algorithmica 1988).
WORTH = 2.0
# Of a request: what it costs, on which worker, and whether it goes there now.
Choice = tuple[float, int, bool]


@dataclass(slots=True, eq=False)
class Assignment:
    """A plan for n requests on m workers.

    Attributes:
        workers: (n,) where each is planned.
        go: (n,) whether it is sent there now; the others wait and are planned again.
        costs_s: (n,) request-seconds of each there, when it was its turn.
        planned: the first so many are what the plan is about. Who comes after them finds every
            worker closed and is planned again; where it would go counts for nothing.
        bound_s: request-seconds that no plan of those, in this order, can beat.
    """

    workers: tuple[int, ...]
    go: tuple[bool, ...]
    costs_s: tuple[float, ...]
    planned: int
    bound_s: float

    @property
    def total_s(self) -> float:
        """Request-seconds of those that are planned: what is minimised."""
        return fsum(self.costs_s[: self.planned])

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
    if len(asked.rows) == 1:
        pairs = LonePairs(asked) if len(asked.known) > MOST_WORKERS else FewPairs(asked)
        return _at_once(pairs) or in_turn(FewInTurn(pairs))
    if asked.few:
        return in_turn(FewInTurn(FewPairs(asked)))
    if len(asked.known) <= MOST_IN_TURN:
        return in_turn(FewInTurn(ManyPairs(asked)))
    return assign(asked.requests, asked.load)


def _at_once(pairs: AllPairs) -> Assignment | None:
    """The plan of one request that finds a slot where it costs least; None: there is more to it."""
    (costs,) = pairs.costs_s
    least_s = min(costs)
    j = costs.index(least_s)
    if not pairs.is_open(j, NOTHING) or pairs.would_wait(0, j, NOTHING):
        return None
    return Assignment((j,), (True,), (least_s,), 1, least_s)


def assign(requests: Requests, load: Load) -> Assignment:
    """The same plan, by arrays."""
    return in_turn(ManyInTurn(Pairs(requests, load)))


def in_turn(found: InTurn) -> Assignment:
    """The same plan, by what requests find."""
    choices, planned = _choices(found, [])
    return _plan(choices, planned, fsum(found.first_s[:planned]))


def follow(requests: Requests, load: Load, settled: Settled, bound_s: float) -> Assignment:
    """As `assign`, but the first k are `settled`; others go after them if there is room.

    The plan is about these k, and so is `bound_s`.
    """
    found, workers = ManyInTurn(Pairs(requests, load)), settled.workers.tolist()
    costs_s = settled.costs[np.arange(len(workers)), workers].tolist()
    before = list(zip(costs_s, workers, settled.go.tolist(), strict=True))
    choices, _ = _choices(found, before)
    return _plan(choices, len(workers), bound_s)


def settle(turns: Turns, wishes: IntArray, near: Settled | None = None) -> Settled:
    """The plan that puts each where it is wished (n,), or where the rules send it instead.

    It is quicker if it begins with a plan that is nearly the same.
    """
    plan, changed, start = Settled.nobody(turns.n, turns.m), np.arange(turns.m), 0
    if near is not None:
        plan, different = near.copy(), np.flatnonzero(near.workers != wishes)
        changed = np.unique([near.workers[different], wishes[different]])
    plan.workers[:] = wishes
    pairs = SomePairs(turns)
    while True:
        _see(turns, plan, changed)
        for i in range(start, turns.n):
            wish = int(wishes[i])
            seen, cost_s = _Seen(pairs, plan, i), plan.costs.item(i, wish)
            _, to, plan.go[i] = _choose(seen, i, (cost_s, wish))
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


class _Seen(Found):
    """What request i finds where all who come before it have been planned."""

    def __init__(self, pairs: OneByOne, plan: Settled, i: int) -> None:
        self.pairs, self._costs = pairs, plan.costs[i]
        self.shut = np.where(plan.open[i], 0.0, inf)
        self.placed = list(map(tuple, plan.before[:, i].T.tolist()))

    def full(self) -> FloatArray:
        """(m,) infinite where that is so, or where it finds no free slot, else 0."""
        waits = map(self.pairs.waits, range(self.pairs.m), self.placed)
        return np.where(np.fromiter(waits, dtype=np.bool_), inf, self.shut)

    def least(self, i: int, shut: FloatArray | None = None) -> Cost:  # noqa: ARG002
        """What it costs where that is least, and not `shut`; infinite: there is nobody."""
        costs = self._costs if shut is None else self._costs + shut
        j = int(costs.argmin())
        return costs.item(j), j


def _choices(found: InTurn, before: Sequence[Choice]) -> tuple[list[Choice], int]:
    """Those before, and what is chosen for all after them; and how many until nobody is open."""
    for i, (_, j, _) in enumerate(before):
        found.place(i, j)
    choices, n = list(before), found.pairs.n
    for i in range(len(choices), n):
        if not found.open:
            return [*choices, *((*cost, False) for cost in found.rest(i))], i
        choice = _choose(found, i, found.least(i))
        choices.append(choice)
        found.place(i, choice[1])
    return choices, n


def _plan(choices: Sequence[Choice], planned: int, bound_s: float) -> Assignment:
    costs_s, workers, go = zip(*choices, strict=True)
    return Assignment(workers, go, costs_s, planned, bound_s)


def _choose(found: Found, i: int, wish: Cost) -> Choice:
    """For request i, which would like to go to `wish`."""
    pairs, (wish_s, j) = found.pairs, wish
    would_wait = pairs.would_wait(i, j, found.placed[j])
    if not (found.shut[j] or would_wait):
        return wish_s, j, True
    if would_wait:
        full = found.full()
        cost_s, k = (inf, j) if full is None else found.least(i, full)
        there, wished = (k, found.placed[k]), (j, found.placed[j])
        if cost_s < inf and need_not_wait(pairs, i, there, wished):
            return cost_s, k, True
        if not found.shut[j]:
            return wish_s, j, True
    cost_s, k = found.least(i, found.shut)
    if cost_s == inf or clearly_more(cost_s, wish_s, pairs.patience(i)):
        return wish_s, j, False
    return _choose(found, i, (cost_s, k))  # it is open, but may have no free slot


def need_not_wait(
    pairs: OneByOne, i: int, free: tuple[int, Placed], wish: tuple[int, Placed]
) -> bool:
    """Whether request i goes to a worker with a free slot rather than wait for its wish.

    It does where it keeps its targets, and where it begins soon and would miss them at its wish.
    If it lacks only memory there, it does where it keeps them for no more than `WORTH` its cost.
    """
    felt, for_slot = pairs.seconds(i, *free), pairs.waits(*wish)
    if pairs.in_time(i, felt):
        return for_slot or pairs.cost(i, *free) <= WORTH * pairs.cost(i, *wish)
    return for_slot and pairs.is_soon(i, felt) and not pairs.in_time(i, pairs.seconds(i, *wish))
