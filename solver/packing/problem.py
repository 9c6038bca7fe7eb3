"""What goes into the planner: one packing problem as plain data, validated once.

Indices: i over requests (n of them), j over workers (m of them).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from solver.arrays import BoolArray, FloatArray, IntArray, array, mask, vectors
from solver.errors import ProblemError

# Tells the seconds left until a deadline; the solver has no clock of its own.
SecondsLeft = Callable[[], float]

# Sums of some thousand doubles in different orders agree to far better than this, relative.
TOLERANCE = 1e-9
# Matrices beyond this are not searched for work times slowness: reading them is what takes time.
MOST_LOOKED_AT = 1 << 20


@dataclass(frozen=True, eq=False, slots=True)
class RelatedCosts:
    """Costs that are work times slowness: all that most problems are, and much less to look at.

    Attributes:
        work_s: (n,) seconds of each request at slowness 1.
        slowness: (m,) of each worker.
    """

    work_s: FloatArray
    slowness: FloatArray


@dataclass(frozen=True, eq=False)
class Problem:
    """One window to be packed (README section 3). Build it with `Problem.of` or `.related_of`.

    A worker's *load* is ``initial_s[j]`` plus the costs of the requests given to it. Its *finish*
    is its load, or the longest span among those requests if that is later. Minimised is the latest
    finish among the workers that get new work: the plain makespan says nothing in a small window,
    where it equals the largest backlog whatever one decides.

    Attributes:
        initial_s: (m,) seconds that worker j still has to do.
        kv_tokens: (n,) cached tokens that request i needs at its end.
        kv_capacity: (m,) cached tokens free on worker j; infinite where unknown.
        weight: (n,) what a second of request i's waiting is worth, relative to others.
        due_s: (n,) seconds from now until request i should be done; infinite: whenever.
        matrix_s, related_form: the costs, as a matrix or as work times slowness; one is there.
        spans_s: as `span_s`; None: no request takes longer than it costs.
    """

    initial_s: FloatArray
    kv_tokens: FloatArray
    kv_capacity: FloatArray
    weight: FloatArray
    due_s: FloatArray
    matrix_s: FloatArray | None
    related_form: RelatedCosts | None
    spans_s: FloatArray | None

    @classmethod
    def of(
        cls,
        cost_s: ArrayLike,
        initial_s: ArrayLike | None = None,
        *,
        span_s: ArrayLike | None = None,
        kv_tokens: ArrayLike | None = None,
        kv_capacity: ArrayLike | None = None,
        eligible: ArrayLike | None = None,
        prefix_saving_s: ArrayLike | None = None,
        weight: ArrayLike | None = None,
        due_s: ArrayLike | None = None,
    ) -> Problem:
        """Check shapes and values; anything but `cost_s` may be left out.

        `cost_s` is (n, m) seconds that request i adds to worker j, infinite or not `eligible` where
        j cannot serve i; a prefix in j's cache saves `prefix_saving_s` of it.

        Raises:
            ProblemError: naming the field that is wrong.
        """
        cost = array("cost_s", cost_s, 2)
        n, m = cost.shape
        if m == 0:
            raise ProblemError("cost_s: there is no worker")
        if prefix_saving_s is not None:
            saving = array("prefix_saving_s", prefix_saving_s, 2, (n, m))
            if np.any(saving > cost):
                i, j = np.argwhere(saving > cost)[0]
                raise ProblemError(f"prefix_saving_s: more than the cost of request {i} on {j}")
            cost = cost - saving
        if eligible is not None:
            allowed = mask("eligible", eligible, (n, m))
            cost = np.where(allowed, cost, np.inf)
        span = None if span_s is None else array("span_s", span_s, 2, (n, m))
        others = vectors(n, m, initial_s, kv_tokens, kv_capacity, weight, due_s)
        return cls(*others, matrix_s=cost, related_form=None, spans_s=span)

    @classmethod
    def related_of(
        cls,
        work_s: ArrayLike,
        slowness: ArrayLike,
        initial_s: ArrayLike | None = None,
        *,
        weight: ArrayLike | None = None,
        due_s: ArrayLike | None = None,
    ) -> Problem:
        """Request i costs worker j ``work_s[i] * slowness[j]``; no matrix is ever made of it.

        Raises:
            ProblemError: naming the field that is wrong.
        """
        work, slow = array("work_s", work_s, 1), array("slowness", slowness, 1)
        if not len(slow):
            raise ProblemError("slowness: there is no worker")
        if not (np.isfinite(work).all() and np.isfinite(slow).all() and slow.min() > 0):
            raise ProblemError("work_s, slowness: must be finite, and slowness > 0")
        others = vectors(len(work), len(slow), initial_s, None, None, weight, due_s)
        return cls(*others, matrix_s=None, related_form=RelatedCosts(work, slow), spans_s=None)

    def __getstate__(self) -> dict[str, Any]:
        """Without what can be computed anew."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def requests(self) -> int:
        """How many requests: n."""
        return len(self.kv_tokens)

    @property
    def workers(self) -> int:
        """How many workers: m."""
        return len(self.initial_s)

    @property
    def memory_limited(self) -> bool:
        """Whether some worker's memory is known to end."""
        return bool(np.isfinite(self.kv_capacity).any())

    @cached_property
    def cost_s(self) -> FloatArray:
        """(n, m) seconds that request i adds to worker j; infinite where j cannot serve i."""
        if self.matrix_s is not None:
            return self.matrix_s
        assert self.related_form is not None
        return np.outer(self.related_form.work_s, self.related_form.slowness)

    @cached_property
    def span_s(self) -> FloatArray:
        """(n, m) seconds that request i takes on worker j from start to end, were it alone."""
        return np.zeros((self.requests, self.workers)) if self.spans_s is None else self.spans_s

    @cached_property
    def related(self) -> RelatedCosts | None:
        """The costs as work times slowness, where that is what they are."""
        return self.related_form or _related(self.cost_s)

    @property
    def eligible(self) -> BoolArray:
        """(n, m) which worker may serve which request."""
        return np.isfinite(self.cost_s)

    @cached_property
    def alone_s(self) -> FloatArray:
        """(n, m) when request i ends on worker j if it is all that is added there."""
        return np.maximum(self.initial_s + self.cost_s, self.span_s)

    def costs_of(self, chosen: IntArray) -> FloatArray:
        """(n,) what each request costs the worker that is chosen for it."""
        if self.related_form is not None:
            return self.related_form.work_s * self.related_form.slowness[chosen]
        return self.cost_s[np.arange(self.requests), chosen]

    def spans_of(self, chosen: IntArray) -> FloatArray:
        """(n,) how long each request takes at least on the worker that is chosen for it."""
        if self.spans_s is None:
            return np.zeros(self.requests)
        return self.spans_s[np.arange(self.requests), chosen]


def _related(cost: FloatArray) -> RelatedCosts | None:
    if not cost.size or cost.size > MOST_LOOKED_AT or not np.isfinite(cost).all():
        return None
    largest = cost[int(cost[:, 0].argmax())]
    if largest.min() <= 0:
        return None
    slowness = largest / largest[0]
    work = np.ascontiguousarray(cost[:, 0])
    if np.abs(cost - np.outer(work, slowness)).max() > TOLERANCE * cost.max():
        return None
    return RelatedCosts(work, slowness)
