"""What the k-th place on a worker costs at least: a bound on all plans, and a start for a good one.

Requests are placed in order, and every term of the objective grows with what was placed before
(`solver.routing.objective`). So whoever comes to worker j as its k-th finds at least the k - 1
smallest sizes there of those before it in the order, and costs at least `least_s`, whatever else is
decided. The cheapest way to give everybody a place, no place to two, is a bound on all plans:

- where a request's k-th place costs as much more than its first as for the request that minds
  least, it is an assignment problem with convex load (`solver.packing.milp.convex_load`);
- prices of places make more of it: each request takes what is cheapest with the prices on top, and
  what is then paid for places that nobody had comes off (the Lagrangian bound). They begin with
  those of the linear program, and rise where several want the same place.

With mean sizes and mean costs in place of the least, the same assignment is a plan to begin with.
"""

from __future__ import annotations

from math import ceil

import numpy as np

from solver.arrays import FloatArray
from solver.packing.problem import SecondsLeft
from solver.routing.turns import Turns

# Places a worker: for twice as many as the busiest one has in the first plan, if that is not more
# than can be valued in some ten milliseconds. Whoever comes after the last place costs at least as
# much as there.
SHARE, CELLS, STEP = 2, 1 << 15, 8
# Steps of the prices, and after how many without a better bound the next ones are half as long.
STEPS, PATIENCE = 150, 5
# Closer to the best plan's total than this, a bound need not come.
PROVEN = 1e-4


class Places:
    """See the module; (n, m, k) costs, infinite where a request can not have that place."""

    def __init__(self, turns: Turns, busiest: int) -> None:
        self._turns = turns
        wanted = STEP * ceil(SHARE * busiest / STEP)  # so that windows share their models
        self.count = min(turns.n, wanted, max(2, CELLS // (turns.n * turns.m)))
        self.least_s = self._costs(self._least_sizes())
        late = np.arange(self.count) > np.arange(turns.n)[:, None]
        self.least_s[np.broadcast_to(late[:, None], self.least_s.shape)] = np.inf
        self.place_s: FloatArray = self.least_s[:, :, 0]

    def least_more_s(self) -> FloatArray:
        """(m, k) what each place costs more than the first, for whoever minds least."""
        with np.errstate(invalid="ignore"):
            more = self.least_s - self.place_s[:, :, None]
        return np.asarray(np.fmin.reduce(more, axis=0, initial=np.inf), dtype=np.float64)

    def mean_more_s(self) -> FloatArray:
        """(m, k) the same for a request like all, after others like all; straight in between."""
        turns, places = self._turns, np.arange(self.count)
        some = np.unique(
            np.minimum(self.count - 1, 2 ** np.arange(self.count.bit_length() + 1) - 1)
        )
        mean = turns.added.mean(axis=1)[:, None, :, None] * some
        costs = self._costs(np.broadcast_to(mean, (3, turns.n, turns.m, len(some))))
        may = np.isfinite(costs)
        costs = np.where(may, costs, 0.0)
        more = (costs - costs[:, :, :1]).sum(axis=0) / np.maximum(1, may.sum(axis=0))
        return np.array([np.interp(places, some, row) for row in more])

    def bound_s(self, price: FloatArray) -> tuple[float, FloatArray]:
        """What all plans cost at least, by prices (m, k) of at most 0; and who wants each place."""
        priced = (self.least_s - price).reshape(self._turns.n, -1)
        to = priced.argmin(axis=1)
        total = float(priced[np.arange(len(to)), to].sum() + price.sum())
        return total, np.bincount(to, minlength=price.size).reshape(price.shape).astype(np.float64)

    def prove(self, price: FloatArray, total_s: float, left_s: SecondsLeft) -> float:
        """The best bound found from these prices on; `total_s` is that of the best plan known."""
        best_s, stride, waited = -np.inf, 1.0, 0
        for _ in range(STEPS):
            bound, wanted = self.bound_s(price)
            if bound > best_s:
                best_s, best, waited = bound, price, 0
            else:
                waited += 1
            gap = total_s - best_s
            if gap <= PROVEN * total_s or left_s() <= 0:
                break
            if waited >= PATIENCE:
                stride, waited, price = stride / 2, 0, best
                bound, wanted = self.bound_s(price)
            over = np.where((price < 0) | (wanted > 1), wanted - 1.0, 0.0)
            over[:, -1] = 0.0  # the last place takes all who come
            square = float((over * over).sum())
            if square == 0.0:
                break
            price = np.minimum(0.0, price - stride * (total_s - bound) / square * over)
        return best_s

    def _costs(self, before: FloatArray) -> FloatArray:
        """(n, m, k) of each request where `before` (3, n, m, k) is placed."""
        n, m, k = before.shape[1:]
        i, j, _ = (index.ravel() for index in np.indices((n, m, k)))
        return self._turns.costs(i, j, before.reshape(3, -1)).reshape(n, m, k)

    def _least_sizes(self) -> FloatArray:
        """(3, n, m, k) sums of the k least sizes among those before each request, 0 for k = 0."""
        sizes, k = self._turns.added, self.count
        sums = np.zeros((*sizes.shape, k))
        least = np.full((3, sizes.shape[2], k), np.inf)
        for i in range(1, self._turns.n):
            least[:, :, -1] = np.minimum(least[:, :, -1], sizes[:, i - 1])
            least.sort(axis=2)
            found = np.where(np.isfinite(least), least, 0.0)
            sums[:, i, :, 1:] = found[:, :, :-1].cumsum(axis=2)
        return sums
