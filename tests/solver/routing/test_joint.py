"""Joint plans: bound <= any plan, optimum <= joint plan <= first plan, checked, in time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.batching.targets import NO_TARGETS, Targets
from solver.cost.model import CostModel
from solver.errors import InvalidPlan
from solver.routing import joint
from solver.routing.assign import Assignment, assign
from solver.routing.check import check
from solver.routing.columns import Load, Requests
from solver.routing.joint import Question, improvements, supersedes, worth_improving
from solver.routing.objective import ALL
from solver.routing.places import Places
from solver.routing.problem import Job, WorkerView
from solver.routing.turns import Turns, first
from tests.solver.routing.windows import question, questions, window

ROUNDING = 1e-9


def checked(asked: Question, plan: Assignment) -> Assignment:
    check(asked, plan)
    return plan


def planned(asked: Question) -> Turns:
    """What the plan is about."""
    plan = assign(asked.requests, asked.load)
    return first(asked.requests, asked.load, plan.planned)


def optimum_s(turns: Turns) -> float:
    """The least that any plan costs, rules or not: all of them are tried."""
    plans = np.array(list(product(range(turns.m), repeat=turns.n)), dtype=np.intp)
    return float(turns.totals(plans).min())  # infinite where it must not go


@given(asked=questions())
def test_between_the_optimum_and_the_first_plan(asked: Question) -> None:
    told = plan = checked(asked, assign(asked.requests, asked.load))
    for better in improvements(asked, plan):
        assert supersedes(checked(asked, better), told)
        assert better.bound_s >= told.bound_s
        assert better.planned == plan.planned
        told = better
    least = optimum_s(planned(asked))
    assert told.bound_s <= least * (1 + ROUNDING) + ROUNDING
    assert least <= told.total_s * (1 + ROUNDING)
    assert told.total_s <= plan.total_s * (1 + ROUNDING)


@given(asked=questions(), busiest=st.integers(1, 6), data=st.data())
def test_no_prices_of_places_bound_more_than_the_optimum(
    asked: Question, busiest: int, data: st.DataObject
) -> None:
    turns = planned(asked)
    if not turns.n:
        return
    places = Places(turns, busiest)
    price = -np.random.default_rng(data.draw(st.integers(0, 1000))).exponential(
        data.draw(st.sampled_from([0.1, 10.0, 1000.0])), (turns.m, places.count)
    )
    price[:, -1] = 0.0
    least = optimum_s(turns)
    assert places.bound_s(price)[0] <= least * (1 + ROUNDING) + ROUNDING
    assert places.prove(price, least, lambda: 1.0) <= least * (1 + ROUNDING) + ROUNDING


def test_where_nothing_binds_the_joint_plan_is_mostly_the_best_there_is() -> None:
    """Of forty windows; the first plan is it less often."""
    firsts = best = 0
    for seed in range(40):
        asked = question(6, 3, seed)
        asked = replace(asked, requests=replace(asked.requests, ttft_s=np.full((6, 1), np.inf)))
        asked.load.room[:] = 9.0
        asked.load.queued_s[:], asked.load.kv_now[:] = 0.0, np.inf
        plan = assign(asked.requests, asked.load)
        better = [plan, *improvements(asked, plan)][-1]
        least = optimum_s(planned(asked)) * 1.001
        firsts, best = firsts + (plan.total_s <= least), best + (better.total_s <= least)
    assert firsts < best
    assert best >= 36


@given(asked=questions(12, 4), looks=st.integers(0, 30))
def test_it_ends_soon_after_its_deadline_wherever_that_falls(asked: Question, looks: int) -> None:
    """Time is over after so many looks at the clock; not many more are needed to notice."""
    seen = 0

    def left_s() -> float:
        nonlocal seen
        seen += 1
        return float(seen <= looks)

    plan = assign(asked.requests, asked.load)
    for better in improvements(asked, plan, left_s):
        checked(asked, better)
    assert seen <= looks + 8


@given(asked=questions())
def test_one_request_alone_needs_no_joint_plan(asked: Question) -> None:
    alone = Question(first(asked.requests, asked.load, 1).requests, asked.load)
    assert not list(improvements(alone, assign(alone.requests, alone.load)))


BUSY = next(
    asked
    for asked in (question(6, 3, seed) for seed in range(1000))
    if assign(asked.requests, asked.load).planned == 6
    and 0 < sum(assign(asked.requests, asked.load).go) < 6
    and asked.requests.forbidden is not None
    and asked.requests.forbidden.any()
)


def forbidden(plan: Assignment) -> Assignment:
    assert BUSY.requests.forbidden is not None
    i, j = np.argwhere(BUSY.requests.forbidden)[0]
    return replace(plan, workers=(*plan.workers[:i], int(j), *plan.workers[i + 1 :]))


BROKEN: dict[str, Callable[[Assignment], Assignment]] = {
    "not a plan": lambda plan: replace(plan, workers=plan.workers[1:]),
    "of 6": lambda plan: replace(plan, planned=7),
    "no worker": lambda plan: replace(plan, workers=(3, *plan.workers[1:])),
    "may not serve": forbidden,
    "closed": lambda plan: replace(plan, go=(True,) * 6),
    "total_s": lambda plan: replace(plan, costs_s=tuple(0.9 * cost_s for cost_s in plan.costs_s)),
    "beaten by the plan itself": lambda plan: replace(plan, bound_s=plan.total_s * 1.01),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_plan_is_refused(what: str) -> None:
    plan = checked(BUSY, assign(BUSY.requests, BUSY.load))
    with pytest.raises(InvalidPlan, match=what):
        checked(BUSY, BROKEN[what](plan))


@given(asked=questions())
def test_nobody_is_held_back_unnoticed(asked: Question) -> None:
    """Whoever goes by the rules, and is told to wait."""
    plan = assign(asked.requests, asked.load)
    waiting = replace(plan, go=(False,) * len(plan.go))
    if any(plan.go):
        with pytest.raises(InvalidPlan, match=r"is held back|it waits for worker"):
            checked(asked, waiting)
    else:
        checked(asked, waiting)


@pytest.mark.parametrize(
    ("targets", "waited_s", "to"),
    [
        (Targets(2.0, 1.0), 0.0, 1),  # the free one is in time
        (Targets(0.01, 1.0), 0.0, 1),  # nobody is, and the free one begins soon
        (Targets(0.01, 1.0), 60.0, 0),  # it is too late for that
        (Targets(2.0, 0.05), 0.0, 0),  # only the full one is in time
        (NO_TARGETS, 0.0, 0),  # nobody waits for it
    ],
)
def test_nobody_queues_beside_a_free_slot_unnoticed(
    targets: Targets, waited_s: float, to: int
) -> None:
    """The full worker is so much faster that it costs less; the free one is in time or not."""
    cost = CostModel(0.02, 0.0003, 0.03, 0.001)
    full = WorkerView(cost, 4, 4, 1.0, 0.0, None, running=4, left_tokens=1.0, room=1)
    free = WorkerView(cost.scaled(3), 4, 0, 0.0, 0.0, None, room=5)
    requests = Requests.of([Job(100, 100.0, targets=targets)], [waited_s], 2)
    asked = Question(requests, Load.of([full, free], np.zeros((2, 2)), 1.0))
    plan = checked(asked, assign(asked.requests, asked.load))
    assert (plan.workers, plan.go) == ((to,), (True,))
    turns, nothing = Turns(asked.requests, asked.load), np.zeros((3, 2))
    costs = turns.costs(0, ALL, nothing)
    to_full = replace(plan, workers=(0,), go=(True,), costs_s=(float(costs[0]),), bound_s=0.0)
    if to == 1:
        with pytest.raises(InvalidPlan, match="request 0: it waits for worker 0, and 1"):
            check(asked, to_full)
    else:
        check(asked, to_full)


def test_it_is_worth_it_only_for_more_than_it_costs() -> None:
    asked = window(6, 3, 1)
    rows, plan = asked.rows, assign(asked.requests, asked.load)
    going = replace(plan, go=(True,) * 6)
    assert not worth_improving(rows, replace(going, bound_s=going.total_s), 0.001)
    assert worth_improving(rows, replace(going, bound_s=0.0), 0.001)
    assert not worth_improving(rows, replace(going, bound_s=0.0), 1e6)
    assert worth_improving(rows, replace(plan, go=(False,) * 6, bound_s=0.0), 1e6)


def test_it_can_be_warmed_up() -> None:
    joint.warm_up()
