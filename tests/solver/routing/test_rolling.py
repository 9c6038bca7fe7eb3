"""What is planned together, who is sent, and who never waits behind others without need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf
from random import Random

import pytest

from solver.batching.priority import Priority
from solver.batching.targets import NO_TARGETS, Targets
from solver.cost.model import CostModel
from solver.cost.profiles import PROFILES
from solver.routing.assign import assign, plan_in_turn
from solver.routing.held import HELD_S
from solver.routing.order import LATE_S
from solver.routing.problem import Job, WorkerView
from solver.routing.rolling import WINDOW, RollingHorizon, Selection
from tests.helpers import calls

COST = PROFILES["llama-65b-ascend"].cost


@dataclass(eq=False)
class Ask:
    model: str
    arrival_s: float = 0.0
    expected_tokens: float = 50.0
    priority: Priority = Priority.DEFAULT
    due_s: float = float("inf")
    targets: Targets = NO_TARGETS

    @property
    def job(self) -> Job:
        return Job(50, self.expected_tokens, targets=self.targets)

    @property
    def came_s(self) -> float:
        return self.arrival_s

    def predict_again(self) -> None:
        pass


@dataclass(eq=False)
class Place:
    models: str
    slots: int = 8
    busy: int = 0
    round_s: float = 0.03
    got: list[Ask] = field(default_factory=list)
    cost: CostModel = COST

    @property
    def free_slots(self) -> int:
        return max(0, self.slots - self.busy - len(self.got))

    @property
    def room(self) -> int:
        return max(0, self.slots + 1 - self.busy - len(self.got))

    @property
    def online_room(self) -> int:
        return self.room

    @property
    def divides(self) -> bool:
        return False

    def room_for(self, _: Job) -> int:
        return self.room

    def view(self, _: float) -> WorkerView:
        flying = self.busy + len(self.got)
        return WorkerView(
            self.cost,
            self.slots,
            flying,
            float(flying),
            0.0,
            None,
            running=min(flying, self.slots),
            left_tokens=30.0,
            room=self.room,
        )


def eligible(ask: Ask, places: Sequence[Place]) -> frozenset[int] | None:
    return frozenset(j for j, place in enumerate(places) if ask.model in place.models)


def rolling() -> RollingHorizon[Ask, Place]:
    return RollingHorizon(hold_back=True, eligible=eligible)


def send(by: RollingHorizon[Ask, Place], places: Sequence[Place], now: float = 1.0) -> int:
    """As the gateway does it, as long as that leads to anything."""
    count, before = 0, by.unplanned
    while (selection := by.select(now, places)) is not None:
        plan, sent = assign(selection.sizes, selection.load), 0
        for i, place in by.bind(selection, plan, now):
            place.got.append(selection.requests[i])
            sent += 1
        count += sent
        if not by.go_on(plan, sent, before):
            break
        before = by.unplanned
    return count


@pytest.mark.parametrize("queue", [20, 5000])
def test_a_queue_for_one_model_never_blocks_another(queue: int) -> None:
    by, places = rolling(), [Place("a", busy=9), Place("b")]
    for k in range(queue):
        by.add(Ask("a", k / queue), k / queue)
    mine = [Ask("b", 1.0) for _ in range(3)]
    for ask in mine:
        by.add(ask, 1.0)
    assert send(by, places) == 3
    assert (len(places[0].got), places[1].got, len(by)) == (0, mine, queue)


@pytest.mark.parametrize("queue", [20, 5000])
def test_both_models_fill_their_own_workers(queue: int) -> None:
    by, places = rolling(), [Place("a"), Place("b")]
    for k in range(queue):
        by.add(Ask("a" if k % 10 else "b", k / queue), k / queue)
    send(by, places)
    rest = queue // 10
    assert (len(places[0].got), len(places[1].got)) == (9, min(9, rest))


def test_a_worker_that_only_some_may_use_gets_those() -> None:
    """Most may go to the first alone; the last in the queue is the only one for the second."""
    by, places = rolling(), [Place("a", busy=9), Place("ab")]
    for k in range(2000):
        by.add(Ask("c" if k < 1999 else "b", k / 2000), k / 2000)
    assert send(by, places) == 1
    assert [ask.model for ask in places[1].got] == ["b"]
    assert {ask.model for ask in by.pop_ineligible()} == {"c"}
    assert len(by) == 0


def test_a_worker_alone_is_not_given_everything_when_live() -> None:
    by, places = rolling(), [Place("a")]
    for k in range(30):
        by.add(Ask("a", k / 30), k / 30)
    assert send(by, places) == 9
    places[0].got.clear()
    assert send(by, places) == 9


def test_who_is_urgent_is_sent_first_however_long_the_queue() -> None:
    by, places = rolling(), [Place("a", busy=7), Place("a", busy=7)]
    for k in range(3000):
        by.add(Ask("a", k / 3000), k / 3000)
    urgent = [Ask("a", 1.0, priority=Priority.INTERACTIVE) for _ in range(4)]
    for ask in urgent:
        by.add(ask, 1.0)
    assert send(by, places) == 4
    assert {*places[0].got, *places[1].got} == set(urgent)


def test_workers_that_come_and_go_are_absorbed_at_the_next_plan() -> None:
    by, first, second = rolling(), Place("a"), Place("a")
    for k in range(30):
        by.add(Ask("a", k / 30), k / 30)
    send(by, [first])
    by.regroup()
    assert send(by, [first, second]) == 9
    assert len(second.got) == 9
    by.regroup()
    assert send(by, [first]) == 0
    by.regroup()
    assert send(by, []) == 0
    assert len(by.pop_ineligible()) == 12


def test_clients_who_leave_a_long_queue_cost_little() -> None:
    """Neither do looks while nobody has room."""
    by, places = rolling(), [Place("a", busy=9) for _ in range(32)]
    asks = [Ask("a", k / 5000, float(k % 300)) for k in range(5000)]
    for ask in asks:
        by.add(ask, ask.arrival_s)
    assert by.select(1.0, places) is None

    def look() -> None:
        for _ in range(1000):
            assert by.select(1.0, places) is None

    def leave() -> None:
        for ask in asks:
            by.discard(ask)

    looks, leaves = calls(look) / 1000, calls(leave) / 5000
    print(f"calls: {looks:.0f} a look, {leaves:.0f} for one who leaves")
    assert looks < 10 * len(places)
    assert leaves < 50
    assert len(by) == 0


@pytest.mark.parametrize("places", [4, 64])
def test_a_decision_costs_the_same_whatever_the_queue(places: int) -> None:
    """Of those who wait, only the first of a window are looked at."""
    counts = []
    for queue in (400, 20_000):
        by, fleet = rolling(), [Place("a", busy=8 if j else 7) for j in range(places)]
        for k in range(queue):
            by.add(Ask("a", k / queue), k / queue)
        assert send(by, fleet) >= 1
        for place in fleet:
            place.got.clear()
        counts.append(calls(lambda by=by, fleet=fleet: by.select(2.0, fleet)))  # type: ignore[misc]
    print(f"calls: {counts}")
    assert counts[1] <= counts[0] + 16


def test_bulk_work_goes_longest_first_and_people_are_not_stuck_behind_long_answers() -> None:
    fleet = [Place("a", slots=1, busy=2)]
    for targets, first in ((NO_TARGETS, 500.0), (Targets(2.0, 0.1), 10.0)):
        by = rolling()
        for tokens in (100.0, 500.0, 10.0):
            by.add(Ask("a", 0.0, tokens, targets=targets), 0.0)
        assert send(by, fleet) == 0
        idle = [Place("a", slots=1)]
        assert send(by, idle) >= 1
        assert idle[0].got[0].expected_tokens == first


def fast_and_slow(asks: int) -> tuple[RollingHorizon[Ask, Place], Place, Place]:
    """One that is full, and one of a third of its speed with room for all."""
    fast = Place("a", slots=8, busy=9, cost=COST.scaled(0.5), round_s=0.015)
    slow = Place("a", slots=200, cost=COST.scaled(1.5), round_s=0.045)
    by = rolling()
    for k in range(asks):
        by.add(Ask("a", 0.001 * k), 0.001 * k)
    return by, fast, slow


TTFT = Targets(2.0, 0.1)


def came(at_s: float) -> Ask:
    return Ask("a", at_s, targets=TTFT)


def sent_in_order(asks: Sequence[Ask], now: float) -> list[Ask]:
    """One after the other, by a worker that has one slot free each time."""
    by, order = rolling(), []
    for ask in asks:
        by.add(ask, ask.arrival_s)
    for _ in asks:
        place = Place("a", busy=8)
        assert send(by, [place], now) == 1
        order += place.got
    assert not by._late
    return order


def test_where_a_line_is_too_long_those_go_first_who_can_be_in_time() -> None:
    late = [came(k / 10) for k in range(20)]
    fresh = [came(9.5 + k / 10) for k in range(5)]
    assert sent_in_order([*late, *fresh], 10.0) == [*fresh, *late]


def test_while_a_line_is_short_they_go_as_they_came() -> None:
    """The first has missed its target, but a line of four seconds is none that lasts."""
    asks = [came(6.5 + k / 10) for k in range(30)]
    assert sent_in_order(asks, 10.0) == asks


def test_who_is_late_waits_for_those_of_the_next_seconds_and_goes_before_bulk_work() -> None:
    late, bulk = came(0.0), Ask("a", 0.1, 0.0, Priority.BULK)
    soon, later = came(LATE_S - 1.0), came(LATE_S + 1.0)
    by, order = rolling(), []
    for ask in (late, bulk):
        by.add(ask, ask.arrival_s)
    assert by.select(10.0, [Place("a", busy=8)]) is not None  # it is late from now on
    for now, joins in ((LATE_S - 0.5, [soon]), (LATE_S + 1.5, [later]), *[(LATE_S + 1.6, [])] * 2):
        for ask in joins:
            by.add(ask, ask.arrival_s)
        place = Place("a", busy=8)
        send(by, [place], now)
        order += place.got
    assert order == [soon, late, later, bulk]


@pytest.mark.parametrize("users", [10, 40])
def test_of_users_who_ask_again_and_again_the_lucky_ones_starve_nobody(users: int) -> None:
    """One answer a second, and each user asks again at once: a line that never ends."""
    by, waits_s = rolling(), [list[float]() for _ in range(users)]
    asks = {user: came(0.0) for user in range(users)}
    for ask in asks.values():
        by.add(ask, 0.0)
    for second in range(1, 10 * users):
        place = Place("a", busy=8)
        assert send(by, [place], float(second)) == 1
        user = next(user for user, ask in asks.items() if ask is place.got[0])
        waits_s[user].append(second - asks[user].came_s)
        asks[user] = came(float(second))
        by.add(asks[user], float(second))
    longest = max(max(waits, default=inf) for waits in waits_s)
    assert longest <= users + LATE_S, "as first come, first served, and no more"


@dataclass(eq=False)
class Learner(Ask):
    """An ask whose length turns out to be `known` once that is above 0."""

    known: list[float] = field(default_factory=list)

    def predict_again(self) -> None:
        self.expected_tokens = self.known[-1]


@pytest.mark.parametrize("many", [3, 100, 300])
@pytest.mark.parametrize(("first", "then"), [(500.0, 10.0), (10.0, 500.0)])
def test_who_came_before_anything_was_known_of_lengths_keeps_its_turn(
    first: float, then: float, many: int
) -> None:
    """All are alike, and so they go as they came, whatever was expected when they did."""
    by, known, full = rolling(), [first], Place("a", busy=9)
    asks = [Learner("a", k / 1000, first, targets=TTFT, known=known) for k in range(many)]
    for ask in asks:
        by.add(ask, ask.arrival_s)
    assert by.select(1.0, [full]) is None
    known.append(then)
    asks += [Learner("a", 1.0 + k / 1000, then, targets=TTFT, known=known) for k in range(many)]
    for ask in asks[many:]:
        by.add(ask, ask.arrival_s)
    order: list[Ask] = []
    for k in range(many):  # a plan each, as others end there
        by.select(1.5 + k / 1000, [full])
    for _ in asks:
        place = Place("a", busy=8)
        assert send(by, [place], 1.9) == 1
        order += place.got
    assert order == asks


@pytest.mark.parametrize("then", [10.0, 900.0])
def test_a_single_worker_has_them_as_they_came_whatever_is_learnt_meanwhile(then: float) -> None:
    by: RollingHorizon[Ask, Place] = RollingHorizon(eligible=eligible)
    known, place = [500.0], Place("a")
    asks = [Learner("a", k / 1000, 500.0, targets=TTFT, known=known) for k in range(20)]
    for ask in asks:
        by.add(ask, ask.arrival_s)
    known.append(then)
    for k in range(3):
        selection = by.select(1.0 + k, [place])
        assert selection is not None
        assert selection.requests == asks


def test_who_is_late_is_put_behind_others_once() -> None:
    """However often it is held back and looks around again."""
    by = rolling()
    late = came(0.0)
    by.add(late, 0.0)
    ranks = set()
    for k in range(8):
        assert by.select(10.0 + k, [Place("a", busy=8)]) is not None
        ranks.add(by._unsent.rank(late))
    assert len(ranks) == 1


def test_nobody_stands_behind_those_who_wait_for_a_faster_worker() -> None:
    by, fast, slow = fast_and_slow(150)
    sent = send(by, [fast, slow])
    held = len(by) - by.unplanned
    assert fast.got == []
    assert 0 < held < 100
    assert sent == len(slow.got) == 150 - held
    first = {ask.arrival_s for ask in slow.got}
    assert 0.0 not in first  # who came first waits for the faster one, which pays


def test_who_was_held_back_goes_first_once_there_is_room() -> None:
    by, fast, slow = fast_and_slow(150)
    send(by, [fast, slow])
    fast.busy -= 3
    late = Ask("a", 1.0)
    by.add(late, 1.0)
    send(by, [fast, slow], 1.1)
    assert [ask.arrival_s for ask in fast.got] == [0.0, 0.001, 0.002]


def test_who_is_held_back_is_lost_to_nobody_and_looks_around_again() -> None:
    by, fast, slow = fast_and_slow(60)
    send(by, [fast, slow])
    held = len(by)
    assert held == len(by) - by.unplanned > 2
    idle = Place("a", slots=200, cost=COST.scaled(0.5), round_s=0.015)
    by.regroup()
    assert send(by, [fast, slow, idle], 1.05) == held
    assert len(idle.got) == held

    by, fast, slow = fast_and_slow(60)
    send(by, [fast, slow])
    slow.cost, slow.round_s = COST.scaled(0.25), 0.01  # nobody said so
    assert send(by, [fast, slow], 1.0 + HELD_S / 2) == 0
    assert send(by, [fast, slow], 1.0 + 1.1 * HELD_S) == held


def test_of_a_long_line_the_last_look_around_first() -> None:
    """Those who came first keep their places, and those behind them see these taken."""
    fast = Place("a", slots=200, busy=226, cost=COST.scaled(0.25), round_s=0.01)
    slow = Place("a", slots=400, cost=COST.scaled(3.0), round_s=0.1)
    by = rolling()
    for k in range(400):
        by.add(Ask("a", 0.001 * k), 0.001 * k)
    send(by, [fast, slow])
    sent, held = {ask.arrival_s for ask in slow.got}, len(by)
    assert held > 2 * WINDOW
    slow.got.clear()
    slow.cost, slow.round_s = COST.scaled(2.0), 0.07
    send(by, [fast, slow], 1.0 + 1.1 * HELD_S)
    went = {ask.arrival_s for ask in slow.got}
    assert 0 < len(went) <= WINDOW
    stayed = {0.001 * k for k in range(400)} - sent - went
    assert sum(min(went) > arrival_s for arrival_s in stayed) > 0.5 * len(stayed)


def test_clients_who_leave_while_they_are_held_back_leave_nothing_behind() -> None:
    by, fast, slow = fast_and_slow(60)
    selection = by.select(1.0, [fast, slow])
    assert selection is not None
    asks = list(selection.requests)
    list(by.bind(selection, assign(selection.sizes, selection.load), 1.0))
    held = len(by) - by.unplanned
    assert held
    for ask in asks:
        by.discard(ask)
    assert len(by) == by.unplanned
    send(by, [fast, slow])
    by.discard(asks[0])  # unknown by now


def test_time_goes_on_for_those_who_are_held_back() -> None:
    by, fast, slow = fast_and_slow(60)
    send(by, [fast, slow])
    assert by.next_deadline() == 1.0 + HELD_S
    slow.busy = 300  # nobody has room: there is nothing to look at
    assert send(by, [fast, slow], 1.0 + HELD_S) == 0
    assert by.next_deadline() == 1.0 + 2 * HELD_S


@pytest.mark.parametrize("seed", range(40))
def test_who_comes_alone_goes_where_it_would_by_the_queues(seed: int) -> None:
    """Request by request, on fleets with and without room for it; what is planned is the same."""
    rng = Random(seed)
    count, twins = rng.randrange(1, 6), (rolling(), rolling())
    fleets = [
        [Place(rng.choice(("a", "b", "ab")), rng.randrange(1, 4), rng.randrange(3)) for _ in twins]
        for _ in range(count)
    ]
    for fleet in fleets:
        fleet[1] = replace(fleet[0], got=[])
    plain, quick = ([fleet[k] for fleet in fleets] for k in range(2))
    gone = 0
    for k in range(12):
        now = 1.0 + k * rng.random()
        ask = Ask(rng.choice("ab"), now, rng.uniform(1, 500), targets=rng.choice(TARGETS))
        sent = send_alone(twins[1], quick, ask, now)
        twins[0].add(ask, now)
        selection = twins[0].select(now, plain)
        if selection is None:
            assert sent is None
        else:
            plan = plan_in_turn(selection.asked)
            to = [plain.index(place) for _, place in twins[0].bind(selection, plan, now)]
            assert to == ([] if sent is None else [sent[0]])
            if sent is not None:
                assert vars(sent[1].asked) == vars(selection.asked)
                plain[to[0]].got.append(ask)
                quick[to[0]].got.append(ask)
                gone += 1
        twins[0].discard(ask)
        assert len(twins[0]) == len(twins[1]) == 0
    assert gone > 0 or not any(place.room for place in plain)


TARGETS = NO_TARGETS, Targets(0.5, 0.1), Targets(2.0, 0.05)


def send_alone(
    by: RollingHorizon[Ask, Place], places: list[Place], ask: Ask, now: float
) -> tuple[int, Selection[Ask, Place]] | None:
    """Where it went, by what; None: it is to be added."""
    selection = by.select_alone(ask, now, places)
    place = (
        None if selection is None else by.bind_alone(selection, plan_in_turn(selection.asked), now)
    )
    return None if selection is None or place is None else (places.index(place), selection)


def test_nobody_overtakes_who_waits_by_coming_alone() -> None:
    by, places = rolling(), [Place("a", slots=1, busy=9)]
    by.add(Ask("a", 0.0), 0.0)
    assert send(by, places) == 0
    places[0].busy = 0
    assert by.select_alone(Ask("a", 2.0), 2.0, places) is None
