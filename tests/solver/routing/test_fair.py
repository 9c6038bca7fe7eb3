"""Fair shares: who is next, by what tenants have had for their weights, whatever they send."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.batching.priority import Priority
from solver.cost.model import CostModel
from solver.routing.charges import Size
from solver.routing.elsewhere import Elsewhere
from solver.routing.fair import (
    BACK_S,
    COMPANY_S,
    FIRST_S,
    HALF_LIFE_S,
    MOST,
    OTHERS,
    FairShares,
    TenantsQueue,
    Turn,
)
from solver.routing.problem import Job
from tests.helpers import calls


@dataclass(eq=False)
class Ask:
    tenant: str
    slot_s: float = 1.0
    priority: Priority = Priority.DEFAULT

    @property
    def job(self) -> Job:
        return Job(10, 10.0, tenant=self.tenant)


SECOND = CostModel(0.0, 0.0, 0.0, 1.0)  # a slot-second each output token


def sized(slot_s: float) -> Size:
    return Size(SECOND, 1, 0.0, slot_s)


def size(ask: Ask) -> float:
    return ask.slot_s


class Served:
    """A queue whose first is sent whenever it is asked for, and ends at once."""

    def __init__(self, weights: dict[str, float] | None = None) -> None:
        weights = weights or {}
        self.shares: FairShares[Ask] = FairShares(lambda name: weights.get(name, 1.0))
        self.queue: TenantsQueue[Ask] = TenantsQueue(self.shares)
        self.had: Counter[str] = Counter()
        self.now, self._rank = 0.0, 0.0

    def come(self, *asks: Ask) -> None:
        for ask in asks:
            self._rank += 1.0
            self.shares.join(ask, ask.tenant)
            self.queue.put_for(ask, self._rank, None)

    def order(self, count: int, at_once_s: Callable[[Ask], float] = lambda _: 0.0) -> list[Ask]:
        lines = {key: line for key, line in self.queue.groups.items() if line}
        return self.shares.in_turn(lines, {None: count}, size, self.now, at_once_s)

    def serve(self, count: int = 1, at_once_s: Callable[[Ask], float] = lambda _: 0.0) -> list[Ask]:
        chosen = self.order(count, at_once_s)
        for ask in chosen:
            self.queue.discard(ask)
            self.shares.leave(ask)
            self.shares.charge(ask, ask.tenant, sized(ask.slot_s), self.now)
            self.shares.settle(ask, 0.0, ask.slot_s, self.now)
            self.had[ask.tenant] += ask.slot_s  # type: ignore[assignment]
        return chosen


weights = st.dictionaries(st.sampled_from("abcd"), st.floats(0.25, 4.0), min_size=2)
sizes = st.lists(st.floats(0.1, 10.0), min_size=200, max_size=200)


@given(weights, sizes, st.integers(1, 16))
def test_whoever_waits_stays_within_a_request_of_everybody_else(
    known: dict[str, float], takes: list[float], window: int
) -> None:
    """All wait all the time: services by weight differ by the largest request at most."""
    served = Served(known)
    each = len(takes) // len(known)
    for name in known:
        served.come(*(Ask(name, takes[k]) for k in range(each)))
    most = max(takes) / min(known.values())
    while all(any(key.tenant == name and line for key, line in served.queue.groups.items())
              for name in known):  # fmt: skip
        by_weight = [served.had[name] / weight for name, weight in known.items()]
        assert max(by_weight) - min(by_weight) <= most + 1e-6
        assert len(served.serve(window)) <= window


@given(sizes, st.integers(1, 64))
def test_a_window_is_the_order_that_one_by_one_would_have_been(
    takes: list[float], window: int
) -> None:
    """Of levels that add up without rounding, as those that are equal are told apart by rank."""
    together, single = Served({"a": 4.0}), Served({"a": 4.0})
    for k, taken in enumerate(takes):
        for one in (together, single):
            one.come(Ask("abc"[k % 3], float(ceil(taken))))
    whole = [(ask.tenant, ask.slot_s) for ask in together.order(window)]
    assert whole == [(ask.tenant, ask.slot_s) for _ in range(window) for ask in single.serve()]


@given(st.integers(2, 64), st.integers(1, 16), st.sampled_from([0.5, 1.0, 2.0]))
def test_what_comes_at_once_lets_those_pass_who_ask_for_less(
    answers: int, window: int, weight: float
) -> None:
    """Until they have had as much, and they still come out even; without, it goes first."""
    for lets, before in ((1.0, round(answers / weight)), (0.0, 1)):
        served = Served({"large": weight})
        served.come(*(Ask("large", float(answers)) for _ in range(10)))
        served.come(*(Ask("small", 1.0) for _ in range(10 * answers)))
        order = list[str]()
        while len(order) < 3 * answers:
            some = served.serve(window, lambda one, part=lets: part * (one.slot_s - 1.0))  # type: ignore[misc]
            order += [one.tenant for one in some]
        assert order.index("large") == pytest.approx(before, abs=2)
        assert abs(served.had["large"] / weight - served.had["small"]) <= answers / weight + window


def test_who_was_idle_is_next_and_has_nothing_saved_up() -> None:
    served = Served()
    served.come(*(Ask("busy") for _ in range(100)), *(Ask("too") for _ in range(100)))
    served.serve(50)
    served.come(*(Ask("idle") for _ in range(100)))
    then = Counter(ask.tenant for ask in served.serve(30))
    assert served.order(1)
    assert max(then.values()) - min(then.values()) <= 1
    assert then["idle"] >= 10


def test_who_comes_back_is_first_of_its_equals_and_has_one_such_request_at_a_time() -> None:
    served = Served()
    served.come(*(Ask(name) for _ in range(50) for name in "ab"))
    served.serve(21)  # one of them has had less than the other
    idle = Ask("idle"), Ask("idle")
    served.come(*idle)
    assert [served.shares.is_back(ask) for ask in idle] == [True, False]
    assert served.order(1) == [idle[0]]
    urgent = Ask("a", priority=Priority.INTERACTIVE)
    served.shares.join(urgent, "a")
    served.queue.put_for(urgent, -60.0, None)
    assert served.order(2) == [urgent, idle[0]]
    served.shares.charge("more", "idle", sized(1.0), 0.0)
    assert served.order(2) == [urgent, idle[0]]  # whatever its level is now
    served.now = 2 * FIRST_S
    assert idle[0] not in served.order(2)
    served.queue.discard(idle[0])
    served.shares.leave(idle[0])
    assert not served.shares.any_back


def test_who_has_had_more_than_those_who_wait_does_not_come_back() -> None:
    served = Served({"light": 0.5})
    served.come(*(Ask(name) for _ in range(50) for name in "ab"))
    served.serve(20)
    served.shares.charge("x", "light", sized(5.1), 0.0)
    ask = Ask("light")
    served.come(ask)
    assert not served.shares.is_back(ask)


def test_a_turn_comes_sooner_by_so_much_and_no_more_than_is_good() -> None:
    assert Turn.of(None, 100.0) == (None, inf)
    assert Turn.of(0.0, 100.0) == (100.0, inf)
    assert Turn.of(BACK_S, 100.0) == Turn.of(1e9, 100.0) == (100.0 - BACK_S, 100.0 + COMPANY_S)


def test_who_was_served_alone_owes_nobody_when_others_come() -> None:
    served = Served()
    served.come(*(Ask("first") for _ in range(500)))
    served.serve(400)
    served.come(*(Ask("second") for _ in range(100)))
    then = Counter(ask.tenant for ask in served.serve(60))
    assert then == {"first": 30, "second": 30}


def test_who_comes_begins_at_what_others_have_had_without_what_is_still_to_come() -> None:
    """So it has as much under way as they have before they get more."""
    served = Served()
    served.come(*(Ask(name) for _ in range(50) for name in "ab"))
    for k in range(10):
        for name in "ab":
            served.shares.charge((name, k), name, sized(8.0), 0.0)
    served.now = 2.0
    served.order(1)  # a quarter of it has been made by now
    served.come(*(Ask("idle", 8.0) for _ in range(20)))
    assert served.shares.levels(2.0)["idle"] == pytest.approx(20.0 * 2 ** (-2 / 60), rel=0.1)
    under_way = Counter(ask.tenant for ask in served.order(12))
    assert under_way["idle"] >= 6
    served.shares.join("again", "a")
    assert served.shares.levels(2.0)["a"] == pytest.approx(80.0, rel=0.1), "it has no such start"


@pytest.mark.parametrize(("made", "level"), [(1.0, 10.0), (10.0, 15.0), (40.0, 60.0), (None, 10.0)])
def test_a_request_that_makes_more_than_was_expected_is_charged_for_it(
    made: float | None, level: float
) -> None:
    shares: FairShares[Ask] = FairShares()
    shares.charge("x", "a", sized(10.0), 0.0, 10.0, lambda: made)
    shares.charge("y", "a", sized(0.0), 10.0)
    assert shares.levels(10.0)["a"] == pytest.approx(level, rel=0.15)
    shares.settle("x", 0.0, 3.0, 10.0)
    assert shares.levels(10.0)["a"] == pytest.approx(3.0, abs=1.5), "in the end it is what it was"


def test_over_and_under_shares_add_up_to_nothing() -> None:
    served = Served({"a": 3.0, "b": 1.0})
    served.come(*[Ask(name) for name in "ab" for _ in range(99)])
    for name, slot_s in (("a", 20.0), ("b", 12.0), ("idle", 50.0)):
        served.shares.charge(object(), name, sized(slot_s), 0.0)
    over = {name: served.shares.over_s(name, 0.0) for name in "ab"}
    assert over == pytest.approx({"a": 20 - 24, "b": 12 - 8})  # of 32, by weight
    later = served.shares.over_s("a", HALF_LIFE_S)
    assert later == pytest.approx(over["a"] / 2)
    alone = Served()
    alone.come(Ask("a"))
    alone.serve()
    assert alone.shares.over_s("a", 0.0) == 0.0
    assert alone.shares.over_s("nobody", 0.0) == 0.0


def test_what_was_had_elsewhere_counts_and_who_waits_there_is_not_idle() -> None:
    here, there = Served({"a": 3.0}), Served({"a": 3.0})
    there.come(*(Ask(name) for _ in range(60) for name in "ab"))
    there.serve(40)
    assert there.had == {"a": 30.0, "b": 10.0}
    there.shares.charge("x", "b", sized(5.0), 0.0)
    here.shares.tell(Elsewhere([there.shares.told(0.0)]), 0.0)
    assert here.shares.contended
    ask, idle = Ask("a"), Ask("idle")
    here.come(ask, idle)
    assert not here.shares.is_back(ask)
    assert here.shares.is_back(idle)
    over = {name: here.shares.over_s(name, 0.0) for name in ("a", "idle")}
    assert over == pytest.approx({"a": 30 - 33, "idle": 10 - 11})  # of 55, by weight
    here.shares.tell(Elsewhere([there.shares.told(HALF_LIFE_S)]), HALF_LIFE_S)
    assert here.shares.over_s("a", HALF_LIFE_S) == pytest.approx(-3 / 2)


def test_a_process_has_what_is_due_to_those_who_wait_there() -> None:
    one, other = Served({"a": 3.0}), Served({"a": 3.0})
    assert one.shares.portion() is None
    one.come(Ask("a"), Ask("b"))
    other.come(Ask("b"), Ask("c"))
    for mine, theirs in ((one, other), (other, one)):
        mine.shares.tell(Elsewhere([theirs.shares.told(0.0)]), 0.0)
    found = one.shares.portion(), other.shares.portion()
    assert found == ((3.5 / 5, True), (1.5 / 5, True))
    other.shares.charge("x", "c", sized(9.0), 0.0)
    other.shares.charge("y", "b", sized(9.0), 0.0)
    other.shares.tell(Elsewhere([one.shares.told(0.0)]), 0.0)
    assert other.shares.portion() == (1.5 / 5, False)  # "a" has had less


def test_what_was_had_fades() -> None:
    shares: FairShares[Ask] = FairShares()
    shares.charge("x", "a", sized(100.0), 0.0)
    for lives in (0, 1, 2, 30, 100, 200):
        now = lives * HALF_LIFE_S
        assert shares.levels(now)["a"] == pytest.approx(100.0 / 2**lives)
    shares.charge("y", "a", sized(8.0), now)
    assert shares.levels(now + HALF_LIFE_S)["a"] == pytest.approx(4.0)


def test_what_a_request_has_taken_counts_in_the_end_and_once() -> None:
    shares: FairShares[Ask] = FairShares()
    for used in (30.0, 0.0):  # it took more; it was taken back before it began
        shares.charge("x", "a", sized(10.0), 0.0)
        shares.settle("x", 0.0, used, 0.0)
        shares.settle("x", 0.0, used, 0.0)
    assert shares.levels(0.0)["a"] == pytest.approx(30.0)
    shares.settle("never sent", 0.0, 99.0, 0.0)
    assert shares.levels(0.0)["a"] == pytest.approx(30.0)


def test_the_more_urgent_go_before_whoever_has_had_less() -> None:
    """Ranks have head starts in them; here by hand: 100 and more for bulk work."""
    served = Served()
    served.come(*(Ask("a", priority=Priority.INTERACTIVE) for _ in range(3)))
    served.shares.charge("x", "a", sized(1000.0), 0.0)
    served.come(*(Ask("b") for _ in range(3)))
    assert [ask.tenant for ask in served.order(6)] == ["a"] * 3 + ["b"] * 3


def test_groups_that_other_workers_serve_take_no_part_beyond_their_number() -> None:
    shares: FairShares[Ask] = FairShares()
    queue: TenantsQueue[Ask] = TenantsQueue(shares)
    here, there = frozenset((0,)), frozenset((1,))
    for k in range(20):
        for name in "ab":
            ask = Ask(name)
            shares.join(ask, name)
            queue.put_for(ask, float(k), here if k % 2 else there)
    chosen = shares.in_turn(queue.groups, {here: 3, there: 5}, size, 0.0)
    assert Counter(queue.key(ask).members for ask in chosen) == {here: 3, there: 5}
    by_tenant = Counter(ask.tenant for ask in chosen)
    assert abs(by_tenant["a"] - by_tenant["b"]) <= 1
    gone = queue.pop_members(there)
    assert len(gone) == 20
    assert len(queue) == 20


def test_tenants_that_are_made_up_share_one_name() -> None:
    served = Served()
    served.come(*(Ask(f"t{k}") for k in range(5 * MOST)))
    assert len(served.shares.levels(0.0)) <= MOST + 1
    assert OTHERS in served.shares.levels(0.0)
    assert len(served.serve(5 * MOST)) == 5 * MOST
    assert not served.shares.contended
    served.come(*(Ask(f"u{k}") for k in range(5 * MOST)))  # once the others have gone
    assert len(served.serve(5 * MOST)) == 5 * MOST
    assert len(served.shares.levels(0.0)) <= MOST + 1


def test_a_turn_costs_about_the_same_whatever_waits() -> None:
    def cost(tenants: int, each: int) -> int:
        served = Served()
        for _ in range(each):
            served.come(*(Ask(f"t{k}") for k in range(tenants)))
        return calls(lambda: served.order(64))

    few, long, many = cost(4, 20), cost(4, 2000), cost(80, 20)
    assert long <= few * 1.1
    assert many <= few * 4  # as many heads are put into heaps
