"""What requests find when it is their turn: whole plans, and many at once, by the one objective.

Placing one after the other (`solver.routing.assign`) asks for the objective n times, once a request
for all that come after it. But what a request finds on a worker depends only on the sums of what
was placed there before it. So all requests of a plan, or of a hundred plans, are seen as that many
pairs of a request and a worker with such sums on it, and valued by one call.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from solver.arrays import FloatArray, IntArray
from solver.routing.columns import COLUMNS, PAIRS, Load, Requests
from solver.routing.objective import Pairs


class Turns(Pairs):
    """n requests in order, and the m workers that they find.

    Attributes:
        added: (3, n, m) what each adds to each worker, as `Pairs.sizes`.
    """

    def __init__(self, requests: Requests, load: Load, whole: Pairs | None = None) -> None:
        super().__init__(requests, load, whole)
        self.added: FloatArray = np.stack(
            np.broadcast_arrays(requests.sequences, self.prefill_s, requests.prompt)
        )

    def before(self, workers: IntArray) -> FloatArray:
        """(3, n, m) what a plan (n,) has placed on each worker before each turn."""
        rows = np.arange(self.n)
        placed = np.zeros((3, self.n + 1, self.m))
        placed[:, rows + 1, workers] = self.added[:, rows, workers]
        return np.asarray(placed.cumsum(axis=1)[:, :-1])

    def totals(self, plans: IntArray) -> FloatArray:
        """(p,) request-seconds of plans (p, n), each request with all before it on its worker."""
        rows = np.broadcast_to(np.arange(self.n), plans.shape)
        same = plans[:, :, None] == plans[:, None, :]
        earlier = np.tril(same, -1).astype(np.float64)  # k before i on the same worker
        before = np.matmul(earlier, self.added[:, rows, plans][..., None])[..., 0]
        costs = self.costs(rows.ravel(), plans.ravel(), before.reshape(3, -1))
        return np.asarray(costs.reshape(plans.shape).sum(axis=1), dtype=np.float64)


def first(requests: Requests, load: Load, count: int) -> Turns:
    """The first so many of a plan, valued as in the whole of it."""
    columns = {name: getattr(requests, name)[:count] for name in (*COLUMNS, *PAIRS)}
    forbidden = None if requests.forbidden is None else requests.forbidden[:count]
    few = replace(requests, **columns, forbidden=forbidden)
    return Turns(few, load, Pairs(requests, load))
