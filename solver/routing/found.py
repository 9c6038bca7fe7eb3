"""What the next request of a plan finds, and where it costs least: worked out where it matters.

Rules:
- what all cost is worked out once, with nothing placed. As every term grows, or stays, with what is
  placed on a worker (`solver.routing.objective`), nobody costs less there later on;
- where something has been placed since, a request's cost is worked out anew only while what is
  known of it leaves that worker in the running for the cheapest, one by one in plain numbers;
- when so many have been looked at that it would have been as quick to value the next requests in
  arrays, that is done;
- so it comes to the same as if all were valued anew in each turn, to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from operator import add
from typing import Any

import numpy as np

from solver.arrays import FloatArray
from solver.routing.few import AllPairs, OneByOne, Placed, SomePairs
from solver.routing.formulas import NOTHING
from solver.routing.objective import ALL, Pairs

# So many requests are valued in arrays at once; so many pairs, one by one, take as long.
AHEAD, LOOKS = 16, 32
# (m,) numbers, and rows of them: arrays, or lists where they are few.
Numbers = Any
# Request-seconds, and at which worker.
Cost = tuple[float, int]


class Found:
    """What n requests find on m workers.

    Attributes:
        pairs: a request and a worker at a time.
        placed: (m,) what is placed on each worker.
        shut: (m,) infinite where nothing may be sent to, else 0.
    """

    pairs: OneByOne
    placed: Sequence[Placed]
    shut: Numbers

    def full(self) -> Numbers | None:
        """(m,) infinite where that is so, or where it finds no free slot, else 0; None: all are."""
        raise NotImplementedError

    def least(self, i: int, shut: Numbers | None = None) -> Cost:
        """What request i costs where that is least, and not `shut`; infinite: there is nobody."""
        raise NotImplementedError


class InTurn(Found):
    """The same of requests that are placed one after the other; see the module.

    Attributes:
        open: how many workers are not shut.
        first_s: (n,) what each request costs at least, with nothing placed.
    """

    open: int
    placed: list[Placed]
    first_s: Sequence[float]
    # (n, m) as they are now, or less where they may have grown since they were worked out.
    _costs: Numbers
    _full: Numbers  # see `full`
    _free: int  # how many are not full

    def __init__(self, pairs: OneByOne) -> None:
        self.pairs, self.placed = pairs, [NOTHING] * pairs.m
        # Where they may have grown, and where the next one's have been looked at since.
        self._doubtful, self._looked = set[int](), set[int]()
        self._looks = 0

    def full(self) -> Numbers | None:
        """(m,) infinite where that is so, or where it finds no free slot, else 0; None: all are."""
        return self._full if self._free else None

    def least(self, i: int, shut: Numbers | None = None) -> Cost:
        """What request i costs where that is least, and not `shut`; infinite: there is nobody."""
        known = self._costs[i]
        costs = known if shut is None else self._sum(known, shut)
        while True:
            least = cost_s, j = self._least_of(costs)
            if j not in self._doubtful or j in self._looked or cost_s == inf:
                return least
            known[j] = costs[j] = self.pairs.cost(i, j, self.placed[j])
            self._looked.add(j)
            self._looks += 1

    def place(self, i: int, j: int) -> None:
        """Request i is placed on worker j, and those after it come next."""
        if i + 1 == self.pairs.n:
            return
        sequences, prefill_s, prompt = self.placed[j]
        more = self.pairs.sizes(i, j)
        placed = self.placed[j] = sequences + more[0], prefill_s + more[1], prompt + more[2]
        if not (self.shut[j] or self.pairs.is_open(j, placed)):
            self.shut[j] = inf
            self.open -= 1
        if not self._full[j] and (self.shut[j] or self.pairs.waits(j, placed)):
            self._full[j] = inf
            self._free -= 1
        self._looked.clear()
        self._doubtful.add(j)
        self._placed(i + 1, j)

    def rest(self, start: int) -> list[Cost]:
        """What all from `start` on cost where that is least, if nobody is placed any more."""
        found = list[Cost]()
        for i in range(start, self.pairs.n):
            self._looked.clear()
            found.append(self.least(i))
        return found

    @staticmethod
    def _least_of(costs: Numbers) -> Cost:
        """The least, and where it stands."""
        raise NotImplementedError

    @staticmethod
    def _sum(costs: Numbers, more: Numbers) -> Numbers:
        """Both, in new ones."""
        raise NotImplementedError

    def _placed(self, start: int, j: int) -> None:
        """More is placed there, and who comes next is `start`."""


class FewInTurn(InTurn):
    """Of few pairs."""

    def __init__(self, pairs: AllPairs) -> None:
        super().__init__(pairs)
        self._costs = pairs.costs_s
        self.first_s = [min(costs) for costs in self._costs]
        self.shut = [0.0 if is_open else inf for is_open in pairs.open_at_first()]
        self.open = self.shut.count(0.0)
        waits = pairs.all_wait_at_first()
        self._full = [inf if wait else shut for shut, wait in zip(self.shut, waits, strict=True)]
        self._free = self._full.count(0.0)

    @staticmethod
    def _least_of(costs: list[float]) -> Cost:
        least = min(costs)
        return least, costs.index(least)

    @staticmethod
    def _sum(costs: list[float], more: list[float]) -> list[float]:
        return list(map(add, costs, more))


class ManyInTurn(InTurn):
    """Of many, in arrays."""

    def __init__(self, pairs: Pairs) -> None:
        super().__init__(SomePairs(pairs))
        self._arrays, self._sums = pairs, np.zeros((3, pairs.m))
        self._costs: FloatArray = pairs.costs_at_first()
        self.first_s = self._costs.min(axis=1).tolist()
        is_open = pairs.is_open(ALL, self._sums)
        self.shut = np.where(is_open, 0.0, inf)
        self.open = int(is_open.sum())
        self._full = np.where(pairs.waits(ALL, self._sums), inf, self.shut)
        self._free = int(np.count_nonzero(self._full == 0.0))
        # Those that have been placed on, and up to where costs there have been looked at.
        self._used: dict[int, None] = {}
        self._until = pairs.n

    @staticmethod
    def _least_of(costs: FloatArray) -> Cost:
        j = int(costs.argmin())
        return costs.item(j), j

    @staticmethod
    def _sum(costs: FloatArray, more: FloatArray) -> FloatArray:
        return costs + more

    def _placed(self, start: int, j: int) -> None:
        self._used[j] = None
        self._sums[:, j] = self.placed[j]
        if self._looks >= LOOKS or start == self._until:
            self._look_ahead(start, AHEAD)

    def rest(self, start: int) -> list[Cost]:
        """What all from `start` on cost where that is least, if nobody is placed any more."""
        if self._used:
            self._look_ahead(start, self._arrays.n)
        costs = self._costs[start:]
        return list(zip(costs.min(axis=1).tolist(), costs.argmin(axis=1).tolist(), strict=True))

    def _look_ahead(self, start: int, count: int) -> None:
        """At what so many cost where something has been placed."""
        m, self._until = self._arrays.m, min(self._arrays.n, start + count)
        rows, workers = np.arange(start, self._until), np.array(list(self._used))
        cells = (rows[:, None] * m + workers).ravel()
        i, on = np.divmod(cells, m)
        placed = np.take(self._sums, on, axis=1)
        self._costs.put(cells, self._arrays.costs(i, on, placed))
        self._doubtful.clear()
        self._looks = 0
