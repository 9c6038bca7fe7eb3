"""Who is next: the orders, what they promise to those who wait, and the paper's Algorithm 1."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.batching.priority import HEAD_START_S, Priority
from solver.batching.queue import ORDERS, RemainingTokens, SlotLists, SortedQueue, make_queue
from solver.batching.sequence import Sequence

ROUND_S = 0.05


def sequence(key: str, expected: float = 10.0, arrival_s: float = 0.0, prompt: int = 1) -> Sequence:
    return Sequence(key, prompt, expected, 10_000, arrival_s)


def nothing(slots: int) -> RemainingTokens:
    """No slot has anything left to do."""
    return lambda: np.zeros(slots)


def order(name: str, *sequences: Sequence) -> list[str]:
    """In which order the only slot of an engine takes them."""
    waiting, taken = make_queue(name, 1, ROUND_S), list[str]()
    for one in sequences:
        waiting.add(one)
    while len(waiting):
        (one,) = waiting.head([0], nothing(1))
        waiting.discard(one)
        taken.append(one.id)
    return taken


@pytest.mark.parametrize(
    ("name", "expected"),
    [("longest", "bac"), ("shortest", "cab"), ("fcfs", "abc"), ("paper", "bac")],
)
def test_a_burst_is_served_in_the_order_that_was_asked_for(name: str, expected: str) -> None:
    burst = sequence("a", 20.0), sequence("b", 30.0), sequence("c", 10.0)
    assert "".join(order(name, *burst)) == expected


@pytest.mark.parametrize("name", ORDERS)
def test_those_who_rank_alike_go_in_the_order_in_which_they_came(name: str) -> None:
    assert order(name, *(sequence(str(k)) for k in range(40))) == [str(k) for k in range(40)]


@given(
    st.sampled_from(["longest", "shortest"]),
    st.lists(st.tuples(st.integers(1, 500), st.integers(0, 300)), min_size=2, max_size=30),
)
def test_nobody_is_overtaken_by_one_who_came_much_later(
    name: str, burst: list[tuple[int, int]]
) -> None:
    """Much: more rounds than their lengths differ."""
    waiting = [
        sequence(str(k), float(length), came * ROUND_S) for k, (length, came) in enumerate(burst)
    ]
    rank = {key: place for place, key in enumerate(order(name, *waiting))}
    for one in waiting:
        for other in waiting:
            lead_s = abs(one.expected_tokens - other.expected_tokens) * ROUND_S
            if other.arrival_s > one.arrival_s + lead_s + 1e-9:
                assert rank[one.id] < rank[other.id]


@given(st.lists(st.one_of(st.integers(0, 9), st.none()), max_size=120), st.data())
def test_a_sorted_queue_is_a_list_that_is_sorted(
    keys: list[int | None], data: st.DataObject
) -> None:
    """A number adds one that ranks so; None takes one out."""
    waiting, plain = SortedQueue(lambda one: one.expected_tokens), list[Sequence]()
    for number, key in enumerate(keys):
        if key is not None:
            plain.append(sequence(str(number), float(key)))
            waiting.add(plain[-1])
        elif plain:
            waiting.discard(plain.pop(data.draw(st.integers(0, len(plain) - 1))))
        if number % 3 == 0 or number == len(keys) - 1:
            expected = sorted(plain, key=lambda one: one.expected_tokens)
            assert waiting.head(list(range(5)), nothing(5)) == expected[:5]
            assert len(waiting) == len(plain)


class Slots:
    """Three slots whose lists are packed to be as short as they can: 100, 61 + 38 and 60 + 40."""

    def __init__(self) -> None:
        self.waiting = SlotLists(3)
        for tokens in (38, 40, 60, 61, 100):
            self.waiting.add(sequence(str(tokens), tokens - 1.0))
        first = [one.id for one in self.waiting.head([0, 1, 2], nothing(3))]
        self.one, self.two, self.other = (first.index(key) for key in ("100", "61", "60"))

    def take(self, *free: int) -> str:
        """Who goes to these slots."""
        found = self.waiting.head(list(free), nothing(3))
        for one in found:
            self.waiting.discard(one)
        return " ".join(one.id for one in found)


def test_a_slot_takes_its_own_longest_first() -> None:
    slots = Slots()
    assert slots.take(slots.other, slots.two, slots.one) == "60 61 100"
    assert slots.take(slots.two) == "38"
    assert len(slots.waiting) == 1


def test_an_idle_slot_steals_the_longest_from_whoever_has_most_to_do() -> None:
    slots = Slots()
    assert [slots.take(slots.one) for _ in range(6)] == ["100", "60", "61", "40", "38", ""]


def test_slots_that_fall_free_together_do_not_steal_the_same() -> None:
    slots = Slots()
    assert slots.take(slots.one) == "100"
    assert slots.take(slots.one, slots.two, slots.other) == "60 61 40"
    assert slots.take(slots.one, slots.two, slots.other) == "38"


def test_who_comes_later_joins_the_slot_with_least_to_do() -> None:
    slots = Slots()
    assert slots.take(slots.one, slots.two) == "100 61"
    slots.waiting.add(sequence("late", 50.0))  # onto the empty list, not behind 38
    assert slots.take(slots.two) == "38"
    assert slots.take(slots.one) == "late"


def urgent(key: str, priority: Priority, came: float = 0.0, due: float = inf) -> Sequence:
    return Sequence(key, 1, 10.0, 10_000, came, priority=priority, due_s=due)


@pytest.mark.parametrize("name", ["longest", "shortest", "fcfs"])
def test_a_priority_is_a_head_start_and_no_more(name: str) -> None:
    early, late = Priority.BULK, Priority.INTERACTIVE
    ahead = HEAD_START_S[late] - HEAD_START_S[early]
    waiting = [
        urgent("bulk", early),
        urgent("default", Priority.DEFAULT),
        urgent("interactive", late),
        urgent("later", late, ahead - 1),
        urgent("much later", late, ahead + 1),
    ]
    assert order(name, *waiting) == ["interactive", "default", "later", "bulk", "much later"]


@given(
    st.lists(
        st.tuples(st.sampled_from(Priority), st.integers(0, 2000), st.integers(1, 3000)),
        min_size=2,
        max_size=30,
    )
)
def test_whatever_is_asked_for_nobody_is_overtaken_for_ever(
    asks: list[tuple[Priority, int, int]],
) -> None:
    """By none that came later by more than all head starts, lengths being equal."""
    waiting = [
        urgent(str(k), priority, float(came), float(came + due))
        for k, (priority, came, due) in enumerate(asks)
    ]
    rank = {key: place for place, key in enumerate(order("longest", *waiting))}
    most = max(HEAD_START_S.values()) - min(HEAD_START_S.values())
    for one in waiting:
        for other in waiting:
            if other.arrival_s > one.arrival_s + most + 1e-6:
                assert rank[one.id] < rank[other.id]


def test_a_deadline_is_interactive_from_its_latest_start_on() -> None:
    latest = 50.0 - 10 * ROUND_S
    waiting = [
        urgent("bulk, due", Priority.BULK, due=50.0),
        urgent("before", Priority.INTERACTIVE, latest - 0.1),
        urgent("after", Priority.INTERACTIVE, latest + 0.1),
        urgent("bulk", Priority.BULK),
    ]
    assert order("longest", *waiting) == ["before", "bulk, due", "after", "bulk"]


def test_no_deadline_gives_more_than_interactive_has() -> None:
    waiting = [
        urgent("first", Priority.INTERACTIVE),
        urgent("impossible", Priority.DEFAULT, due=0.001),
    ]
    assert order("longest", *waiting) == ["first", "impossible"]
