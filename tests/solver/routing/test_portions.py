"""Portions of a bound: nobody keeps the others out, and little is kept empty."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver.routing.portions import TIMES, Portions

WANTS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 200)), max_size=300)


@given(WANTS, st.integers(200, 5000))
def test_who_holds_nothing_finds_room_whatever_others_want(
    wants: list[tuple[str, int]], most: int
) -> None:
    held = Portions()
    for name, more in wants:
        if held.total + more <= most and held.may_have(name, more, most):
            held.add(name, more)
    free = most - held.total
    assert free >= most // (1 + TIMES) ** 3  # each of the three has filled what it may
    assert free == 0 or held.may_have("idle", max(1, free // 2), most)
    for _ in range(3):  # and so do those that come after it
        free = most - held.total
        name = f"more {free}"
        assert free == 0 or held.may_have(name, 1, most)
        held.add(name, min(1, free))


@given(st.integers(1, 10_000), st.integers(1, 100))
def test_all_of_it_is_for_those_without_names(most: int, more: int) -> None:
    held = Portions()
    while held.total + more <= most:
        assert held.may_have("", more, most)
        held.add("", more)


WEIGHTS = st.dictionaries(st.sampled_from("abcde"), st.floats(0.5, 4.0), min_size=1)


@settings(max_examples=15)
@given(WEIGHTS, WEIGHTS)
def test_those_that_flood_it_have_it_by_their_weights(
    weights: dict[str, float], later: dict[str, float]
) -> None:
    """As they were when they came; whoever comes next finds room, however little it weighs."""
    known, most, rng = dict(weights), 2000, Random(0)
    held, had = Portions(lambda name: known.get(name, 0.001)), dict.fromkeys(weights, 1)
    for name in had:
        held.add(name, 1)
    known |= later
    for step in range(12_000):  # first they come, then they come as others end
        if step > most:
            name = rng.choices(list(had), list(had.values()))[0]
            if had[name] > 1:
                held.add(name, -1)
                had[name] -= 1
        for name in rng.sample(list(had), len(had)):
            if held.may_have(name, 1, most):
                held.add(name, 1)
                had[name] += 1
    least = min(weights.values())
    share = TIMES / (1 + TIMES * sum(weights.values()) / least)
    for name, weight in weights.items():
        assert had[name] / most == pytest.approx(share * weight / least, rel=0.15)
    assert held.may_have("next", (most - held.total) // 2, most)
    for name, amount in had.items():
        held.add(name, -amount)
    assert held.total == 0
    alone = Portions(lambda _: 0.001)
    assert alone.may_have("next", most * TIMES // (TIMES + 1), most)


@given(st.floats(1e-6, 1.0), st.floats(1.0, 1e6), st.integers(1, 50))
def test_what_heavier_ones_leave_is_for_lighter_ones(
    light: float, heavy: float, taken: int
) -> None:
    """However much they differ, and whoever came first; and each finds room after the other."""
    most = 6400
    for first, second, has in (("light", "heavy", most * taken // 100), ("heavy", "light", 1)):
        held = Portions(lambda name: light if name == "light" else heavy)
        held.add("heavy", has)
        while held.may_have("light", 1, most):
            held.add("light", 1)
        assert held._held["light"] >= TIMES * (most - has) // (1 + TIMES)
        while held.may_have(first, 1, most):
            held.add(first, 1)
        while held.may_have(second, 1, most):
            held.add(second, 1)
        assert most - held.total >= 10
        assert held.may_have("next", 5, most)


@given(st.integers(1, 6))
def test_those_that_flood_it_have_as_much_each_and_most_of_it(floods: int) -> None:
    held, most = Portions(), 100_000
    had = dict.fromkeys(map(str, range(floods)), 0)
    for _ in range(most):
        taken = [name for name in had if held.may_have(name, 10, most)]
        for name in taken:
            held.add(name, 10)
            had[name] += 10
        if not taken:
            break
    assert max(had.values()) - min(had.values()) <= 10
    share = TIMES / (1 + TIMES * floods)
    assert abs(held.total / most - floods * share) < 0.01
    for name, amount in had.items():
        held.add(name, -amount)
    assert held.total == 0
