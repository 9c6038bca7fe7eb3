"""A model becomes the numbers that its formulas say, and needs nothing for it but NumPy."""

from __future__ import annotations

import subprocess
import sys
from math import inf

import numpy as np
import pyomo.environ as pyo
import pytest

from solver.arrays import FloatArray
from solver.packing.milp.compile import Program, compile_model


def model() -> pyo.ConcreteModel:
    m = pyo.ConcreteModel()
    m.K = pyo.RangeSet(0, 2)
    m.a = pyo.Var(m.K, domain=pyo.Binary)
    m.b = pyo.Var(bounds=(None, 7))
    m.unused = pyo.Var(domain=pyo.NonNegativeIntegers)
    m.goal = pyo.Objective(expr=2 * m.b + 3 * m.a[1] + 5)
    return m


def matrix(program: Program) -> FloatArray:
    found = np.zeros((len(program.row_lower), len(program.cost)))
    column = np.repeat(np.arange(len(program.cost)), np.diff(program.starts))
    found[program.index, column] = program.data
    return found


def test_columns_are_the_variables_as_declared() -> None:
    m = model()
    compiled = compile_model(m)
    assert [var.name for var in compiled.columns] == ["a[0]", "a[1]", "a[2]", "b", "unused"]
    numbers = compiled.numbers
    np.testing.assert_array_equal(numbers.cost, [0, 3, 0, 2, 0])
    np.testing.assert_array_equal(numbers.col_lower, [0, 0, 0, -inf, 0])
    np.testing.assert_array_equal(numbers.col_upper, [1, 1, 1, 7, inf])
    np.testing.assert_array_equal(numbers.whole, [True, True, True, False, True])


@pytest.mark.parametrize(
    ("row", "coefficients", "lower", "upper"),
    [
        (lambda m: m.a[0] + 4 * m.b <= 3, [1, 0, 0, 4, 0], -inf, 3),
        (lambda m: m.a[0] - m.b >= 3, [1, 0, 0, -1, 0], 3, inf),
        (lambda m: m.a[2] + 1 == 3 - m.b, [0, 0, 1, 1, 0], 2, 2),
        (lambda m: (1, m.a[0] + m.b + 2, 9), [1, 0, 0, 1, 0], -1, 7),
        (lambda m: m.b + 2 * (m.a[1] + m.b) <= 4, [0, 2, 0, 3, 0], -inf, 4),
        (lambda m: 0 * m.a[0] + m.b <= 4, [0, 0, 0, 1, 0], -inf, 4),
        (lambda m: m.a[0] - m.a[0] + m.b <= 4, [0, 0, 0, 1, 0], -inf, 4),
    ],
    ids=["most", "least", "equal", "between", "repeated", "zero", "cancelled"],
)
def test_a_row_is_its_formula(
    row: object, coefficients: list[float], lower: float, upper: float
) -> None:
    m = model()
    m.before = pyo.Constraint(expr=sum(m.a[k] for k in m.K) <= 1)
    m.row = pyo.Constraint(rule=row)
    compiled = compile_model(m)
    assert compiled.rows == [m.before, m.row]
    numbers = compiled.numbers
    np.testing.assert_array_equal(matrix(numbers), [[1, 1, 1, 0, 0], coefficients])
    assert (numbers.row_lower[1], numbers.row_upper[1]) == (lower, upper)
    assert len(numbers.data) == numbers.starts[-1] == 3 + np.count_nonzero(coefficients)


def test_a_model_that_is_not_linear_is_refused() -> None:
    m = model()
    m.row = pyo.Constraint(expr=m.a[0] * m.b <= 1)
    with pytest.raises(AssertionError, match=r"not linear: .*a\[0\]\*b"):
        compile_model(m)


def test_solving_asks_for_no_scipy() -> None:
    """It takes a hundred megabytes, and half a second at the start of each solver's process."""
    solve = """
import sys

asked = set()

class Watch:
    def find_spec(self, name, path=None, target=None):
        asked.add(name)

sys.meta_path.insert(0, Watch())
from router.lab.packing.instances import KINDS
from solver.cost.model import CostModel
from solver.batching.exact import mip
from solver.packing.milp import model

assert model.solve(KINDS["equal"](8, 2, 0), None).assignment is not None
assert mip.solve([(3, 4), (5, 2)], 1, CostModel(0.1, 0.1, 0.1, 0.1)).optimal
assert "pyomo" in asked and "scipy" not in asked
"""
    subprocess.run([sys.executable, "-c", solve], check=True)
