"""The pipeline beyond the first plan: never worse, never late by itself, and honest bounds."""

from __future__ import annotations

from itertools import count

import pytest

from router.lab.packing.instances import KINDS
from solver.errors import InfeasibleProblem
from solver.packing.check import check
from solver.packing.pipeline import first_plan, improvements, plan
from solver.packing.plan import Plan, Status
from solver.packing.problem import Problem, SecondsLeft


def clock(looks: int) -> SecondsLeft:
    """A deadline after so many looks at the clock."""
    seen = count()
    return lambda: max(0.0, (looks - next(seen)) / 1000)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("looks", [1, 3, 40, 400])
def test_every_improvement_is_checked_and_better_and_ends_with_its_time(
    kind: str, looks: int
) -> None:
    problem = KINDS[kind](60, 8, 2)
    best: Plan | None = first_plan(problem)
    for found in improvements(problem, best, clock(looks)):
        check(problem, found)
        if best is not None:
            assert found.finish_s <= best.finish_s * (1 + 1e-9)
            assert found.finish_bound_s >= best.finish_bound_s * (1 - 1e-9)
        best = found
    if looks == 400:
        assert best is not None
        assert best.finish_gap_ratio < 0.05


@pytest.mark.parametrize(
    ("kind", "most"),
    [("equal", 0.002), ("loaded", 0.002), ("affinity", 0.003), ("hardware", 0.003),
     ("noisy", 0.004), ("memory", 0.002), ("everything", 0.02)],
)  # fmt: skip
def test_close_to_the_bound_of_the_relaxation(kind: str, most: float) -> None:
    problem = KINDS[kind](200, 16, 0)
    assert plan(problem, clock(3000)).finish_gap_ratio <= most


@pytest.mark.parametrize("seed", range(4))
def test_few_choices_are_proven_optimal(seed: int) -> None:
    problem = KINDS["two-way"](40, 16, seed)
    assert plan(problem).status is Status.OPTIMAL


def test_what_does_not_fit_together_is_proven_where_sums_do_not_tell() -> None:
    problem = Problem.of([[1.0, 1.0, 1.0]] * 4, kv_tokens=[6, 6, 6, 6], kv_capacity=[10, 10, 10])
    assert first_plan(problem) is None
    with pytest.raises(InfeasibleProblem, match="together"):
        plan(problem)


def test_memory_that_is_too_small_in_sum_is_told_at_once() -> None:
    with pytest.raises(InfeasibleProblem, match="need 21 tokens of 20") as caught:
        first_plan(Problem.of([[1.0, 1.0]] * 3, kv_tokens=[6, 8, 7], kv_capacity=[10, 10]))
    assert caught.value.request == 0
