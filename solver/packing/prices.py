"""Prices of workers' time: a bound and a seed in milliseconds where a linear program takes seconds.

For any prices w >= 0 that add up to 1, the latest load is at least the priced sum of all loads,
and that at least ``sum_j w_j b_j + sum_i min_j w_j T_ij`` (the Lagrangian bound of the packing in
README section 3). Workers that get too much become dearer, step by step, until nothing improves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from solver.arrays import FloatArray, IntArray
from solver.packing.bounds import relative_speeds
from solver.packing.problem import Problem, SecondsLeft

# Steps, and how far each goes at first: prices rise by half where a load is twice the mean.
STEPS, STRIDE = 120, 0.5


@dataclass(frozen=True, slots=True)
class Prices:
    """The best bound found, everyone's cheapest worker, and (n, m) what any other one loses."""

    finish_bound_s: float
    cheapest: IntArray
    loss_s: FloatArray


def find_prices(problem: Problem, bound_s: float, left_s: SecondsLeft) -> Prices:
    """By multiplicative updates; `bound_s` is a bound that is known. Stops when time is over."""
    n, m = problem.requests, problem.workers
    rows = np.arange(n)
    cost = np.where(problem.eligible, problem.cost_s, np.inf)
    # An unused worker with a long backlog does not count: only as much as anybody must have.
    backlog = np.minimum(problem.initial_s, bound_s)
    log = np.log(relative_speeds(problem))
    best_s, best = -np.inf, np.full(m, 1.0 / m)
    for step in range(STEPS):
        price = np.exp(log - log.max())
        price /= price.sum()
        priced = cost * price
        to = priced.argmin(axis=1)
        found = float(priced[rows, to].sum() + price @ backlog)
        if found > best_s:
            best_s, best = found, price
        if left_s() <= 0:
            break
        load = backlog + np.bincount(to, cost[rows, to], m)
        more = np.clip(load / max(float(load.mean()), 1e-12) - 1.0, -1.0, 1.0)
        log += STRIDE / (1.0 + 0.1 * step) * more
    priced = cost * best
    to = priced.argmin(axis=1)
    loss = priced - priced[rows, to][:, None]
    loss[~problem.eligible] = problem.cost_s.max(initial=0.0, where=problem.eligible)
    return Prices(max(bound_s, best_s), to, loss)
