"""The joint plan of a window: better than one after the other, where there is time to look for it.

Rules:
- it begins with the plan that is there (`solver.routing.assign`), is about the same requests in the
  same order, counts the same request-seconds, and only improves on it;
- who goes is decided by the same rules, so nobody is held back whom the first plan would let go;
- a better start comes from an assignment problem with convex load, and so does a bound that no plan
  can beat (`solver.routing.places`); local search goes on from the better start
  (`solver.routing.moves`), and prices of places raise the bound;
- `improvements` may run elsewhere, be listened to while it runs, and be abandoned; whoever uses a
  plan of it checks it (`check`).

Must not know: clocks, processes, who waits for the plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from solver.arrays import FloatArray
from solver.cost.model import CostModel
from solver.packing.problem import TOLERANCE, SecondsLeft
from solver.routing.assign import Assignment, Settled, assign, follow, settle
from solver.routing.columns import WEIGHT, Load, Requests
from solver.routing.formulas import FIRST_TOKEN, Figures
from solver.routing.moves import descend
from solver.routing.places import PROVEN, Places
from solver.routing.problem import Job, WorkerView
from solver.routing.turns import first

# A plan is told when it is so much better than the one told before: telling takes milliseconds.
WORTH_TELLING = 1e-3
# Of what the first plan is above its bound, the joint plan saves so much: see `bench_joint`.
SAVED_SHARE = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """Requests in order, and what the workers have."""

    requests: Requests
    load: Load


def warm_up() -> None:
    """Load what the first question should not have to wait for."""
    cost = CostModel(0.02, 0.0001, 0.03, 0.001)
    views = [WorkerView(cost.scaled(k), 4, k, 1.0, 0.0, None, room=4) for k in (1, 2)]
    requests = Requests.of([Job(100, 100.0), Job(200, 50.0)], [0.0, 0.0], len(views))
    load = Load.of(views, np.zeros((2, 2)), 1.0)
    for _ in improvements(Question(requests, load), None):
        pass


def worth_improving(rows: Sequence[Figures], plan: Assignment, deadline_s: float) -> bool:
    """Whether a joint plan should save more than is lost while those that would go wait for it.

    `rows` are those of `solver.routing.asked.Asked`.
    """
    waiting = sum([row[WEIGHT] for row, goes in zip(rows, plan.go, strict=True) if goes])
    return bool(SAVED_SHARE * plan.gap_s > (1.0 + FIRST_TOKEN) * waiting * deadline_s)


def improvements(
    question: Question, incumbent: Assignment | None, left_s: SecondsLeft | None = None
) -> Iterator[Assignment]:
    """Better plans and better bounds, as they are found, each better than the one before.

    Without a plan it begins with that of `assign`. `left_s` tells the seconds left until the
    deadline; without it, it goes on until nothing helps.
    """
    incumbent = incumbent or assign(question.requests, question.load)
    if incumbent.planned < 2:
        return
    search = _Search(question, incumbent, left_s or (lambda: inf))
    yield from search.run()


def supersedes(plan: Assignment, other: Assignment) -> bool:
    """Whether it costs less, or the same and says so with a better bound."""
    margin = TOLERANCE * max(plan.total_s, other.total_s)
    if abs(plan.total_s - other.total_s) > margin:
        return plan.total_s < other.total_s
    return plan.bound_s > other.bound_s


class _Search:
    """The steps, in order; `run` is the whole of it."""

    def __init__(self, question: Question, incumbent: Assignment, left_s: SecondsLeft) -> None:
        self._question, self._left_s = question, left_s
        self._turns = first(question.requests, question.load, incumbent.planned)
        self._best = settle(self._turns, np.array(incumbent.workers[: incumbent.planned]))
        self._bound_s, self._told_s = incumbent.bound_s, incumbent.total_s

    def run(self) -> Iterator[Assignment]:
        """All steps, as long as there is time and anything to win."""
        from solver.packing.milp.convex_load import solve_convex_load

        busiest = int(np.bincount(self._best.workers).max())
        places, starts = Places(self._turns, busiest), [self._best]
        mean = solve_convex_load(places.place_s, places.mean_more_s(), self._left_s)
        if mean is not None:
            starts.append(settle(self._turns, mean.workers))
            starts.sort(key=lambda plan: plan.total_s)
            yield from self._found(starts[0])
        least = solve_convex_load(places.place_s, places.least_more_s(), self._left_s)
        if least is not None:
            yield from self._proved(places.bound_s(least.price)[0])
        for start in starts:
            for plan in descend(self._turns, start, self._left_s):
                yield from self._found(plan)
            yield from self._found(self._best, 0.0)
        if least is not None and not self._done:
            price: FloatArray = least.price
            yield from self._proved(places.prove(price, self._best.total_s, self._left_s))

    @property
    def _done(self) -> bool:
        return self._best.total_s - self._bound_s <= PROVEN * self._best.total_s

    def _found(self, plan: Settled, worth: float = WORTH_TELLING) -> Iterator[Assignment]:
        """Tell of a plan if it is enough better than what was told."""
        if plan.total_s < self._best.total_s:
            self._best = plan
        total_s = self._best.total_s
        if total_s < self._told_s * (1.0 - max(worth, TOLERANCE)):
            yield self._tell()

    def _proved(self, bound_s: float) -> Iterator[Assignment]:
        """Tell of a better bound."""
        bound_s = min(bound_s, self._best.total_s)  # summed in different orders
        if bound_s > self._bound_s:
            self._bound_s = bound_s
            yield self._tell()

    def _tell(self) -> Assignment:
        self._told_s = self._best.total_s
        return follow(self._question.requests, self._question.load, self._best, self._bound_s)
