"""What requests find when it is their turn: whole plans, and many at once, by the one objective.

Placing one after the other (`solver.routing.assign`) asks for the objective n times, once a request
for all that come after it. But what a request finds on a worker depends only on the sums of what
was placed there before it. So all requests of a plan, or of a hundred plans, are seen as that many
pairs of a request and a worker with such sums on it, and one call of `objective.terms` values them.
"""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np

from solver.arrays import BoolArray, FloatArray, IntArray
from solver.cost.model import CostColumns
from solver.routing.objective import Load, Requests, ends_at_best_s, terms

ALL = slice(None)
# Of each worker, beside its cost; of each request, whatever the worker.
EACH = tuple(f.name for f in fields(Load) if f.name not in {"cost", "level_s", "scale_s"})
COLUMNS = tuple(f.name for f in fields(Requests) if f.name not in {"uncached", "forbidden"})


class Turns:
    """n requests in order, and the m workers that they find.

    Attributes:
        n, m: how many.
        allowed: (n, m) where they may go.
        sizes: (3, n, m) what each adds to each worker, as `Load.sizes`.
        best_s: as `objective.ends_at_best_s`.
    """

    def __init__(self, requests: Requests, load: Load) -> None:
        self.requests, self.load = requests, load
        self.n, self.m = requests.uncached.shape
        forbidden = requests.forbidden
        self.allowed: BoolArray = (
            np.ones((self.n, self.m), dtype=np.bool_) if forbidden is None else ~forbidden
        )
        self.best_s = ends_at_best_s(requests, load)
        i, j = np.indices((self.n, self.m))
        self.sizes: FloatArray = np.stack(load.sizes(requests, i, j))

    def seen(self, j: IntArray, before: FloatArray) -> Load:
        """Workers j (k,) with `before` (3, k) placed there."""
        own = {name: getattr(self.load, name)[j] for name in EACH}
        cost = CostColumns(*(getattr(self.load.cost, f.name)[j] for f in fields(CostColumns)))
        load = replace(self.load, cost=cost, **own)
        load.add(ALL, *before)
        return load

    def terms(self, i: IntArray, j: IntArray, seen: Load) -> FloatArray:
        """(terms, k) of requests i on workers j, both (k,), as `seen`."""
        columns = {name: getattr(self.requests, name)[i, 0][None] for name in COLUMNS}
        uncached = self.requests.uncached[i, j][None]
        pairs = replace(self.requests, **columns, uncached=uncached, forbidden=None)
        found = terms(pairs, seen, self.best_s[i, 0][None], ALL, ALL)
        return np.stack([term[0] for term in found])

    def costs(self, i: IntArray, j: IntArray, seen: Load) -> FloatArray:
        """(k,) request-seconds of the same."""
        return np.asarray(self.terms(i, j, seen).sum(axis=0), dtype=np.float64)

    def pairs(self) -> tuple[IntArray, IntArray]:
        """All pairs of a request and a worker, (n m,) each."""
        i, j = np.indices((self.n, self.m))
        return i.ravel(), j.ravel()

    def before(self, workers: IntArray) -> FloatArray:
        """(3, n, m) what a plan (n,) has placed on each worker before each turn."""
        rows = np.arange(self.n)
        placed = np.zeros((3, self.n + 1, self.m))
        placed[:, rows + 1, workers] = self.sizes[:, rows, workers]
        return np.asarray(placed.cumsum(axis=1)[:, :-1])

    def totals(self, plans: IntArray) -> FloatArray:
        """(p,) request-seconds of plans (p, n), each request with all before it on its worker."""
        rows = np.broadcast_to(np.arange(self.n), plans.shape)
        same = plans[:, :, None] == plans[:, None, :]
        earlier = np.tril(same, -1).astype(np.float64)  # k before i on the same worker
        sizes = self.sizes[:, rows, plans]
        before = np.matmul(earlier, sizes[..., None])[..., 0]
        i, j = rows.ravel(), plans.ravel()
        costs = self.costs(i, j, self.seen(j, before.reshape(3, -1)))
        return np.asarray(costs.reshape(plans.shape).sum(axis=1), dtype=np.float64)


def first(requests: Requests, count: int) -> Requests:
    """The first so many."""
    columns = {name: getattr(requests, name)[:count] for name in (*COLUMNS, "uncached")}
    forbidden = None if requests.forbidden is None else requests.forbidden[:count]
    return replace(requests, **columns, forbidden=forbidden)
