"""Local search over assignments: any costs, spans, eligibility and memory limits.

Rules:
- the worst worker is what counts: a change is taken if both workers that it touches are better off
  than the worse of them was;
- too much memory in use is worse than any finish, so a start that breaks limits is repaired first;
- `descend` is deterministic and stops where no move and no exchange of two requests helps;
- `walk` goes on from there until its time is over: it splits the requests of two workers anew, all
  ways at once, and lets other workers trade so long as none becomes as bad as the worst.
"""

from __future__ import annotations

import random

import numpy as np

from solver.arrays import FloatArray, IntArray
from solver.packing.problem import TOLERANCE, Problem, SecondsLeft
from solver.packing.state import AssignmentState, bipartitions

# All ways to split so many requests are looked at together: 2^10 of them in some 40 microseconds.
SPLIT = 10
# Chains of moves are looked for where a request may go to so few workers on average; they are so
# long at most, and so many links are looked at.
FEW_CHOICES, CHAIN_LENGTH, CHAIN_VISITS = 5, 6, 1000


def _rated(value_s: FloatArray, loss_s: FloatArray, aim_s: float) -> FloatArray:
    """What reaches the aim goes by what it loses, below all that does not."""
    reached = value_s <= aim_s
    most = float(loss_s.max(initial=0.0)) if reached.any() else 0.0
    return np.where(reached, loss_s - most - 1.0, value_s)


class Search(AssignmentState):
    """An assignment that gets better.

    `loss_s` (n, m) says what it costs the whole to have a request on a worker where it does not
    belong: those that lose least are the ones to share between two workers.
    """

    def __init__(
        self,
        problem: Problem,
        assignment: IntArray,
        rng: random.Random,
        loss_s: FloatArray | None = None,
    ) -> None:
        super().__init__(problem, assignment)
        self._rng, self._loss_s = rng, loss_s
        self._sparse = np.count_nonzero(self._may) <= FEW_CHOICES * max(1, problem.requests)
        self._visits = 0

    def descend(self, target_s: float, steps: int, left_s: SecondsLeft | None = None) -> None:
        """Shorten the worst worker until `target_s`, or nothing helps, or the steps are over."""
        for _ in range(steps):
            if self.worst_s <= target_s or (left_s is not None and left_s() <= 0):
                return
            if not self._step(target_s):
                return

    def walk(self, target_s: float, left_s: SecondsLeft) -> None:
        """Go on until `target_s` is met or the time is over; never gets worse."""
        workers = len(self.initial)
        if workers < 2:
            return
        while left_s() > 0:
            last = int(self.finish.argmax())
            limit = float(self.finish[last])
            if limit <= target_s:
                return
            other = self._partner(last)
            if other is not None and self._split(last, other, limit, target_s):
                self.descend(target_s, 4, left_s)
                continue
            a = self._rng.randrange(workers)
            b = self._partner(a)
            if b is not None and last not in (a, b):
                self._trade(a, b, limit)

    def _partner(self, j: int) -> int | None:
        """Another worker that may serve some request of `j`, at random."""
        mine = self.assigned[j]
        if not len(mine):
            return None
        able = self.eligible_workers[int(self._rng.choice(mine))]
        other = int(self._rng.choice(able))
        return None if other == j else other

    def _step(self, target_s: float) -> bool:
        """The best move of one of the worst worker's requests, or exchange against another's."""
        last = int(self.finish.argmax())
        finish = float(self.finish[last])
        mine = self.assigned[last]
        if not len(mine):
            return False
        aim = (finish + max(target_s, 0.0)) / 2
        move_s, a, j = self._best_move(mine, last, aim)
        swap_s, b, c = self._best_swap(mine, last, aim)
        if min(move_s, swap_s) >= finish * (1 - TOLERANCE):
            return self._eject(last, finish)
        if move_s <= swap_s:
            self.move(a, j)
        else:
            k = int(self.assignment[c])
            theirs = self.assigned[k]
            to_last = np.append(mine[mine != b], c)
            self.reassign(last, k, to_last, np.append(theirs[theirs != c], b))
        return True

    def _eject(self, last: int, finish: float) -> bool:
        """Move a request to a worker that passes one of its own on, and so on, if all end earlier.

        Where few workers may serve a request, whoever may serve one of the worst's has no time, but
        knows somebody who knows somebody who has.
        """
        if self.span is not None or not self._sparse:
            return False
        self._visits = CHAIN_VISITS
        moves = self._ejection_chain(last, 0.0, 0.0, finish * (1 - TOLERANCE), {last})
        for i, k in reversed(moves or []):
            self.move(i, k)
        return moves is not None

    def _ejection_chain(
        self, j: int, more_s: float, more_kv: float, limit: float, seen: set[int]
    ) -> list[tuple[int, int]] | None:
        """Moves of one request each that leave worker `j`, who gets more, and all others in time.

        Its first move is that of a request of `j`; the shortest that is long enough goes first.
        """
        cost = self.cost
        left = self.load[j] + more_s - limit
        costs = cost[self.assigned[j], j]
        for at in np.argsort(costs, kind="stable").tolist():
            i = int(self.assigned[j][at])
            if costs[at] <= left:
                continue
            if self.kv is not None and self.kv_used[j] + more_kv - self.kv[i] > self.kv_capacity[j]:
                continue
            for k in self.eligible_workers[i].tolist():
                if k in seen:
                    continue
                self._visits -= 1
                if self._visits < 0:
                    return None
                come, tokens = float(cost[i, k]), 0.0 if self.kv is None else float(self.kv[i])
                fits = self.kv is None or self.kv_used[k] + tokens <= self.kv_capacity[k]
                if fits and self.load[k] + come < limit:
                    return [(i, k)]
                if len(seen) < CHAIN_LENGTH and come < limit:
                    rest = self._ejection_chain(k, come, tokens, limit, seen | {k})
                    if rest is not None:
                        return [(i, k), *rest]
        return None

    def _longest_without(self, mine: IntArray, last: int) -> FloatArray | float:
        """For each of `mine`, the longest span left on `last` once that request is gone."""
        if self.span is None or len(mine) == 1:
            return 0.0
        spans = self.span[mine, last]
        second, first = np.sort(spans)[-2:]
        without: FloatArray = np.where(spans == first, second, first)
        return without

    def _best_move(self, mine: IntArray, last: int, aim_s: float) -> tuple[float, int, int]:
        """(worse finish of the two workers afterwards, request, new worker)."""
        there = self.load + self.cost[mine]
        if self.span is not None:
            np.maximum(there, self.span[mine], out=there)
            np.maximum(there, self.longest, out=there)
        here = np.maximum(
            self.load[last] - self.cost[mine, last], self._longest_without(mine, last)
        )
        if self.kv is not None:
            kv = self.kv[mine]
            there += self.penalty(self.kv_used + kv[:, None], self.kv_capacity)
            here += self.penalty(self.kv_used[last] - kv, self.kv_capacity[last])
        if len(mine) == 1:
            here[:] = 0.0  # a worker without new work does not count
        there[:, last] = np.inf
        value = np.maximum(there, here[:, None])
        if self._loss_s is not None:
            loss = self._loss_s[mine] - self._loss_s[mine, last][:, None]
            value = _rated(value, loss, aim_s)
        at, j = divmod(int(value.argmin()), value.shape[1])
        return float(value[at, j]), int(mine[at]), j

    def _best_swap(self, mine: IntArray, last: int, aim_s: float) -> tuple[float, int, int]:
        """(worse finish of the two workers afterwards, own request, other's request)."""
        others = np.flatnonzero(self.assignment != last)
        if not len(others):
            return np.inf, 0, 0
        host = self.assignment[others]
        cost = self.cost
        here = (self.load[last] - cost[mine, last])[:, None] + cost[others, last]
        there = (self.load[host] - cost[others, host]) + cost[mine][:, host]
        if self.span is not None:
            np.maximum(here, self.span[others, last], out=here)
            without = np.broadcast_to(self._longest_without(mine, last), len(mine))
            np.maximum(here, without[:, None], out=here)
            np.maximum(there, self.span[mine][:, host], out=there)
            np.maximum(there, self.longest[host], out=there)
        if self.kv is not None:
            more = self.kv[mine][:, None] - self.kv[others]
            here += self.penalty(self.kv_used[last] - more, self.kv_capacity[last])
            there += self.penalty(self.kv_used[host] + more, self.kv_capacity[host])
        value = np.maximum(here, there)
        if self._loss_s is not None:
            loss_s = self._loss_s
            loss = loss_s[mine][:, host] - loss_s[mine, last][:, None]
            loss += loss_s[others, last] - loss_s[others, host]
            value = _rated(value, loss, aim_s)
        at, k = divmod(int(value.argmin()), value.shape[1])
        return float(value[at, k]), int(mine[at]), int(others[k])

    def _split(self, j: int, k: int, limit: float, target_s: float) -> bool:
        """Share the requests of two workers anew, if that brings both below `limit`."""
        found = self._splits(j, k)
        if found is None:
            return False
        some, rest_j, rest_k, here, there = found
        value = np.maximum(here, there)
        if self._loss_s is not None:
            value = _rated(value, self._lost(j, k, some), (limit + target_s) / 2)
        best = int(value.argmin())
        if value[best] >= limit * (1 - TOLERANCE):
            return False
        self._share(j, k, some, rest_j, rest_k, best)
        return True

    def _trade(self, j: int, k: int, limit: float) -> None:
        """Another split that leaves both below `limit`: one of little cost, at random."""
        found = self._splits(j, k)
        if found is None:
            return
        some, rest_j, rest_k, here, there = found
        both = here + there
        if self._loss_s is not None:
            both = self._lost(j, k, some)
        allowed = np.maximum(here, there) < limit * (1 - TOLERANCE)
        if not allowed.any():
            return
        # Where no split costs more than another, this picks any; else one of the cheaper ones.
        noise = self._rng.random() * 0.1 * float(both[allowed].std()) + TOLERANCE * limit
        draws = np.array([self._rng.random() for _ in range(8)])
        spread = draws[np.arange(len(both)) % 8] + (np.arange(len(both)) * draws[0]) % 1.0
        both = np.where(allowed, both + noise * spread, np.inf)
        self._share(j, k, some, rest_j, rest_k, int(both.argmin()))

    def _lost(self, j: int, k: int, some: IntArray) -> FloatArray:
        """(ways,) what is lost by each way to share requests between two workers."""
        assert self._loss_s is not None
        subsets, others = bipartitions(len(some))
        lost: FloatArray = subsets @ self._loss_s[some, j] + others @ self._loss_s[some, k]
        return lost

    def _share(
        self, j: int, k: int, some: IntArray, rest_j: IntArray, rest_k: IntArray, way: int
    ) -> None:
        to_j = bipartitions(len(some))[0][way].astype(np.bool_)
        self.reassign(j, k, np.append(rest_j, some[to_j]), np.append(rest_k, some[~to_j]))

    def _splits(
        self, j: int, k: int
    ) -> tuple[IntArray, IntArray, IntArray, FloatArray, FloatArray] | None:
        """(requests to share, those that stay on each, finish of each by way of sharing)."""
        mine, theirs = self.assigned[j], self.assigned[k]
        if len(mine) + len(theirs) > SPLIT:
            mine, theirs = self._sample(j, k)
        some = np.concatenate((mine, theirs))
        if not len(some):
            return None
        rest_j = self.assigned[j][~np.isin(self.assigned[j], mine)]
        rest_k = self.assigned[k][~np.isin(self.assigned[k], theirs)]
        subsets, others = bipartitions(len(some))
        here = self.totals(j, some, rest_j, subsets)
        there = self.totals(k, some, rest_k, others)
        return some, rest_j, rest_k, here, there

    def _sample(self, j: int, k: int) -> tuple[IntArray, IntArray]:
        """So few of each that all splits can be looked at: at random, rather who loses little."""
        mine, theirs = self.assigned[j], self.assigned[k]
        loss_j, loss_k = self._losses(mine, k), self._losses(theirs, j)
        from_j = min(len(mine), max(SPLIT // 2, SPLIT - len(theirs)))
        from_k = min(len(theirs), SPLIT - from_j)
        return mine[np.argsort(loss_j)[:from_j]], theirs[np.argsort(loss_k)[:from_k]]

    def _losses(self, some: IntArray, there: int) -> FloatArray:
        """(len(some),) what is lost if these go to another worker, noisy."""
        draws = np.array([self._rng.random() for _ in range(len(some))])
        if self._loss_s is None:
            return draws
        losses: FloatArray = np.maximum(self._loss_s[some, there], TOLERANCE) * draws
        return losses
