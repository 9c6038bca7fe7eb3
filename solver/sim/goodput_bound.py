"""An upper bound on goodput: no router, order or iterations let more requests keep their targets.

A linear relaxation of all schedules in which x_ij, the share of request i that keeps its targets on
workers of kind j, is either 0 or 1:

    max  sum_ij x_ij     s.t.  sum_j x_ij <= 1 for each i
                               sum_i D_ij(a, b) x_ij <= m_j (b - a)   for each j, rule and a < b

x_ij is 0 where an empty worker would be too slow for i (`EngineKind.able`). D_ij(a, b) is what is
surely done for i within [a, b]: nothing is done for it before it arrives, its first token is due
`ttft_s` later, and its last one ``tpot_s * (output - 1)`` after the first. So if it arrives at a or
later, and its first token is due by b, all the work for that lies within [a, b]; if the last one is
too, all its work does. The m_j workers have as many seconds each, and what requests take of them at
least is `solver.batching.target_bounds`'s, by several rules that hold at once. Requests that do not
keep their targets take nothing here: they may be served when all others are done.

There are as many rows as intervals. Only those that the solution so far breaks are added; leaving
rows out can only make the bound larger. By weak duality any prices y >= 0 of the rows give a bound,

    sum_r y_r m_r (b_r - a_r)  +  sum_i max(0, 1 - min_j sum_r y_r D_ijr),

and it is this sum, over all requests, that is returned: the solver, which sees requests of about
the same kind as one and stops at its tolerances, is only asked for prices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor

import numpy as np

from solver.arrays import BoolArray, FloatArray
from solver.batching.kv import BLOCK_TOKENS
from solver.batching.target_bounds import ROUNDING, Asked, Demand, EngineKind
from solver.sim.goodput_lp import Row, kinds_of, solve
from solver.sim.intervals import Intervals
from solver.sim.request import Request
from solver.sim.worker import Worker

# Times that rows are added, how many each time, and by how much of an interval one must be broken.
STEPS, ROWS, WORTH = 8, 32, 1e-3


def goodput_bound(requests: Sequence[Request], workers: Sequence[Worker]) -> float:
    """The share of the requests with targets that can keep both on these workers, at most.

    1 if none has any. A fraction of requests at the end is cut off: each is in time, or is not.
    """
    count = sum(request.targets.any for request in requests)
    if not count:
        return 1.0
    kept = floor(_Relaxation(_pools(requests, workers)).bound() + 1e-6)
    return min(1.0, max(0.0, (kept - (len(requests) - count)) / count))


@dataclass(frozen=True, slots=True)
class _Pool:
    """Workers of one kind.

    Attributes:
        workers: how many.
        asked: what requests ask of them.
        able: (n,) which they can serve in time.
        demands: seconds that these take, by each rule.
    """

    workers: int
    asked: Asked
    able: BoolArray
    demands: Sequence[Demand]


def _pools(requests: Sequence[Request], workers: Sequence[Worker]) -> list[_Pool]:
    kinds: dict[tuple[EngineKind, bool], int] = {}
    for worker in workers:
        own = worker.setting
        kind = EngineKind(worker.cost, own.slots, own.kv_tokens, own.prefill_budget)
        kinds[kind, own.prefix_cache] = kinds.get((kind, own.prefix_cache), 0) + 1
    pools = []
    for (kind, caches), workers_of_it in kinds.items():
        asked = _asked(requests, caches=caches)
        pools.append(_Pool(workers_of_it, asked, kind.able(asked), kind.demands(asked)))
    return pools


def _asked(requests: Sequence[Request], *, caches: bool) -> Asked:
    columns = np.array(
        [
            (r.arrival_s, r.prompt_tokens, r.output_tokens, r.targets.ttft_s, r.targets.tpot_s)
            for r in requests
        ]
    )
    arrival_s, prompt, output, ttft_s, tpot_s = columns.T
    uncached = prompt
    if caches:
        uncached = np.maximum(1.0, prompt - BLOCK_TOKENS * _known_blocks(requests))
    return Asked(arrival_s, prompt, output, uncached, ttft_s, tpot_s)


def _known_blocks(requests: Sequence[Request]) -> FloatArray:
    """(n,) blocks that another request may have brought before this one's first token is due."""
    brought: dict[int, list[float]] = {}  # the first two arrivals of who has it
    for arrival_s, block in sorted((r.arrival_s, b) for r in requests for b in r.hash_ids):
        times = brought.setdefault(block, [])
        if len(times) < 2:
            times.append(arrival_s)

    def known(request: Request, block: int) -> bool:
        first_s, *others = brought[block]
        due_s = request.arrival_s + request.targets.ttft_s
        return first_s < request.arrival_s or any(other_s <= due_s for other_s in others)

    return np.array([sum(known(r, block) for block in r.hash_ids) for r in requests], dtype=float)


class _Relaxation:
    """Rows as needed, their prices, and the best bound so far."""

    def __init__(self, pools: Sequence[_Pool]) -> None:
        self._pools, self._intervals = pools, Intervals.of(pools[0].asked)
        self._able = np.array([pool.able for pool in pools])
        self._kinds = kinds_of(pools[0].asked, pools[0].demands[0], len(pools))
        self._rows: list[Row] = []
        self._best = float(self._able.any(axis=0).sum())

    def bound(self) -> float:
        """Requests that can keep their targets, at most."""
        share = self._able / np.maximum(1, self._able.sum(axis=0))
        for _ in range(STEPS):
            broken = self._broken(share)
            if not broken:
                break
            self._rows += broken
            found = solve(self._rows, self._able, self._kinds)
            if found is None:
                break
            prices, share = found
            self._best = min(self._best, self._dual(prices))
        return self._best

    def _broken(self, share: FloatArray) -> list[Row]:
        """Rows that a solution (m, n) breaks most."""
        intervals = self._intervals
        found = [
            (over_s, j, demand, at)
            for j, pool in enumerate(self._pools)
            for demand in pool.demands
            for over_s, at in intervals.broken(demand, share[j], pool.workers, WORTH)
        ]
        found.sort(key=lambda one: -one[0])
        return [
            Row(
                j,
                self._pools[j].workers * intervals.length_s(at) * (1 + ROUNDING),
                intervals.within(demand, at),
            )
            for _, j, demand, at in found[:ROWS]
        ]

    def _dual(self, prices: FloatArray) -> float:
        """The bound that prices (r,) of the rows give."""
        price = np.where(self._able, 0.0, np.inf)
        for row, value in zip(self._rows, prices, strict=True):
            price[row.pool] += value * row.taken
        seconds = np.array([row.seconds for row in self._rows])
        return float(prices @ seconds + np.maximum(0.0, 1.0 - price.min(axis=0)).sum())
