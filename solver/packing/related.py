"""Longest first and its repair where a cost is work times slowness: the fast path.

Without side constraints and with five or more requests a worker this reaches 0.1 % of the bound in
about the time that it takes to sort; a solver could only confirm it. Everything is in units of
work, relative to a target time T that all workers are to finish by: a worker's *fill* is its work
less what it can do until T, so speeds and backlogs vanish, and T is met where no fill is positive.
Plain lists and bisection: numpy's calls cost more than the few numbers that each step looks at.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from heapq import heapify, heapreplace

# Partners that an overfull worker tries at most, those with most room first. Each offers as many
# differences as the two have pairs of requests; one that fits is usually among the first few.
PARTNERS = 256
# Exchanges for each worker, on average, before a target is given up.
EXCHANGES = 8

Load = tuple[float, int]  # a worker's fill, and which it is


class Packing:
    """Requests on workers.

    `capacity` (m,) is the work that each worker can do until the target; negative where its
    backlog is longer.
    """

    def __init__(self, work: Sequence[float], capacity: Sequence[float]) -> None:
        self._work = work
        self._fill = [-room for room in capacity]
        # Works and ids of each worker's requests, from the shortest to the longest.
        self._works: list[list[float]] = [[] for _ in capacity]
        self._ids: list[list[int]] = [[] for _ in capacity]

    def place(self, order: Sequence[int]) -> None:
        """In that order, each to the worker with most room left: the least loaded if all are alike.

        From longest to shortest this is longest first. Some noise in the order costs little, and
        keeps workers from becoming copies of each other, which have nothing to exchange.
        """
        work = self._work
        heap = [(fill, j) for j, fill in enumerate(self._fill)]
        heapify(heap)
        for i in order:
            fill, j = heap[0]
            heapreplace(heap, (fill + work[i], j))
            self._ids[j].append(i)
        for fill, j in heap:
            self._fill[j] = fill
            self._ids[j].sort(key=work.__getitem__)
            self._works[j] = [work[i] for i in self._ids[j]]

    def repair(self) -> bool:
        """Exchange requests until all meet the target; False where that was given up."""
        over = sorted((fill, j) for j, fill in enumerate(self._fill) if fill > 0)
        under = sorted((fill, j) for j, fill in enumerate(self._fill) if fill <= 0)
        for _ in range(EXCHANGES * len(self._fill)):
            if not over:
                return True
            excess, j = over.pop()
            # Where nobody has the room, somebody may take half of what is too much.
            k = self._relieve(j, under, 0.0)
            if k is None:
                k = self._relieve(j, under, excess / 2)
            if k is None:
                return False
            for worker in (j, k):
                fill = self._fill[worker]
                insort(over if fill > 0 else under, (fill, worker))
        return not over

    def assignment(self) -> list[int]:
        """The worker of each request."""
        found = [0] * len(self._work)
        for j, ids in enumerate(self._ids):
            for i in ids:
                found[i] = j
        return found

    def _relieve(self, j: int, under: list[Load], more: float) -> int | None:
        """Pass work from `j` to one of `under`, who may exceed its room by `more`; tells to whom.

        One request goes, and none or a shorter one comes back: as much as is too much, or else the
        most that anybody takes.
        """
        mine, excess = self._works[j], self._fill[j]
        best, pick = 0.0, (-1, -1, -1)
        for at in range(min(PARTNERS, len(under))):
            fill, k = under[at]
            room = more - fill
            if room <= best:
                break
            theirs = self._works[k]
            for a, work in enumerate(mine):
                b = bisect_left(theirs, work - room) if work > room else -1
                if b == len(theirs):
                    continue
                passed = work - theirs[b] if b >= 0 else work
                if passed > best:
                    best, pick = passed, (at, a, b)
            if best >= excess:
                break
        at, a, b = pick
        if at < 0:
            return None
        _, k = under.pop(at)
        self._exchange(j, a, k, b)
        return k

    def _exchange(self, j: int, a: int, k: int, b: int) -> None:
        """Request `a` of worker `j` for request `b` of worker `k`, or for none if `b` is -1."""
        work, i = self._works[j].pop(a), self._ids[j].pop(a)
        passed = work
        if b >= 0:
            back, other = self._works[k].pop(b), self._ids[k].pop(b)
            self._put(j, back, other)
            passed -= back
        self._put(k, work, i)
        self._fill[j] -= passed
        self._fill[k] += passed

    def _put(self, j: int, work: float, i: int) -> None:
        at = bisect_left(self._works[j], work)
        self._works[j].insert(at, work)
        self._ids[j].insert(at, i)
