"""Who goes where, one after the other: the plan that is there at once.

Rules:
- in the order given, each request is planned on the worker where it costs least (`objective`),
  with all that was placed before it there;
- where a slot is free and its first token would still come in time, a request goes at once: it is
  not held back for a faster worker;
- any other waits for a worker that has no room only if the cheapest that has room costs more by
  `DOUBT`, as costs are predictions; while it waits it counts as planned there, so that those behind
  it see the queue;
- a worker is closed once its slots and its lead are taken, its memory is full, or more than
  `QUEUED_S` of prefill are queued there: what would only queue there is better bound later.

Work is O(n m) and does not depend on what waits behind the n, or runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import numpy as np

from solver.arrays import BoolArray, FloatArray
from solver.routing.objective import (
    FIRST_TOKEN,
    TERMS,
    Load,
    Requests,
    Term,
    ends_at_best_s,
    terms,
)

DOUBT = 0.1
# Queued prefill that keeps a worker busy until the next decision, and no more: a second, or on slow
# engines so many fixed costs of a prefill.
QUEUED_S, QUEUED_ALPHAS = 1.0, 16.0


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """A plan for n requests on m workers.

    Attributes:
        workers: (n,) where each is planned.
        go: (n,) whether it is sent there now; the others wait and are planned again.
        terms: (terms, n, m) of the objective when it was its turn.
        bound_s: request-seconds that no plan of these requests in this order can beat.
    """

    workers: tuple[int, ...]
    go: tuple[bool, ...]
    terms: FloatArray
    bound_s: float

    @property
    def cost_s(self) -> FloatArray:
        """(n,) request-seconds of each where it is planned."""
        rows = np.arange(len(self.workers))
        return np.asarray(self.terms[:, rows, list(self.workers)].sum(axis=0), dtype=np.float64)

    @property
    def total_s(self) -> float:
        """Request-seconds of all: what is minimised."""
        return float(self.cost_s.sum())

    @property
    def gap_s(self) -> float:
        """Request-seconds that a better plan could save at most."""
        return max(0.0, self.total_s - self.bound_s)


def assign(requests: Requests, load: Load) -> Assignment:
    """The plan; see the module. Each request must be allowed somewhere."""
    n, m = requests.uncached.shape
    state, best = load.copy(), ends_at_best_s(requests, load)
    parts = np.empty((len(TERMS), n, m))
    _fill(parts, requests, state, best, 0)
    costs = parts.sum(axis=0)
    if requests.forbidden is not None:
        costs[requests.forbidden] = np.inf
    bound = float(costs.min(axis=1).sum())
    chosen, go = [-1] * n, [False] * n
    for i in range(n):
        able = _open(state)
        if not able.any():
            chosen[i:] = costs[i:].argmin(axis=1).tolist()
            break
        at_once = able & (state.free > 0) & _in_time(requests, parts[:, i], i)
        j, go[i] = _choose(costs[i], able, at_once)
        chosen[i] = j
        state.place(requests, i, j)
        if i + 1 < n:
            _fill(parts, requests, state, best, i + 1, j)
            column = costs[i + 1 :, j]
            np.copyto(column, parts[:, i + 1 :, j].sum(axis=0), where=np.isfinite(column))
    return Assignment(tuple(chosen), tuple(go), parts, bound)


def _fill(
    parts: FloatArray,
    requests: Requests,
    load: Load,
    best_s: FloatArray,
    start: int,
    j: slice | int = slice(None),
) -> None:
    """The terms of all from `start` on, on worker(s) j."""
    for k, term in enumerate(terms(requests, load, best_s, slice(start, None), j)):
        parts[k, start:, j] = term


def _open(load: Load) -> BoolArray:
    """(m,) who may be sent something."""
    most = np.maximum(QUEUED_S, QUEUED_ALPHAS * load.cost.alpha_p_s)
    return (load.room > 0) & (load.queued_s <= most) & (load.kv_now > 0)


def _in_time(requests: Requests, parts: FloatArray, i: int) -> BoolArray:
    """(m,) where the first token of request i comes within its target; `parts` are its terms."""
    blind = float(requests.weight[i, 0]) * (1.0 + FIRST_TOKEN)
    first_s = (parts[Term.WAIT] + parts[Term.PREFILL]) / blind
    wanted = float(requests.ttft_s[i, 0])
    if not isfinite(wanted):
        return np.zeros(len(first_s), dtype=np.bool_)
    return np.asarray(requests.waited_s[i, 0] + first_s <= wanted, dtype=np.bool_)


def _choose(costs: FloatArray, able: BoolArray, at_once: BoolArray) -> tuple[int, bool]:
    """(worker, whether it goes there now)."""
    now = np.where(at_once, costs, np.inf)
    k = int(now.argmin())
    if isfinite(now[k]):
        return k, True
    j, now = int(costs.argmin()), np.where(able, costs, np.inf)
    k = int(now.argmin())
    if isfinite(now[k]) and now[k] <= (1.0 + DOUBT) * costs[j]:
        return k, True
    return j, False
