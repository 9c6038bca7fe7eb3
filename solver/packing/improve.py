"""From a first plan to the best that the time allows: packs, relaxation, local search, MILP.

Which of them pays depends on the problem (measured, see the planner's bench):
- costs that are work times slowness, nothing else binding: other noise in the order of placing,
  against ever tighter targets, finds within milliseconds what no solver finds in seconds;
- anything else: the linear relaxation says where a request belongs, and bounds what can be reached;
  rounded, it leaves little to a local search;
- no more than two workers for a request: all plans near the bound can be enumerated;
- few pairs of a request and a worker: the MILP proves the optimum.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator
from itertools import count
from math import inf

import numpy as np

from solver.arrays import BoolArray, FloatArray, IntArray
from solver.packing.bounds import packing_bound
from solver.packing.enumeration import best_near_bound
from solver.packing.heuristic import NOISE, longest_first, pack_related
from solver.packing.infeasible import jointly_infeasible
from solver.packing.plan import GOOD_ENOUGH, PROVEN, Method, Plan, evaluate
from solver.packing.prices import find_prices
from solver.packing.problem import TOLERANCE, Problem, SecondsLeft
from solver.packing.search import Search

# A found assignment, if there is a new one; the best bound so far; what found it.
Improvement = tuple[IntArray | None, float, Method]

# Pairs of a request and a worker up to which a window is solved to the end; up to which the MILP is
# asked; and up to which it is asked where it has `LONG_DEADLINE_S` seconds or more.
PROVABLE_PAIRS, MILP_PAIRS, LONG_DEADLINE_PAIRS = 200, 1500, 40_000
LONG_DEADLINE_S = 1.0
# Local search finds what it finds within so many seconds; then a MILP that can be solved is better.
FEW_SEARCH_S, SEARCH_S = 0.02, 2.0
# A linear program of so many pairs takes a few hundred milliseconds.
RELAXED_PAIRS = 40_000
# Without a deadline, local search ends after so many looks at the time; what it has found is passed
# on after so many.
LOOKS, FEW_LOOKS = 1000, 200
# What a solver takes for equal may be off by this much, relative.
SOLVER_TOLERANCE = 1e-6


class Improver:
    """Improves on a plan, or finds a first one."""

    def __init__(
        self, problem: Problem, incumbent: Plan | None, left_s: SecondsLeft | None
    ) -> None:
        self._problem, self._left_s = problem, left_s
        self._rng = random.Random(0)
        self._best: IntArray | None = None
        self._best_s, self._bound_s = inf, 0.0
        if incumbent is None:
            self._bound_s = packing_bound(problem)
        else:
            self._best = np.array(incumbent.assignment, dtype=np.intp)
            self._best_s, self._bound_s = incumbent.finish_s, incumbent.finish_bound_s
        self._loss_s: FloatArray | None = None
        self._relaxed_s = 0.0

    def run(self) -> Iterator[Improvement]:
        """Until the plan is good enough, or the time is over.

        Raises:
            InfeasibleProblem: if it is proven that there is no plan.
        """
        problem = self._problem
        noise = np.zeros(problem.requests)
        if pack_related(problem, self._bound_s, self._goal_s, noise) is not None:
            yield from self._packs(self._before_milp())
            start = self._best
        elif problem.requests * problem.workers <= RELAXED_PAIRS:
            start = yield from self._relaxed()
        else:
            start = yield from self._priced()
        yield from self._search(start)
        yield from self._milp()

    def _left(self) -> float:
        return inf if self._left_s is None else self._left_s()

    def _until(self, share: float, most_s: float = inf) -> SecondsLeft:
        """Tells what is left of a share of the time that is left now, at most `most_s`."""
        if self._left_s is None:
            looks = count()
            return lambda: float(LOOKS - next(looks))
        left_s, all_s = self._left_s, self._left_s()
        kept_s = all_s - min(share * all_s, most_s)
        return lambda: left_s() - kept_s

    def _before_milp(self) -> SecondsLeft:
        """The time that local search has where the MILP is to follow."""
        few = self._pairs() <= PROVABLE_PAIRS
        return self._until(0.2 if few else 0.5, FEW_SEARCH_S if few else SEARCH_S)

    @property
    def _goal_s(self) -> float:
        return self._bound_s * (1 + GOOD_ENOUGH)

    def _done(self) -> bool:
        return self._best_s <= self._goal_s

    def _pairs(self) -> int:
        """Pairs of a request and a worker that may occur in a better plan."""
        problem = self._problem
        every = problem.requests * problem.workers
        if problem.related_form is not None and every > LONG_DEADLINE_PAIRS:
            return every
        return int(np.count_nonzero(self._allowed()))

    def _allowed(self) -> BoolArray:
        """(n, m) the pairs: neither alone nor by the relaxation do they finish after the best."""
        limit = self._best_s * (1 + TOLERANCE)
        allowed: BoolArray = self._problem.alone_s <= limit
        if self._loss_s is not None:
            allowed &= self._relaxed_s + self._loss_s <= limit
        return allowed

    def _packs(self, left_s: SecondsLeft) -> Iterator[Improvement]:
        """Pack again and again, placing in other orders, to targets between bound and best."""
        problem, rng = self._problem, self._rng
        goal = self._goal_s * (1 - SOLVER_TOLERANCE)
        target = goal
        while not self._done() and left_s() > 0:
            noise = np.array([rng.random() for _ in range(problem.requests)])
            found = pack_related(problem, self._bound_s, target, noise * rng.random() * 2 * NOISE)
            if found is not None:  # else memory binds
                yield from self._offer(found, Method.SEARCH)
            span = min(self._best_s, 2 * self._bound_s) - self._bound_s
            target = max(goal, self._bound_s + rng.random() * span)

    def _offer(self, found: IntArray, method: Method) -> Iterator[Improvement]:
        """Pass it on if it is the best so far."""
        finish = evaluate(self._problem, found, 0.0, method).finish_s
        if finish < self._best_s * (1 - TOLERANCE):
            self._best, self._best_s = found, finish
            yield found, self._bound_s, method

    def _relaxed(self) -> Generator[Improvement, None, IntArray | None]:
        """Solve the relaxation; what it comes to when rounded."""
        from solver.packing.milp import model  # late: Pyomo and HiGHS load only where needed

        problem = self._problem
        limit = min(self._best_s, model.latest_finish_s(problem))
        relaxation = model.relax(problem, limit, self._bound_s, self._left_s)
        if relaxation is None:
            return self._best
        self._loss_s, self._relaxed_s = relaxation.loss_s, relaxation.finish_bound_s
        self._bound_s = max(self._bound_s, relaxation.finish_bound_s * (1 - SOLVER_TOLERANCE))
        if not problem.memory_limited and problem.spans_s is None:
            yield from self._enumerated(relaxation.price)
        yield None, self._bound_s, Method.RELAXATION
        return _rounded(problem, relaxation.share)

    def _enumerated(self, price: FloatArray) -> Iterator[Improvement]:
        """Look at all plans near the bound, if there are few."""
        bound, left_s = self._bound_s, self._until(0.8)
        found, reached = best_near_bound(self._problem, price, bound, self._best_s, left_s)
        self._bound_s = max(bound, reached * (1 - SOLVER_TOLERANCE))
        if found is not None:
            yield from self._offer(found, Method.ENUMERATION)

    def _priced(self) -> Generator[Improvement, None, IntArray | None]:
        """A quick bound, and everyone where they are cheapest but for what exchanges mend."""
        found = find_prices(self._problem, self._bound_s, self._until(0.3))
        self._loss_s, self._relaxed_s = found.loss_s, found.finish_bound_s
        self._bound_s = max(self._bound_s, found.finish_bound_s * (1 - SOLVER_TOLERANCE))
        search = Search(self._problem, found.cheapest, self._rng, self._loss_s)
        search.descend(self._goal_s, self._problem.requests, self._until(0.2))
        if search.allowed:
            yield from self._offer(search.assignment.copy(), Method.RELAXATION)
        yield None, self._bound_s, Method.RELAXATION
        return search.assignment

    def _search(self, start: IntArray | None) -> Iterator[Improvement]:
        """Local search; what it finds is passed on now and then.

        It stops before the end once so few pairs are left that the MILP may do better.
        """
        if start is None:
            free = Problem.of(self._problem.cost_s, self._problem.initial_s)
            start = longest_first(free, self._left_s)
        if start is None or self._done():
            return
        method = Method.SEARCH if self._loss_s is None else Method.RELAXATION
        search = Search(self._problem, start, self._rng, self._loss_s)
        all_s, some_s = self._until(1.0), self._before_milp()
        search.descend(self._goal_s, self._problem.requests, all_s)
        while True:
            if search.allowed:
                yield from self._offer(search.assignment.copy(), method)
            if self._done() or all_s() <= 0 or (some_s() <= 0 and self._solvable()):
                return
            search.walk(self._goal_s, _looks(all_s))

    def _solvable(self) -> bool:
        """Whether the MILP is small enough for the time that is left."""
        most = LONG_DEADLINE_PAIRS if self._left() > LONG_DEADLINE_S else MILP_PAIRS
        return self._pairs() <= most

    def _milp(self) -> Iterator[Improvement]:
        """Ask HiGHS, which starts from the best so far."""
        from solver.packing.milp import model

        if self._best_s <= self._bound_s * (1 + PROVEN) or self._left() <= 0:
            return
        if not self._solvable() or (self._done() and self._pairs() > PROVABLE_PAIRS):
            return
        problem, best = self._problem, None
        if self._best is not None:
            best = evaluate(problem, self._best, self._bound_s, Method.SEARCH)
        allowed = self._allowed() & model.admissible_pairs(problem, model.latest_finish_s(problem))
        outcome = model.solve(
            problem, best, bound_s=self._bound_s, left_s=self._left_s, allowed=allowed
        )
        if outcome.infeasible and best is None:
            raise jointly_infeasible(problem)
        if outcome.finish_bound_s is not None:
            bound = outcome.finish_bound_s * (1 - SOLVER_TOLERANCE)
            self._bound_s = max(self._bound_s, min(bound, self._best_s))
        if outcome.assignment is not None:
            yield from self._offer(outcome.assignment, Method.MILP)
        yield None, self._bound_s, Method.MILP


def _looks(left_s: SecondsLeft) -> SecondsLeft:
    """As `left_s`, but over after so many looks, so that what was found is passed on."""
    looks = count(1)
    return lambda: left_s() if next(looks) <= FEW_LOOKS else 0.0


def _rounded(problem: Problem, share: FloatArray) -> IntArray:
    """Everyone where most of it goes; those that are split, where they end earliest of these."""
    chosen: IntArray = share.argmax(axis=1)
    split = np.flatnonzero(share.max(axis=1) < 0.999)
    load = problem.initial_s.copy()
    whole = np.setdiff1d(np.arange(problem.requests), split)
    np.add.at(load, chosen[whole], problem.cost_s[whole, chosen[whole]])
    size = problem.cost_s[split, chosen[split]]
    for i in split[np.argsort(-size, kind="stable")].tolist():
        ends = np.where(share[i] > 1e-6, load + problem.cost_s[i], np.inf)
        chosen[i] = ends.argmin()
        load[chosen[i]] += problem.cost_s[i, chosen[i]]
    return chosen
