"""A patched model is the model: the same numbers as one that is built anew, the same optimum."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.lab.packing.instances import KINDS
from solver.arrays import BoolArray
from solver.packing.bounds import packing_bound
from solver.packing.milp.compile import Program, compile_model
from solver.packing.milp.highs import load_program
from solver.packing.milp.model import admissible_pairs, latest_finish_s, makespan_model
from solver.packing.milp.template import Columns, Template, template
from solver.packing.problem import Problem


def dense(program: Program) -> tuple[object, ...]:
    matrix = np.zeros((len(program.row_lower), len(program.cost)))
    column = np.repeat(np.arange(len(program.cost)), np.diff(program.starts))
    matrix[program.index, column] = program.data
    return (
        matrix, program.cost, program.col_lower, program.col_upper, program.row_lower,
        program.row_upper, program.whole,
    )  # fmt: skip


def fresh(problem: Problem, allowed: BoolArray, bound_s: float) -> tuple[Program, Columns]:
    model = makespan_model(problem, allowed, bound_s)
    compiled = compile_model(model)
    return compiled.numbers, Columns.of(compiled, model)


@st.composite
def shapes(draw: st.DrawFn) -> Problem:
    n, m = 8 * draw(st.integers(1, 3)), draw(st.integers(2, 5))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    return Problem.of(
        rng.uniform(1, 9, (n, m)),
        rng.uniform(0, 2, m),
        span_s=rng.uniform(1, 12, (n, m)) if draw(st.booleans()) else None,
        kv_tokens=rng.integers(1, 9, n),
        kv_capacity=rng.integers(4 * n, 9 * n, m) if draw(st.booleans()) else None,
    )


@given(shapes())
@settings(max_examples=25)
def test_a_patched_model_equals_one_that_is_built_anew(problem: Problem) -> None:
    """Sizes that need no idle requests, and all pairs admissible: equal to the last number."""
    allowed = np.ones((problem.requests, problem.workers), dtype=np.bool_)
    bound = packing_bound(problem)
    made = template(makespan_model, problem)
    assert made.requests == problem.requests
    anew, columns = fresh(problem, allowed, bound)
    for patched, expected in zip(
        dense(made.patched(problem, allowed, bound)), dense(anew), strict=True
    ):
        np.testing.assert_allclose(patched, expected)  # type: ignore[call-overload]
    assert made.columns.t == columns.t
    np.testing.assert_array_equal(made.columns.x, columns.x)


@pytest.mark.parametrize("kind", ["affinity", "two-way", "hardware", "memory", "everything"])
@pytest.mark.parametrize("requests", [21, 40, 61])
def test_idle_requests_and_missing_pairs_change_no_optimum(kind: str, requests: int) -> None:
    problem = KINDS[kind](requests, 6, requests)
    bound = packing_bound(problem)
    allowed = admissible_pairs(problem, latest_finish_s(problem))
    allowed &= np.random.default_rng(0).random(allowed.shape) < 0.9
    allowed[np.arange(requests), problem.cost_s.argmin(axis=1)] = True
    made: Template = template(makespan_model, problem)
    values = []
    for program in (made.patched(problem, allowed, bound), fresh(problem, allowed, bound)[0]):
        h = load_program(program, relaxed=True)
        h.run()
        values.append(h.getInfo().objective_function_value)
    assert values[0] == pytest.approx(values[1], rel=1e-7)


def test_windows_of_similar_sizes_share_a_template() -> None:
    a, b = (template(makespan_model, KINDS["equal"](n, 8, 0)) for n in (195, 200))
    assert a is b
