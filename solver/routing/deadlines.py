"""Which batches go before all others so that deadlines are kept, and which deadlines cannot be.

Rules:
- as long as every deadline is kept if tenants take turns, they take turns, and nobody goes first;
- else who would be late goes first, one more at a time, those among them by their deadlines: no
  other order keeps what that one does not (Jackson 1955);
- if that does not keep all, as many are kept as can be: going through them by their deadlines,
  whenever one would be late, the one with most work so far is given up (Moore, Management Science
  15(1), 1968: on one machine no rule keeps more). What is given up goes after all that is kept: its
  lines are done until its time is over, and it is told beforehand that this is too late.

All as if work were liquid and the fleet one machine: what a plan makes of it is looked at after.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import heappop, heappush
from math import inf
from typing import NamedTuple

import numpy as np

from solver.arrays import FloatArray


class Demand(NamedTuple):
    """A batch: seconds that the whole fleet takes for what is left, and when that should be."""

    batch: str
    tenant: str
    work_s: float
    due_s: float = inf  # from now, less what its last lines take beyond that


class Precedence(NamedTuple):
    """Batches that go before all others, in this order, and those that go after."""

    first: tuple[str, ...] = ()
    given_up: frozenset[str] = frozenset()


def by_deadline(demands: Iterable[Demand]) -> Precedence:
    """All that have one, none given up."""
    due = sorted((one for one in demands if one.due_s < inf), key=lambda one: one.due_s)
    return Precedence(tuple(one.batch for one in due))


def precedence(
    demands: Sequence[Demand], weights: Mapping[str, float], busy_s: float = 0.0
) -> Precedence:
    """See the module; `weights` are the tenants', and the fleet has something else for `busy_s`."""
    given_up = _given_up(demands, busy_s)
    kept = [one for one in demands if one.batch not in given_up]
    due = sorted((one for one in kept if one.due_s < inf), key=lambda one: one.due_s)
    first: list[Demand] = []
    while True:
        ends = _ends(first, [one for one in kept if one not in first], weights, busy_s)
        late = next((one for one in due if ends[one.batch] > one.due_s and one not in first), None)
        if late is None:
            return Precedence(tuple(one.batch for one in first), given_up)
        first = sorted((*first, late), key=lambda one: one.due_s)


def _given_up(demands: Iterable[Demand], busy_s: float) -> frozenset[str]:
    kept: list[tuple[float, str]] = []  # a heap, most work first
    given_up, end_s = set[str](), busy_s
    for one in sorted(demands, key=lambda one: one.due_s):
        end_s += one.work_s
        heappush(kept, (-one.work_s, one.batch))
        if end_s > one.due_s:
            work_s, batch = heappop(kept)
            end_s += work_s
            given_up.add(batch)
    return frozenset(given_up)


def _ends(
    first: Sequence[Demand], rest: Sequence[Demand], weights: Mapping[str, float], busy_s: float
) -> dict[str, float]:
    """When each is done, if these go first in this order, and tenants of the rest take turns."""
    ends, at_s = {}, busy_s
    for one in first:
        at_s += one.work_s
        ends[one.batch] = at_s
    rest = sorted(rest, key=lambda one: one.due_s)
    work_s = np.array([one.work_s for one in rest])
    taken = in_turn(work_s, [one.tenant for one in rest], weights)
    return ends | {one.batch: at_s + end_s for one, end_s in zip(rest, taken.tolist(), strict=True)}


def in_turn(work_s: FloatArray, tenants: Sequence[str], weights: Mapping[str, float]) -> FloatArray:
    """(n,) seconds until each is done, of tenants who take turns by weight, each's own in order.

    A tenant has had as much for its weight as any that still wants something.
    """
    had_by = dict.fromkeys(tenants, 0.0)
    level = np.empty(len(work_s))
    for k, tenant in enumerate(tenants):
        had_by[tenant] += float(work_s[k])
        level[k] = had_by[tenant] / weights.get(tenant, 1.0)
    whole = np.array(list(had_by.values()))
    weight = np.array([weights.get(tenant, 1.0) for tenant in had_by])
    return np.asarray(np.minimum(whole, level[:, None] * weight).sum(axis=1))
