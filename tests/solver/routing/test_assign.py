"""Plans made in turn: at once where a slot is as good, held back only where that pays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver.batching.targets import NO_TARGETS, Targets
from solver.routing.assign import assign
from solver.routing.columns import Requests
from solver.routing.formulas import QUEUED_S
from solver.routing.objective import ALL, Pairs
from solver.routing.problem import Job
from tests.solver.routing.test_objective import JOBS, VIEWS, load, requests, view

PERSON = Targets(2.0, 0.1)


def spread(jobs: list[Job], *views: object) -> list[int]:
    """How many each worker is sent."""
    plan = assign(requests(*jobs, workers=len(views)), load(*views))  # type: ignore[arg-type]
    sent = [j for j, go in zip(plan.workers, plan.go, strict=True) if go]
    return [sent.count(j) for j in range(len(views))]


@given(st.lists(JOBS, min_size=1, max_size=6), st.lists(VIEWS, min_size=1, max_size=4))
@settings(max_examples=150)
def test_plans_are_whole_add_up_and_keep_to_the_room(jobs: list[Job], views: list[object]) -> None:
    asked, there = requests(*jobs, workers=len(views)), load(*views)  # type: ignore[arg-type]
    plan, pairs = assign(asked, there), Pairs(asked, there)
    assert len(plan.workers) == len(plan.go) == len(jobs)
    assert all(0 <= j < len(views) for j in plan.workers)
    placed, total_s = np.zeros((3, len(views))), 0.0
    for i, j in enumerate(plan.workers[: plan.planned]):
        total_s += sum(float(term[j]) for term in pairs.terms(i, ALL, placed))
        placed[:, j] += pairs.sizes(i, j)
    assert plan.total_s == pytest.approx(total_s)
    assert not any(plan.go[plan.planned :])
    assert plan.bound_s <= plan.total_s * (1 + 1e-9)
    room = there.room.copy()
    for i, j in enumerate(plan.workers):
        if plan.go[i]:
            assert room[j] > 0
            room[j] -= jobs[i].sequences


@given(
    st.lists(st.builds(Job, st.integers(1, 300), st.floats(1, 2000)), min_size=1, max_size=8),
    st.lists(st.integers(0, 24), min_size=2, max_size=4),
    st.sampled_from([PERSON, NO_TARGETS]),
)
@settings(max_examples=150)
def test_nobody_waits_beside_an_equal_worker_with_a_free_slot(
    jobs: list[Job], flying: list[int], targets: Targets
) -> None:
    asked = [replace(job, targets=targets) for job in jobs]
    views = [view(n) for n in flying]
    plan = assign(requests(*asked, workers=len(views)), load(*views))
    free = sum(max(0, one.slots - one.in_flight) for one in views)
    assert sum(plan.go) >= min(len(jobs), free)


def test_a_worker_so_slow_that_the_first_token_is_late_there_gets_nothing() -> None:
    assert spread([Job(50, 50.0, targets=PERSON)], view(16), view(0, speed=1e-4)) == [1, 0]


def test_held_back_only_while_that_ends_it_sooner() -> None:
    """The longer the queue at the fast one, the less it is worth waiting for."""
    sent = [
        spread([Job(50, 400.0)], view(18 + more, speed=4.0), view(0, speed=0.5))[1]
        for more in range(0, 2000, 200)
    ]
    assert sent[0] == 0
    assert sent[-1] == 1
    assert sent == sorted(sent)


@pytest.mark.parametrize("flying", [16, 17, 18, 40])
@pytest.mark.parametrize("output", [40.0, 400.0])
def test_who_is_awaited_does_not_stand_beside_a_free_slot_that_keeps_its_targets(
    flying: int, output: float
) -> None:
    """Whether the fast one still takes somebody ahead or not, and in any number of requests."""
    here = [view(flying, speed=4.0), view(0, speed=0.5)]
    for count in (1, 4):
        assert spread([Job(50, output, targets=Targets(2.0, 1.0))] * count, *here) == [0, count]
    bulk = [Job(50, output, weight=0.25)] * 4
    if flying <= 18:
        assert spread(bulk, *here)[1] < 4, "nobody waits for these: the fast one ends them sooner"
    late = [Job(50, output, targets=Targets(2.0, 0.001))]
    assert spread(late, *here)[1] <= 1


def test_who_is_awaited_does_not_wait_for_memory_beside_a_place_that_is_not_twice_as_dear() -> None:
    """The fast one has slots, and no memory."""
    awaited, full = Job(50, 100.0, targets=Targets(2.0, 1.0)), replace(view(8, speed=4.0), kv_now=0)
    dearer = []
    for slow in (3.5, 3.0, 2.5, 2.0, 1.5, 1.0, 0.5):
        here = [full, view(0, speed=slow)]
        asked = requests(awaited, workers=2)
        there = Pairs(asked, load(*here)).costs_at_first()[0]
        dearer.append(there[1] / there[0])
        assert spread([awaited], *here) == [0, int(dearer[-1] <= 2.0)]
    assert dearer[0] < 1.5 < dearer[2] < 2.0 < dearer[-1]
    late = replace(awaited, targets=Targets(2.0, 0.001))
    assert spread([late], full, view(0, speed=2.5)) == [0, 0], "it keeps no target there either"


@pytest.mark.parametrize("prompt", [20, 2000])
def test_a_burst_on_equal_workers_is_balanced(prompt: int) -> None:
    counts = spread([Job(prompt, 100.0, targets=PERSON)] * 12, *(view() for _ in range(4)))
    assert max(counts) - min(counts) <= 1
    assert sum(counts) == 12 or prompt > 20


def test_long_prompts_do_not_pile_up() -> None:
    """A worker with seconds of prefill before it is closed, slots or not."""
    busy = replace(view(), prefill_s=QUEUED_S + 0.1)
    assert spread([Job(100, 10.0, targets=PERSON)], busy) == [0]
    jobs = [Job(8000, 10.0, targets=PERSON)] * 8
    counts = spread(jobs, view(), view())
    assert counts == [1, 1]


def test_answers_of_several_choices_take_as_many_slots() -> None:
    counts = spread([Job(40, 400.0, 8, targets=PERSON)] * 4, view(), view())
    assert counts == [2, 2]


def test_a_cached_prompt_draws_and_a_full_worker_repels() -> None:
    jobs, views = [Job(4000, 50.0, targets=PERSON)], [view(2), view(2)]
    asked = Requests.of(jobs, [0.0], 2, cached=np.array([[0.0, 3900.0]]))
    assert assign(asked, load(*views)).workers == (1,)
    full = replace(view(18), prefill_s=0.9)
    assert assign(asked, load(view(0), full)).workers == (0,)
