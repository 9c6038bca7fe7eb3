"""Local search: one request moves to another worker, or two change places, while that saves most.

A move from worker a to worker b changes what those after it find on a and on b, and nothing else.
So all n m moves are valued by one call of the objective, and those that touch no worker twice add
up: they are made together. Exchanges are tried where no move is left, those first that would be
best if each half came alone.

Who is moved by the rules besides, as a worker is closed, is known once the plan is settled
(`solver.routing.assign`), and only then it is better or not.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from solver.arrays import FloatArray, IntArray
from solver.packing.problem import TOLERANCE, SecondsLeft
from solver.routing.assign import Settled, settle
from solver.routing.turns import Turns

# Exchanges that are valued at once, and plans settled before a search gives up: further down hardly
# any is good.
EXCHANGES, ATTEMPTS = 64, 4


def descend(turns: Turns, plan: Settled, left_s: SecondsLeft) -> Iterator[Settled]:
    """Ever better plans from this one on, until no move saves anything or time is over."""
    while (better := _better(turns, plan, left_s)) is not None:
        plan = better
        yield plan


def _better(turns: Turns, plan: Settled, left_s: SecondsLeft) -> Settled | None:
    most = plan.total_s * (1.0 - TOLERANCE)
    for wishes in _neighbours(turns, plan):
        if left_s() <= 0:
            return None
        found = settle(turns, wishes, plan)
        if found.total_s < most:
            return found
    return None


def _neighbours(turns: Turns, plan: Settled) -> Iterator[IntArray]:
    """Plans (n,) that should be better, the best first."""
    change = changes(turns, plan)
    least = TOLERANCE * plan.total_s
    order = np.argsort(change, axis=None)[: turns.n * ATTEMPTS]
    saving = [divmod(int(k), turns.m) for k in order if change.flat[k] < -least]
    apart = _apart(saving, plan.workers)
    if len(apart) > 1:
        yield _moved(plan.workers, apart)
    for move in saving[:ATTEMPTS]:
        yield _moved(plan.workers, [move])
    yield from _exchanged(turns, change, plan)


def changes(turns: Turns, plan: Settled) -> FloatArray:
    """(n, m) by how much the total changes if one request moves; infinite where it may not.

    That is what it costs there more than here, what those after it there lose, and those here win.
    """
    n, m, workers = turns.n, turns.m, plan.workers
    rows = np.arange(n)
    now = plan.costs[rows, workers]
    one, later = np.triu_indices(n, 1)
    at = workers[later]
    leaves = np.where(workers[one] == at, -1.0, 1.0)  # it would no longer be there, or be there too
    placed = plan.before[:, later, at] + leaves * turns.added[:, one, at]
    costs = turns.costs(later, at, placed)
    others = np.bincount(one * m + at, costs - now[later], n * m).reshape(n, m)
    change = plan.costs + others - (now - others[rows, workers])[:, None]
    change[rows, workers] = 0.0
    return change


def _apart(moves: list[tuple[int, int]], workers: IntArray) -> list[tuple[int, int]]:
    """The best moves that touch no worker twice."""
    touched, apart = set[int](), []
    for i, to in moves:
        here = int(workers[i])
        if here not in touched and to not in touched:
            touched |= {here, to}
            apart.append((i, to))
    return apart


def _moved(workers: IntArray, moves: list[tuple[int, int]]) -> IntArray:
    wishes = workers.copy()
    for i, to in moves:
        wishes[i] = to
    return wishes


def _exchanged(turns: Turns, change: FloatArray, plan: Settled) -> Iterator[IntArray]:
    """Plans in which two requests have changed places, the best first."""
    one, two = np.triu_indices(turns.n, 1)
    here: IntArray = plan.workers[one]
    there: IntArray = plan.workers[two]
    both = np.where(here == there, np.inf, change[one, there] + change[two, here])
    order = np.argsort(both)[:EXCHANGES]
    order = order[np.isfinite(both[order])]
    if not len(order):
        return
    plans, which = np.tile(plan.workers, (len(order), 1)), np.arange(len(order))
    plans[which, one[order]], plans[which, two[order]] = there[order], here[order]
    totals = turns.totals(plans)
    for k in np.argsort(totals)[:ATTEMPTS]:
        if totals[k] < plan.total_s * (1.0 - TOLERANCE):
            yield plans[k]
