"""What deadlines of batches promise: kept where an order by deadlines keeps them; turns else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations
from math import inf
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver.batching.policies import POLICIES
from solver.batching.priority import Priority
from solver.cost.profiles import PROFILES
from solver.routing.deadlines import Demand, Precedence, in_turn, precedence
from solver.routing.dispatchers import dispatcher
from solver.routing.dispatchers.base import Arrival, Dispatcher, Ended, Placement, Workers
from solver.sim.bulk import WithBacklog
from solver.sim.fleet import Fleet
from solver.sim.forecast import length_forecaster
from solver.sim.request import Request
from solver.sim.worker import Worker, WorkerSetting

batches = st.lists(
    st.tuples(
        st.sampled_from("tu"), st.integers(1, 20), st.one_of(st.integers(1, 60), st.just(inf))
    ),
    min_size=1,
    max_size=5,
).map(lambda rows: [Demand(f"b{k}", *row) for k, row in enumerate(rows)])
WEIGHTS = {"t": 1.0, "u": 3.0}


def kept(order: Sequence[Demand]) -> set[str]:
    """One after the other."""
    found, at_s = set(), 0.0
    for one in order:
        at_s += one.work_s
        if at_s <= one.due_s:
            found.add(one.batch)
    return found


def carried_out(demands: Sequence[Demand], order: Precedence) -> set[str]:
    """Those kept by this precedence: first, by turns, and what is given up after that."""
    by_name = {one.batch: one for one in demands}
    first = [by_name[name] for name in order.first]
    rest = [one for one in demands if one.batch not in {*order.first, *order.given_up}]
    rest.sort(key=lambda one: one.due_s)
    at_s = sum(one.work_s for one in first)
    ends = in_turn(np.array([one.work_s for one in rest]), [one.tenant for one in rest], WEIGHTS)
    late = {
        one.batch for one, end_s in zip(rest, ends, strict=True) if at_s + end_s > one.due_s + 1e-9
    }
    return kept(first) | ({one.batch for one in rest} - late)


@given(batches)
@settings(max_examples=60)
def test_as_many_deadlines_are_kept_as_any_order_keeps(demands: list[Demand]) -> None:
    found = precedence(demands, WEIGHTS)
    ours = carried_out(demands, found)
    assert len(ours) == max(len(kept(order)) for order in permutations(demands))
    assert ours.isdisjoint(found.given_up)
    assert len(ours) + len(found.given_up) == len(demands)


@given(batches)
@settings(max_examples=60)
def test_nobody_goes_first_where_turns_keep_every_deadline(demands: list[Demand]) -> None:
    lax = [one._replace(due_s=inf) for one in demands]
    assert precedence(lax, WEIGHTS) == Precedence()
    whole_s = sum(one.work_s for one in demands)
    assert precedence([one._replace(due_s=whole_s) for one in demands], WEIGHTS) == Precedence()


@pytest.mark.parametrize(
    ("tenants", "expected"),
    [
        (["t", "t"], [4.0, 8.0]),  # its own, one after the other
        (["t", "u"], [4 + 4, 4 + 4 / 3]),  # three times the weight: it has 3 of the first 4 seconds
        (["t", "w"], [8.0, 8.0]),  # unknown ones weigh 1
    ],
)
def test_tenants_take_turns_by_weight(tenants: list[str], expected: list[float]) -> None:
    assert in_turn(np.array([4.0, 4.0]), tenants, WEIGHTS) == pytest.approx(expected)


class InDeadlineOrder:
    """Who is due first goes first, to whoever has a free slot."""

    def __init__(self) -> None:
        self._waiting: list[Arrival] = []

    def arrive(self, arrival: Arrival, now: float) -> None:  # noqa: ARG002
        self._waiting.append(arrival)
        self._waiting.sort(key=lambda one: -one.due_s)

    def poll(self, now: float, workers: Workers) -> Iterator[Placement]:
        for j, worker in enumerate(workers):
            while self._waiting and (view := worker.view(now)).in_flight < view.slots:
                yield self._waiting.pop(), j

    def next_deadline(self) -> float | None:
        return None

    def ended(self, ended: Ended, now: float) -> None:
        pass


SIZES = {"early": 60, "long": 240, "soon": 40, "last": 120}


def batch_ends(requests: list[Request], chosen: Dispatcher) -> dict[str, float]:
    """When the last line of each batch ends, on three workers that differ."""
    cost = PROFILES["llama-2-70b-a100-tp4"].cost
    workers = [
        Worker(f"w{j}", cost.scaled(1 / speed), WorkerSetting(8), POLICIES["adaptive"]())
        for j, speed in enumerate((2.0, 1.0, 0.5))
    ]
    fleet = Fleet(requests, workers, chosen, length_forecaster("known", 0))
    fleet.run()
    ends: dict[str, float] = {}
    for request, end_s in zip(fleet.requests, fleet.end_s.tolist(), strict=True):
        name = request.id.split()[0]
        ends[name] = max(ends.get(name, 0.0), end_s)
    return ends


def test_deadlines_that_an_order_by_deadlines_keeps_are_kept_in_the_simulator() -> None:
    rng = Random(1)
    order = list(SIZES)
    rng.shuffle(order)
    lines = [
        Request(f"{name} {k}", rng.randint(40, 400), rng.randint(20, 200), priority=Priority.BULK,
                tenant="t" if name in ("long", "last") else "u",
                deadline_s=1000.0 + order.index(name))
        for name, count in SIZES.items() for k in range(count)
    ]  # fmt: skip
    by_deadline = batch_ends(lines, InDeadlineOrder())
    due_s = {name: 1.04 * end_s for name, end_s in by_deadline.items()}
    due = [replace(one, deadline_s=due_s[one.id.split()[0]]) for one in lines]
    ours = batch_ends(due, WithBacklog(dispatcher("least-requests", Random(0))))
    assert all(ours[name] <= due_s[name] for name in SIZES), (ours, due_s)
    lax = [replace(one, deadline_s=1e6) for one in lines]
    turns = batch_ends(lax, WithBacklog(dispatcher("least-requests", Random(0))))
    assert any(turns[name] > due_s[name] for name in SIZES)  # it takes some hurry
