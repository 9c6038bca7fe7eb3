"""A Pyomo model as the matrix of its rows, on NumPy alone.

Pyomo's own compiler does the same with SciPy, a hundred megabytes more to install, and no faster.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import pyomo.core as pyo
from numpy.typing import NDArray
from pyomo.common.gc_manager import PauseGC
from pyomo.repn import generate_standard_repn

from solver.arrays import FloatArray

Whole = NDArray[np.int32]
# Pyomo has no types: one of its variables, and one of its rows.
Var = Any
Row = Any


@dataclass(frozen=True, slots=True)
class Program:
    """``lower <= A x <= upper``, A by columns; the least ``cost x`` with x between its bounds."""

    data: FloatArray
    index: Whole
    starts: Whole
    cost: FloatArray
    col_lower: FloatArray
    col_upper: FloatArray
    row_lower: FloatArray
    row_upper: FloatArray
    whole: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Compiled:
    """The numbers of a model, and what its columns and rows stand for."""

    numbers: Program
    columns: list[Var]
    rows: list[Row]


def compile_model(model: pyo.ConcreteModel) -> Compiled:
    """A linear model that minimizes one objective; columns and rows are in declared order."""
    with PauseGC():  # many small objects come and go
        columns = list(model.component_data_objects(pyo.Var))
        rows = list(model.component_data_objects(pyo.Constraint, active=True))
        (objective,) = model.component_data_objects(pyo.Objective, active=True)
        at = {id(var): k for k, var in enumerate(columns)}
        bodies = [_linear(row.body) for row in rows]
        constant = np.array([body.constant for body in bodies])
        cost = np.zeros(len(columns))
        goal = _linear(objective.expr)
        cost[[at[id(var)] for var in goal.linear_vars]] = goal.linear_coefs
        numbers = Program(
            *_by_columns(bodies, at),
            cost=cost,
            col_lower=_limits([var.lb for var in columns], -inf),
            col_upper=_limits([var.ub for var in columns], inf),
            row_lower=_limits([row.lb for row in rows], -inf) - constant,
            row_upper=_limits([row.ub for row in rows], inf) - constant,
            whole=np.array([var.is_integer() for var in columns]),
        )
    return Compiled(numbers, columns, rows)


def _linear(expression: object) -> Any:  # noqa: ANN401 - Pyomo's StandardRepn
    found = generate_standard_repn(expression, quadratic=False)
    assert found.is_linear(), f"not linear: {expression}"
    return found


def _by_columns(bodies: list[Any], at: dict[int, int]) -> tuple[FloatArray, Whole, Whole]:
    """The values but zeros, the row of each, and where each column begins and the last one ends."""
    values = np.array([value for body in bodies for value in body.linear_coefs], dtype=np.float64)
    column = np.array([at[id(var)] for body in bodies for var in body.linear_vars], dtype=np.int32)
    counts = [len(body.linear_vars) for body in bodies]
    row = np.repeat(np.arange(len(bodies), dtype=np.int32), counts)
    order = np.argsort(column, kind="stable")  # rows go on rising within a column
    order = order[values[order] != 0]
    starts = np.searchsorted(column[order], np.arange(len(at) + 1)).astype(np.int32)
    return values[order], row[order], starts


def _limits(limits: list[float | None], none: float) -> FloatArray:
    return np.array([none if limit is None else limit for limit in limits])
