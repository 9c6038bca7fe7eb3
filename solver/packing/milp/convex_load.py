"""An assignment whose costs rise with the load: n requests, m workers, each request somewhere.

Request i costs ``place_s[i, j]`` on a worker j that nobody has come to yet, and ``more_s[j, k]``
beside if k have. These grow with k, so a place is only taken after those before it: the load is
convex, and the linear program has whole numbers at its corners (a flow from requests through
workers to places). Its rows are the same whatever the numbers, so a model is built once per shape,
by `convex_load_model`, and only its costs and limits are new each time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import highspy
import numpy as np
import pyomo.environ as pyo

from solver.arrays import FloatArray, IntArray
from solver.packing.milp.compile import Program, compile_model
from solver.packing.milp.highs import load_program
from solver.packing.milp.template import TEMPLATES, rounded_up


@dataclass(frozen=True, slots=True)
class ConvexLoad:
    """The optimum.

    Attributes:
        total_s: what the plan costs.
        workers: (n,) worker of each request.
        price: (m, k) at most 0: what it is worth that one more could have the k-th place.
    """

    total_s: float
    workers: IntArray
    price: FloatArray


def convex_load_model(place_s: FloatArray, more_s: FloatArray) -> pyo.ConcreteModel:
    """The model; (n, m) and (m, k), infinite where a request must not go and where no place is.

    The last place of each worker takes as many as come.
    """
    (n, workers), places = place_s.shape, more_s.shape[1]
    m = pyo.ConcreteModel()
    m.I, m.J = pyo.RangeSet(0, n - 1), pyo.RangeSet(0, workers - 1)
    m.K = pyo.RangeSet(0, places - 1)

    def limits(cost: float, most: float | None = 1.0) -> tuple[float, float | None]:
        return (0.0, most) if np.isfinite(cost) else (0.0, 0.0)

    def place(_: pyo.ConcreteModel, i: int, j: int) -> tuple[float, float | None]:
        return limits(place_s[i, j])

    def more(_: pyo.ConcreteModel, j: int, k: int) -> tuple[float, float | None]:
        return limits(more_s[j, k], None if k == places - 1 else 1.0)

    m.x = pyo.Var(m.I, m.J, bounds=place)  # request i goes to worker j
    m.y = pyo.Var(m.J, m.K, bounds=more)  # somebody comes to worker j after k others

    @m.Constraint(m.I)
    def once(m: pyo.ConcreteModel, i: int) -> object:
        return sum(m.x[i, j] for j in m.J) == 1

    @m.Constraint(m.J)
    def placed(m: pyo.ConcreteModel, j: int) -> object:
        return sum(m.x[i, j] for i in m.I) == sum(m.y[j, k] for k in m.K)

    m.cost = pyo.Objective(
        expr=sum(_finite(place_s[i, j]) * m.x[i, j] for i in m.I for j in m.J)
        + sum(_finite(more_s[j, k]) * m.y[j, k] for j in m.J for k in m.K)
    )
    return m


def solve_convex_load(
    place_s: FloatArray, more_s: FloatArray, left_s: Callable[[], float] | None = None
) -> ConvexLoad | None:
    """The cheapest plan; None if time ran out. Each request must be allowed somewhere."""
    (n, m), k = place_s.shape, more_s.shape[1]
    time_limit_s = None if left_s is None else left_s()
    h = load_program(program(place_s, more_s), relaxed=True, time_limit_s=time_limit_s)
    h.run()
    if h.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return None
    solution, padded = h.getSolution(), rounded_up(n)
    share = np.array(solution.col_value)[: padded * m].reshape(padded, m)[:n]
    price = np.minimum(0.0, np.array(solution.col_dual)[padded * m :].reshape(m, k))
    price[:, -1] = 0.0  # there is no limit to it
    return ConvexLoad(float(h.getInfo().objective_function_value), share.argmax(axis=1), price)


def program(place_s: FloatArray, more_s: FloatArray) -> Program:
    """The model's numbers, those of its shape patched with these costs and limits."""
    (n, m), k = place_s.shape, more_s.shape[1]
    numbers, idle = _template(rounded_up(n), m, k), rounded_up(n) - n
    cost = np.concatenate((place_s.ravel(), np.zeros(idle * m), more_s.ravel()))
    may = np.isfinite(cost)
    must = numbers.row_lower.copy()
    must[n : n + idle] = 0.0  # nobody
    return replace(
        numbers,
        cost=np.where(may, cost, 0.0),
        col_upper=np.where(may, numbers.col_upper, 0.0),
        row_lower=must,
        row_upper=must,
    )


@lru_cache(TEMPLATES)
def _template(n: int, m: int, k: int) -> Program:
    """Columns are x by requests, then y by workers; rows are `once`, then `placed`."""
    return compile_model(convex_load_model(np.ones((n, m)), np.ones((m, k)))).numbers


def _finite(cost: float) -> float:
    return float(cost) if np.isfinite(cost) else 0.0
