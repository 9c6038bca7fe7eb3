"""What goes into the planner and what comes out: plain data, validated once.

Indices: i over requests (n of them), j over workers (m of them).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from solver.errors import ProblemError

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

# Tells the seconds left until a deadline; the solver has no clock of its own.
Left = Callable[[], float]

# Sums of some thousand doubles in different orders agree to far better than this, relative.
TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False, slots=True)
class Problem:
    """One window to be packed (method.md section 3). Build it with `Problem.of`.

    A worker's *load* is ``initial_s[j]`` plus the costs of the requests given to it. Its *finish*
    is its load, or the longest span among those requests if that is later. Minimised is the latest
    finish among the workers that get new work: the plain makespan says nothing in a small window,
    where it equals the largest backlog whatever one decides.

    Attributes:
        cost_s: (n, m) seconds that request i adds to worker j; infinite where j cannot serve i.
        initial_s: (m,) seconds that worker j still has to do.
        span_s: (n, m) seconds that request i takes on worker j from start to end, were it alone.
        kv_tokens: (n,) cached tokens that request i needs at its end.
        kv_capacity: (m,) cached tokens free on worker j; infinite where unknown.
    """

    cost_s: FloatArray
    initial_s: FloatArray
    span_s: FloatArray
    kv_tokens: FloatArray
    kv_capacity: FloatArray

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
    ) -> Problem:
        """Check shapes and values; anything but `cost_s` may be left out.

        Raises:
            ProblemError: naming the field that is wrong.
        """
        cost = _array("cost_s", cost_s, 2)
        n, m = cost.shape
        if m == 0:
            raise ProblemError("cost_s: there is no worker")
        if eligible is not None:
            allowed = np.asarray(eligible, dtype=np.bool_)
            if allowed.shape != (n, m):
                raise ProblemError(f"eligible: shape {allowed.shape}, expected {(n, m)}")
            cost = np.where(allowed, cost, np.inf)
        span = np.zeros((n, m)) if span_s is None else _array("span_s", span_s, 2, (n, m))
        initial = np.zeros(m) if initial_s is None else _array("initial_s", initial_s, 1, (m,))
        kv = np.zeros(n) if kv_tokens is None else _array("kv_tokens", kv_tokens, 1, (n,))
        room = np.full(m, np.inf)
        if kv_capacity is not None:
            room = _array("kv_capacity", kv_capacity, 1, (m,))
        if not np.all(np.isfinite(initial)):
            raise ProblemError("initial_s: must be finite")
        return cls(cost, initial, span, kv, room)

    @property
    def requests(self) -> int:
        """How many requests: n."""
        return int(self.cost_s.shape[0])

    @property
    def workers(self) -> int:
        """How many workers: m."""
        return int(self.cost_s.shape[1])

    @property
    def eligible(self) -> BoolArray:
        """(n, m) which worker may serve which request."""
        return np.isfinite(self.cost_s)

    @property
    def alone_s(self) -> FloatArray:
        """(n, m) when request i ends on worker j if it is all that is added there."""
        return np.maximum(self.initial_s + self.cost_s, self.span_s)


def _array(
    name: str, values: ArrayLike, dimensions: int, shape: tuple[int, ...] | None = None
) -> FloatArray:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ProblemError(f"{name}: not an array of numbers ({error})") from error
    if array.ndim == 1 and dimensions == 2 and array.size == 0:
        array = array.reshape(0, 1)
    if array.ndim != dimensions or (shape is not None and array.shape != shape):
        wanted = shape if shape is not None else f"{dimensions} dimensions"
        raise ProblemError(f"{name}: shape {array.shape}, expected {wanted}")
    if np.any(np.isnan(array)) or np.any(array < 0):
        raise ProblemError(f"{name}: must be >= 0 everywhere")
    return array


class Method(StrEnum):
    """Which step of the pipeline found a plan."""

    HEURISTIC = "heuristic"
    MILP = "milp"


@dataclass(frozen=True, slots=True)
class Plan:
    """Who goes where, how good that is, and how good it could be at best.

    Attributes:
        assignment: worker index of each request.
        finish_s: latest finish among workers with new work: what was minimised.
        finish_bound_s: no assignment finishes the new work before this.
        makespan_s: when the whole fleet is done, old work included.
        lower_bound_s: no assignment has a smaller makespan.
        total_finish_s: sum over requests of their worker's load; decides between equal finishes.
    """

    assignment: tuple[int, ...]
    finish_s: float
    finish_bound_s: float
    makespan_s: float
    lower_bound_s: float
    total_finish_s: float
    method: Method

    @property
    def gap_ratio(self) -> float:
        """How far the makespan is above its bound, as a fraction of the bound."""
        return _gap(self.makespan_s, self.lower_bound_s)

    @property
    def finish_gap_ratio(self) -> float:
        """How far the finish of the new work is above its bound, as a fraction of the bound."""
        return _gap(self.finish_s, self.finish_bound_s)

    def to_json(self) -> dict[str, Any]:
        """The answer's fields as other programs read them."""
        return {
            "assignment": list(self.assignment),
            "makespan_s": self.makespan_s,
            "lower_bound_s": self.lower_bound_s,
            "gap_ratio": self.gap_ratio,
            "finish_s": self.finish_s,
            "finish_bound_s": self.finish_bound_s,
            "finish_gap_ratio": self.finish_gap_ratio,
            "method": self.method.value,
        }


def _gap(value: float, bound: float) -> float:
    return max(0.0, value / bound - 1.0) if bound > 0 else 0.0


def measure(problem: Problem, assignment: Sequence[int], bound_s: float, method: Method) -> Plan:
    """Value an assignment; `bound_s` bounds the finish of the new work."""
    chosen = np.asarray(assignment, dtype=np.intp)
    rows = np.arange(problem.requests)
    load = problem.initial_s.copy()
    np.add.at(load, chosen, problem.cost_s[rows, chosen])
    backlog = float(problem.initial_s.max())
    finish = 0.0
    if problem.requests:
        spans = problem.span_s[rows, chosen]
        finish = float(max(load[chosen].max(), spans.max()))
    if finish < bound_s <= finish * (1 + TOLERANCE):
        bound_s = finish  # the two were summed in different orders
    return Plan(
        assignment=tuple(int(j) for j in chosen),
        finish_s=finish,
        finish_bound_s=bound_s,
        makespan_s=max(finish, backlog),
        lower_bound_s=max(bound_s, backlog),
        total_finish_s=float(load[chosen].sum()),
        method=method,
    )
