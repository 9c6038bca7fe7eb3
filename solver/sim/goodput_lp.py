"""The linear program of `solver.sim.goodput_bound`: prices of its rows, over kinds of requests.

Twenty thousand requests that may each go to several kinds of workers are too many columns to be
quick. Requests that come at about the same time and take about as much are one kind here, which
takes what they take on average: so prices are about right, and whoever uses them says what they
prove.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from solver.arrays import BoolArray, FloatArray, IntArray
from solver.batching.target_bounds import Asked, Demand
from solver.packing.milp.compile import Program
from solver.packing.milp.highs import load_program

# So many requests of several pools are a kind each; of more, kinds are slices of arrivals, and
# bins of the work before the first token and after it in each.
FEW = 1500
SLICES, BINS = 48, 6


@dataclass(frozen=True, slots=True)
class Row:
    """Seconds of a pool of workers, and (n,) what requests take of them."""

    pool: int
    seconds: float
    taken: FloatArray


def kinds_of(asked: Asked, demand: Demand, pools: int) -> IntArray:
    """(n,) the kind of each request, by number from 0; with a single pool all differ."""
    n = len(asked.arrival_s)
    if n <= FEW or pools == 1:
        return np.arange(n)
    slices, firsts = _bins(asked.arrival_s, SLICES), _bins(demand.first_s, BINS)
    keys = (slices * BINS + firsts) * BINS + _bins(demand.later_s, BINS)
    return np.asarray(np.unique(keys, return_inverse=True)[1], dtype=np.intp)


def _bins(values: FloatArray, count: int) -> IntArray:
    """(n,) in which of `count` bins of about as many each value is."""
    edges = np.quantile(values, np.linspace(0.0, 1.0, count + 1)[1:-1])
    return np.asarray(edges.searchsorted(values, side="right"), dtype=np.intp)


def solve(
    rows: Sequence[Row], able: BoolArray, kinds: IntArray
) -> tuple[FloatArray, FloatArray] | None:
    """Prices (r,) of rows, and shares (m, n) of requests that pools serve; None if none was found.

    `able` (m, n) says who may be served where, `kinds` (n,) who is treated alike.
    """
    members = np.array([np.bincount(kinds, served) for served in able])  # (m, k)
    pools, columns = np.nonzero(members)
    numbers = _program(rows, able, kinds, members)
    h = load_program(numbers, relaxed=True)
    h.run()
    found = h.getSolution()
    if not found.dual_valid:
        return None
    prices = np.maximum(0.0, -np.array(found.row_dual)[: len(rows)])
    share = np.zeros(members.shape)
    share[pools, columns] = np.array(found.col_value) / members[pools, columns]
    return prices, np.where(able, share[:, kinds], 0.0)


def _program(rows: Sequence[Row], able: BoolArray, kinds: IntArray, members: FloatArray) -> Program:
    """A column for each pool and kind that it may serve; rows, then kinds served once at most."""
    pools, columns = np.nonzero(members)
    taken = np.zeros((len(rows), len(pools)))
    for r, row in enumerate(rows):
        mine = pools == row.pool
        seconds = np.bincount(kinds, row.taken * able[row.pool], members.shape[1])
        taken[r, mine] = seconds[columns[mine]] / members[row.pool, columns[mine]]
    at_row, at_column = np.nonzero(taken)
    value = np.concatenate((taken[at_row, at_column], np.ones(len(columns))))
    at_row = np.concatenate((at_row, len(rows) + columns))
    at_column = np.concatenate((at_column, np.arange(len(columns))))
    order = np.lexsort((at_row, at_column))
    upper = np.concatenate(([row.seconds for row in rows], np.bincount(kinds)))
    return Program(
        data=value[order],
        index=at_row[order].astype(np.int32),
        starts=at_column[order].searchsorted(np.arange(len(columns) + 1)).astype(np.int32),
        cost=-np.ones(len(columns)),
        col_lower=np.zeros(len(columns)),
        col_upper=members[pools, columns].astype(np.float64),
        row_lower=np.full(len(upper), -inf),
        row_upper=upper,
        whole=np.zeros(len(columns), dtype=np.bool_),
    )
