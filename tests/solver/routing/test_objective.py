"""The objective adds up, grows with what is there, and weighs what it says."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver.batching.targets import NO_TARGETS, Targets
from solver.cost.profiles import PROFILES
from solver.errors import ProblemError
from solver.routing.columns import Load, Requests
from solver.routing.formulas import FIRST_TOKEN, IN_TIME, LATE
from solver.routing.objective import ALL, TERMS, Pairs, Term
from solver.routing.problem import Job, WorkerView

COST = PROFILES["llama-2-70b-a100-tp4"].cost


def view(flying: int = 0, slots: int = 16, speed: float = 1.0, **known: float) -> WorkerView:
    """A worker that runs what it can of what is in flight there."""
    running = min(flying, slots)
    plain = WorkerView(
        COST.scaled(1 / speed),
        slots,
        flying,
        0.1 * flying,
        0.0,
        None,
        running=running,
        left_tokens=100.0 if running else 0.0,
        kv_tokens=500.0 * running,
        room=max(0, slots + 2 - flying),
    )
    return replace(plain, **known)  # type: ignore[arg-type]


def load(*views: WorkerView, level_s: float = 10.0) -> Load:
    return Load.of(views, np.zeros((2, len(views))), level_s)


def requests(*jobs: Job, workers: int, waited: float = 0.0) -> Requests:
    return Requests.of(jobs, [waited] * len(jobs), workers)


def row(job: Job, *views: WorkerView, waited: float = 0.0, level_s: float = 10.0) -> np.ndarray:
    """(terms, m) of one request."""
    asked, there = requests(job, workers=len(views), waited=waited), load(*views, level_s=level_s)
    return np.array(Pairs(asked, there).terms(0, ALL, np.zeros((3, len(views)))))


VIEWS = st.builds(
    view,
    flying=st.integers(0, 40),
    slots=st.integers(1, 32),
    speed=st.sampled_from([0.5, 1.0, 4.0]),
    prefill_s=st.floats(0, 5),
    kv_now=st.floats(-1e4, 1e6),
)
JOBS = st.builds(
    Job,
    prompt_tokens=st.integers(1, 50_000),
    expected_tokens=st.floats(1, 5000),
    sequences=st.integers(1, 4),
    weight=st.sampled_from([0.25, 1.0, 4.0]),
    overrun_tokens=st.floats(0, 3000),
    targets=st.sampled_from([Targets(), Targets(2.0, 0.1), Targets(0.1), Targets(tpot_s=0.05)]),
)


@given(st.lists(JOBS, min_size=1, max_size=4), st.lists(VIEWS, min_size=1, max_size=4), st.data())
@settings(max_examples=150)
def test_all_terms_are_costs_and_grow_with_what_is_placed_before(
    jobs: list[Job], views: list[WorkerView], data: st.DataObject
) -> None:
    pairs = Pairs(requests(*jobs, workers=len(views), waited=1.0), load(*views))
    placed = np.zeros((3, pairs.m))
    before = np.array(pairs.terms(ALL, ALL, placed))
    assert np.isfinite(before).all()
    assert (before >= 0).all()
    i, j = data.draw(st.integers(0, len(jobs) - 1)), data.draw(st.integers(0, len(views) - 1))
    placed[:, j] += pairs.sizes(i, j)
    after = np.array(pairs.terms(ALL, ALL, placed))
    assert (after >= before - 1e-9 * (1 + before)).all()
    np.testing.assert_allclose(np.array(pairs.terms(ALL, j, placed[:, j])), after[:, :, j])
    np.testing.assert_allclose(np.array(pairs.terms(i, ALL, placed)), after[:, i])
    np.testing.assert_allclose(pairs.costs(ALL, ALL, placed), after.sum(axis=0))


@pytest.mark.parametrize(
    ("term", "dearer"),
    [
        (Term.WAIT, {"flying": 20}),
        (Term.WAIT, {"kv_now": 10.0, "flying": 4}),
        (Term.PREFILL, {"prefill_s": 1.0}),
        (Term.DECODE, {"speed": 0.5}),
        (Term.TAIL, {"speed": 0.5}),
        (Term.OTHERS, {"flying": 8}),
        (Term.SLOT, {"flying": 8}),
        (Term.LATE, {"prefill_s": 3.0}),
        (Term.LATE, {"speed": 0.25}),
        (Term.MAKESPAN, {"speed": 0.25}),
    ],
)
def test_a_term_tells_workers_apart_by_what_it_is_about(
    term: Term, dearer: dict[str, float]
) -> None:
    job = Job(200, 300.0, targets=Targets(2.0, 0.1))
    found = row(job, view(), view(**dearer), level_s=5.0)  # type: ignore[arg-type]
    assert found[term, 1] > found[term, 0]


def test_who_comes_before_it_is_done_waits_for_its_prefill() -> None:
    """Counted one by one: requests come evenly, and each waits for what is left of it."""
    rate, queued_s = 1000.0, 1.0
    here = view(prefill_s=queued_s)
    lately = np.array([[rate], [0.5]])
    busy, idle = (Load.of([here], seen, 10.0) for seen in (lately, 0.0 * lately))
    job = Job(4000, 100.0)
    asked = requests(job, workers=1)
    own_s = float(Pairs(asked, busy).prefill_s[0, 0])
    lost = [
        float(Pairs(asked, there).terms(0, 0, np.zeros(3))[Term.OTHERS]) for there in (busy, idle)
    ]
    done_s = queued_s + COST.alpha_p_s + own_s
    waited_s = sum(min(own_s, done_s - k / rate) for k in range(int(done_s * rate)))
    assert lost[1] == 0.0, "nobody runs there, and nobody comes"
    assert lost[0] == pytest.approx((1.0 + FIRST_TOKEN) * waited_s, rel=0.02)


def test_slots_of_those_who_have_not_begun_are_not_free_at_once() -> None:
    """A burst on an idle fleet: who is there, or like those who come, runs as long as it takes."""
    job = Job(200, 300.0)
    running, begun = row(job, view(20), view(20, running=0, left_tokens=100.0))[Term.WAIT]
    assert begun == pytest.approx(running)
    asked, there = requests(*[job] * 40, workers=1), load(view())
    pairs, placed = Pairs(asked, there), np.zeros(3)
    for i in range(20):
        placed += pairs.sizes(i, 0)
    rest = float(pairs.terms(20, 0, placed)[Term.DECODE]) / job.expected_tokens
    ends_s = (21 - 16) * job.expected_tokens / 16 * rest
    assert pairs.terms(20, 0, placed)[Term.WAIT] == pytest.approx((1 + FIRST_TOKEN) * ends_s)


def test_priority_weighs_its_own_seconds_and_not_those_of_others() -> None:
    plain, urgent = (row(Job(200, 300.0, weight=weight), view(8)) for weight in (1.0, 4.0))
    own = [term for term in Term if term not in (Term.OTHERS, Term.SLOT, Term.MAKESPAN)]
    np.testing.assert_allclose(urgent[own], 4 * plain[own])
    rest = [Term.OTHERS, Term.SLOT, Term.MAKESPAN]
    np.testing.assert_allclose(urgent[rest], plain[rest])


def test_what_must_not_be_is_never_the_best() -> None:
    asked = Requests.of([Job(200, 300.0)], [0.0], 2, eligible=[frozenset({1})])
    pairs = Pairs(asked, load(view(speed=4.0), view(speed=0.5)))
    alone = Pairs(Requests.of([Job(200, 300.0)], [0.0], 1), load(view(speed=0.5)))
    there = np.zeros((3, 2))
    assert pairs.costs(0, 1, there[:, 1]) == pytest.approx(alone.costs(0, 0, there[:, 0]))
    assert np.isinf(pairs.costs(0, ALL, np.zeros((3, 2)))).tolist() == [True, False]


def test_a_fleet_without_workers_is_an_error() -> None:
    with pytest.raises(ProblemError, match="no worker"):
        Load.of([], np.zeros((2, 0)), 1.0)


def test_every_term_has_a_name_and_a_line_in_the_module() -> None:
    from solver.routing import objective

    assert objective.__doc__ is not None
    assert all(f"- {name}:" in objective.__doc__ for name in TERMS)


@given(VIEWS, JOBS, st.floats(0.001, 1.0))
def test_what_others_lose_counts_the_more_the_less_is_left_of_their_time(
    view: WorkerView, job: Job, tpot_s: float
) -> None:
    here, nothing = load(view), np.zeros((3, 1))
    free, asked = (
        Pairs(Requests.of([replace(job, targets=targets)], [0.0], 1), here)
        for targets in (NO_TARGETS, Targets(tpot_s=tpot_s))
    )
    terms, other = free.terms(0, ALL, nothing), asked.terms(0, ALL, nothing)
    rest_s = terms[Term.DECODE] / (job.weight * job.expected_tokens / job.sequences)
    price = IN_TIME + LATE * np.minimum(1.0, rest_s / tpot_s) ** 3
    assert other[Term.OTHERS] == pytest.approx(price * terms[Term.OTHERS], rel=1e-6, abs=1e-9)


@given(st.lists(VIEWS, min_size=2, max_size=4), JOBS, st.data())
def test_what_another_worker_has_costs_others_its_prefill_once_more(
    views: list[WorkerView], job: Job, data: st.DataObject
) -> None:
    """As much as if it were longer by that, but for its own time."""
    job = replace(job, targets=NO_TARGETS)
    share = st.floats(0, 1)
    cached = np.array([[data.draw(share) * job.prompt_tokens for _ in views]])
    there = load(*views)
    told = Requests.of([job], [0.0], len(views), cached)
    alone = replace(told, twice=np.zeros_like(told.twice))
    more, without = (
        np.array(Pairs(one, there).terms(0, ALL, np.zeros((3, len(views)))))
        for one in (told, alone)
    )
    prefill_s = there.cost.beta_p_s * (cached.max() - cached[0])
    stalled = np.minimum(there.running, there.slots - 1)
    assert more[Term.OTHERS] - without[Term.OTHERS] == pytest.approx(
        prefill_s * (stalled + 1 + FIRST_TOKEN), rel=1e-6, abs=1e-6
    )
    own = [term for term in Term if term is not Term.OTHERS]
    assert more[own] == pytest.approx(without[own])


def test_a_late_answer_cannot_be_lost_twice() -> None:
    """The first seconds beyond a target are dear, further ones are seconds."""

    def lost_s(late_s: float) -> float:
        prefill_s = 2.0 + late_s - COST.prefill_s(200)
        return float(
            row(Job(200, 300.0, targets=Targets(2.0, 1.0)), view(prefill_s=prefill_s))[Term.LATE, 0]
        )

    at, first, later = lost_s(0.0), lost_s(0.1) - lost_s(0.0), lost_s(90.1) - lost_s(90.0)
    assert first == pytest.approx(LATE * 0.1, rel=0.02)
    assert 0.1 < later < 0.12
    assert lost_s(90.0) - at == pytest.approx(90.0 + 63.0)


def test_a_first_token_costs_the_more_the_nearer_it_comes_to_its_target() -> None:
    """From nothing to what a second beyond it costs, and nothing where there is none."""

    def near_s(queued_s: float, ttft_s: float) -> float:
        job = Job(200, 300.0, targets=Targets(ttft_s, 1.0))
        return float(row(job, view(prefill_s=queued_s))[Term.LATE, 0])

    steps = [near_s(k / 10 + 0.1, 2.0) - near_s(k / 10, 2.0) for k in range(18)]
    assert steps == sorted(steps)
    assert 0.0 < steps[0] < steps[-1] < LATE * 0.1
    assert steps[-1] == pytest.approx(LATE * 0.1, rel=0.1)
    assert near_s(1.0, inf) == 0.0
