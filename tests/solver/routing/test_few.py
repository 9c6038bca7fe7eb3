"""Few requests on few workers: plain numbers and arrays come to the same plan."""

from __future__ import annotations

from dataclasses import fields
from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from solver.routing import columns, formulas
from solver.routing.asked import MOST_PAIRS, Asked
from solver.routing.assign import Assignment, assign, in_turn, plan_in_turn
from solver.routing.few import FewPairs, ManyPairs, Placed
from solver.routing.formulas import NOTHING
from solver.routing.found import FewInTurn
from solver.routing.lone import LonePairs
from solver.routing.objective import ALL, Pairs
from tests.solver.routing.windows import window

# Those that are decided on in plain numbers: few on few, or one on many, or many on one.
FEW = st.integers(1, MOST_PAIRS).flatmap(
    lambda n: st.builds(
        window, st.just(n), st.integers(1, MOST_PAIRS // n), st.integers(0, 1 << 32)
    )
)

ONE = st.builds(window, st.just(1), st.integers(1, 40), st.integers(0, 1 << 32))


def told(plan: Assignment) -> tuple[object, ...]:
    """All of it."""
    return plan.workers, plan.go, plan.costs_s, plan.planned, plan.bound_s


@given(FEW)
@settings(max_examples=60)
def test_plain_numbers_are_those_of_the_arrays_to_the_last_bit(asked: Asked) -> None:
    few, pairs = FewPairs(asked), Pairs(asked.requests, asked.load)
    nothing = np.zeros((3, pairs.m))
    assert few.costs_s == pairs.costs(ALL, ALL, nothing).tolist()
    may = pairs.is_open(ALL, nothing).tolist()
    assert [few.is_open(j, NOTHING) for j in range(pairs.m)] == may
    prefill_s = [[asked.prefill_s(i, j) for j in range(pairs.m)] for i in range(pairs.n)]
    assert prefill_s == pairs.prefill_s.tolist()


@given(FEW)
@settings(max_examples=30)
def test_so_are_those_that_were_valued_in_arrays_first(asked: Asked) -> None:
    few, many, there = FewPairs(asked), ManyPairs(asked), (1.0, 0.2, 700.0)
    assert many.costs_s == few.costs_s
    for i, j in product(range(few.n), range(few.m)):
        assert many.cost(i, j, there) == few.cost(i, j, there)
        assert many.sizes(i, j) == few.sizes(i, j)
        assert many.is_open(j, there) == few.is_open(j, there)


@given(FEW | ONE)
@settings(max_examples=100)
def test_the_plan_is_the_same(asked: Asked) -> None:
    assert told(plan_in_turn(asked)) == told(assign(asked.requests, asked.load))


@given(ONE, st.lists(st.tuples(*[st.integers(0, 3).map(float)] * 3), min_size=40, max_size=40))
@settings(max_examples=60)
def test_so_are_one_requests_numbers_where_workers_are_arrays(
    asked: Asked, placed: list[Placed]
) -> None:
    few, lone = FewPairs(asked), LonePairs(asked)
    assert lone.costs_s == few.costs_s
    assert lone.open_at_first() == few.open_at_first()
    assert lone.all_wait_at_first() == few.all_wait_at_first()
    for j, there in zip(range(few.m), placed, strict=False):
        assert lone.cost(0, j, there) == few.cost(0, j, there)
        assert lone.sizes(0, j) == few.sizes(0, j)
        assert lone.is_open(j, there) == few.is_open(j, there)
    for pairs in (few, lone):
        assert told(in_turn(FewInTurn(pairs))) == told(assign(asked.requests, asked.load))


@given(FEW)
@settings(max_examples=60)
def test_one_of_them_alone_is_a_row_of_all(asked: Asked) -> None:
    for i in range(len(asked.rows)):
        alone = asked.only(i).requests
        for field in fields(alone):
            mine, all_of_them = getattr(alone, field.name), getattr(asked.requests, field.name)
            assert mine is all_of_them or mine.tolist() == all_of_them[i : i + 1].tolist()


# Some of them equal, and some beyond all levels.
SECONDS = st.sampled_from([0.0, 0.0, 0.3, 2.5, 1e9]) | st.floats(0.0, 60.0)


@given(st.integers(1, 300), st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=40))
def test_the_level_is_that_of_plain_numbers_to_the_last_bit(
    count: int, workers: list[tuple[float, float]]
) -> None:
    busy_s, each_s = zip(*workers, strict=True)
    found = columns.level_s(count, np.array(busy_s), np.array(each_s))
    assert found == formulas.level_s(count, busy_s, each_s)
