"""Who waits is in time, and who comes back when it was told to gets in."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from dataclasses import dataclass, field
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.batching.priority import Priority
from solver.cost.model import CostModel
from solver.routing.gate import CALM_S, Fleet, Gate, Pace
from solver.routing.returns import COME_S, LONGEST_S, Returns
from solver.routing.speed import FleetSpeed

TARGET_S = 2.0
DEFAULT = Priority.DEFAULT


@dataclass
class Counter:
    """Slots that serve first come, first served, behind a gate; load comes for `span_s`.

    Attributes:
        model: by how much its cost model overstates the work.
        back: of those refused, how many come back, each time, `late_s` after what it was told.
    """

    load: float
    slots: int
    answer_s: float
    back: float = 1.0
    model: float = 1.0
    late_s: tuple[float, float] = (0.001, 0.8 * COME_S)
    span_s: float = 40.0
    waits: list[tuple[float, float]] = field(default_factory=list)
    told: list[int] = field(default_factory=list)
    got_in: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng, self.gate = random.Random(3), Gate[int]()
        self.queue, self.free = deque[tuple[float, int]](), self.slots
        self.events: list[tuple[float, int, str]] = [(0.0, 0, "stranger")]
        self.serial = itertools.count(1)

    @property
    def work_s(self) -> float:
        return self.answer_s / self.slots

    def at(self, at_s: float, what: str) -> None:
        heapq.heappush(self.events, (at_s, next(self.serial), what))

    def run(self) -> Counter:
        while self.events:
            now, key, what = heapq.heappop(self.events)
            if what == "end":
                self.free += 1
                if self.queue:
                    came_s, key = self.queue.popleft()
                    self.gate.remove(key, began=True)
                    self.begin(now, came_s)
                continue
            if what == "stranger" and now < self.span_s:
                self.at(now + self.rng.expovariate(self.load / self.work_s), "stranger")
            self.come(now, key, what)
        return self

    def come(self, now: float, key: int, what: str) -> None:
        gate, work_s = self.gate, self.work_s * self.model
        gate.look(Fleet(FleetSpeed(), 0, full=not self.free), now)
        joins = gate.joins(DEFAULT, work_s, TARGET_S, now)
        if what == "told":
            self.got_in.append(joins)
        if not joins:
            self.told.append(gate.again_s(gate.wait_s(DEFAULT), work_s, now, TARGET_S))
            if self.rng.random() < self.back:
                self.at(now + self.told[-1] + self.rng.uniform(*self.late_s), "told")
        elif self.free:
            self.begin(now, now)
        else:
            gate.add(key, DEFAULT, work_s, 1)
            self.queue.append((now, key))

    def begin(self, now: float, came_s: float) -> None:
        self.free -= 1
        self.waits.append((now, now - came_s))
        self.at(now + self.rng.expovariate(1 / self.answer_s), "end")

    def goodput(self) -> float:
        """Of what can be served while the load lasts, what begins in time."""
        kept = sum(10 <= at_s < self.span_s and wait_s < TARGET_S for at_s, wait_s in self.waits)
        return kept * self.work_s / (self.span_s - 10)


LOADS = [(load, back) for load in (2.0, 4.0) for back in (1.0, 0.5)]


@pytest.mark.parametrize(("load", "back"), LOADS)
@pytest.mark.parametrize("slots", [32, 100])
def test_who_comes_back_when_it_was_told_to_gets_in(load: float, back: float, slots: int) -> None:
    over = Counter(load, slots, 5.0, back).run()
    assert len(over.got_in) > 50
    assert sum(over.got_in) >= 0.9 * len(over.got_in)


@pytest.mark.parametrize("load", [2.0, 4.0])
@pytest.mark.parametrize("model", [0.3, 1.0, 3.0])
def test_what_waits_is_in_time_whatever_the_cost_model_says(load: float, model: float) -> None:
    assert Counter(load, 100, 5.0, 0.5, model).run().goodput() >= 0.9


def test_nobody_is_refused_where_there_is_room_nor_out_of_a_burst() -> None:
    assert not Counter(0.6, 200, 5.0).run().told
    gate = Gate[int]()
    for k in range(1000):  # in a second, far beyond what begins in time
        assert gate.joins(DEFAULT, 0.1, TARGET_S, k / 1000)
        gate.add(k, DEFAULT, 0.1, 1)
    assert not gate.joins(DEFAULT, 0.1, TARGET_S, TARGET_S + 0.1)
    assert gate.joins(DEFAULT, 0.1, TARGET_S, TARGET_S + 2 * CALM_S), "another burst"


def test_who_has_no_target_or_would_be_next_joins() -> None:
    gate = Gate[int]()
    for k in range(100):
        assert gate.joins(DEFAULT, 1.0, TARGET_S, float(k))
    for k in range(100):
        gate.add(k, DEFAULT, 1.0, 1)
        assert gate.joins(DEFAULT, 1.0, inf, 100.0 + k)


def test_only_what_goes_before_it_is_waited_for() -> None:
    gate = Gate[int]()
    for k, priority in enumerate(Priority):
        gate.add(k, priority, 1.0, 1)
    waits = [gate.wait_s(priority) for priority in Priority]
    assert waits == pytest.approx([3, 6, 9]), "at a third of the pace, at first"
    gate.look(Fleet(FleetSpeed(), 2, full=True), 0.0)
    assert gate.wait_s(DEFAULT) == pytest.approx(6.0 + 6 * gate.sequence_s)


def test_who_passes_without_having_waited_counts_as_one_that_waited_for_nothing() -> None:
    """Of what a request takes, and of the pace, which is of what begins while all is full."""
    found = []
    for passes in (True, False):
        gate: Gate[int] = Gate()
        for k in range(50):
            work_s = 0.1 + 0.01 * (k % 7)
            if passes:
                gate.passed(work_s, 1 + k % 2)
            else:
                gate.add(k, Priority.DEFAULT, work_s, 1 + k % 2)
                gate.remove(k, began=True)
            gate.look(Fleet(FleetSpeed(), 3, full=True), float(k))
        found.append((gate.sequence_s, gate.wait_s(Priority.DEFAULT)))
    assert found[0] == found[1]
    assert found[0][1] > 0


@pytest.mark.parametrize("factor", [0.1, 1.0, 10.0])
def test_the_pace_is_learnt_while_all_slots_are_held(factor: float) -> None:
    pace = Pace()
    for k in range(1000):
        pace.began(0.125)
        pace.look(k / 10, full=False)
    assert pace.factor == pytest.approx(1 / 3), "slots were free: nothing was learnt"
    for k in range(2000):
        if k % 3 == 0:
            pace.began(0.3 * factor)
        pace.look(100 + k / 10, full=True)
    assert pace.factor == pytest.approx(factor, rel=0.1)


def test_a_bound_keeps_places_for_those_who_were_told_to_come() -> None:
    gate = Gate[int]()
    assert gate.has_place(79, 80, 0.0)
    assert not gate.has_place(80, 80, 0.0)
    seconds = gate.again_s(0.0, 1.0, 0.0)
    assert not gate.has_place(75, 80, seconds / 2)
    assert gate.has_place(75, 80, seconds + COME_S / 2)
    assert gate.has_place(75, 80, seconds + 1.0)
    assert gate.has_place(0, 1, seconds / 2), "of a single place none is kept"


@given(
    st.lists(
        st.tuples(st.floats(0, 30), st.floats(0, 1e9), st.floats(0, 1e6)), min_size=1, max_size=200
    )
)
def test_what_is_told_is_a_number_of_seconds(refused: list[tuple[float, float, float]]) -> None:
    returns, now = Returns(), 0.0
    for later_s, least_s, work_s in refused:
        now += later_s
        returns.came(now, work_s)
        told = returns.tell(now, least_s, work_s)
        assert isinstance(told, int)
        assert 1 <= told <= LONGEST_S
        assert told >= min(least_s, LONGEST_S)
        assert 0 <= returns.share <= 1


def test_those_told_come_at_different_times() -> None:
    """As many in a second as can be served in it, and some who come at the end of one."""
    returns = Returns()
    due = sorted(k / 100 + returns.tell(k / 100, 0.0, 0.1) for k in range(200))
    assert all(due[k + 20] - due[k] > 1.0 for k in range(len(due) - 20))
    assert due[0] == 1.0


def test_few_openings_are_told_of_if_nobody_comes_back() -> None:
    late = Counter(4.0, 32, 5.0, back=0.0).run().told
    early = Counter(4.0, 32, 5.0, back=1.0).run().told
    assert sum(late[-100:]) < 0.5 * sum(early[-100:])


def test_the_fleet_is_as_fast_as_its_workers_together() -> None:
    cost = CostModel(0.1, 0.001, 0.05, 0.002)
    one, two = FleetSpeed.of([(cost, 8)]), FleetSpeed.of([(cost, 8), (cost, 8)])
    assert one.seconds(3, 700, 90) == pytest.approx(cost.backlog_s(3, 700, 90, 0, 8))
    assert two.seconds(3, 700, 90) == pytest.approx(one.seconds(3, 700, 90) / 2)
    assert FleetSpeed.of([]).seconds(3, 700, 90) == 0.0
