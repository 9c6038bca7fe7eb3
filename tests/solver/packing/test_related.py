"""The fast path: every request once, near the bound, whatever speeds and backlogs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.lab.packing.instances import KINDS
from solver.packing.check import check
from solver.packing.pipeline import first_plan
from solver.packing.plan import GOOD_ENOUGH
from solver.packing.problem import Problem
from solver.packing.related import Packing

works = st.lists(st.floats(0.0, 100.0), min_size=1, max_size=60)


@given(works, st.lists(st.floats(-50.0, 200.0), min_size=1, max_size=9), st.randoms())
def test_exchanges_lose_nobody(work: list[float], capacity: list[float], rng: object) -> None:
    order = list(range(len(work)))
    rng.shuffle(order)  # type: ignore[attr-defined]
    packing = Packing(work, capacity)
    packing.place(order)
    met = packing.repair()
    load = [0.0] * len(capacity)
    for i, j in enumerate(packing.assignment()):
        load[j] += work[i]
    if met:
        backlogged = [room < 0 and load[j] == 0 for j, room in enumerate(capacity)]
        over = [load[j] - room for j, room in enumerate(capacity) if not backlogged[j]]
        assert max(over, default=0.0) <= 1e-9 * sum(work) + 1e-9


@pytest.mark.parametrize("kind", ["equal", "loaded"])
@pytest.mark.parametrize("size", [(64, 4), (200, 8), (500, 32), (1319, 200), (10_000, 1000)])
def test_a_thousandth_above_the_bound_with_five_or_more_a_worker(
    kind: str, size: tuple[int, int]
) -> None:
    for seed in range(3):
        problem = KINDS[kind](*size, seed)
        found = first_plan(problem)
        assert found is not None
        check(problem, found)
        assert found.finish_gap_ratio <= GOOD_ENOUGH * (1 + 1e-9)


@given(
    st.lists(st.floats(0.01, 100.0), min_size=1, max_size=30),
    st.lists(st.floats(0.1, 10.0), min_size=1, max_size=6),
    st.lists(st.floats(0.0, 500.0), min_size=6, max_size=6),
)
@settings(max_examples=100)
def test_work_times_slowness_is_the_same_problem_as_its_matrix(
    work: list[float], slowness: list[float], initial: list[float]
) -> None:
    backlog = initial[: len(slowness)]
    short = Problem.related_of(work, slowness, backlog)
    full = Problem.of(np.outer(work, slowness), backlog)
    assert full.related is not None
    a, b = first_plan(short), first_plan(full)
    assert a is not None
    assert b is not None
    check(full, a)
    check(short, b)
    assert a.finish_s == pytest.approx(b.finish_s, rel=1e-6)
    assert a.finish_bound_s == pytest.approx(b.finish_bound_s, rel=1e-6)
