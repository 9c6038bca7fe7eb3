"""Who finds its prompt in a cache goes first of its tenant's line, and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from solver.arrays import FloatArray
from solver.batching.priority import Priority
from solver.routing.grouped_queue import Entry
from solver.routing.problem import Job
from solver.routing.warm import AGAIN_S, LOOK, WARM_S, Warm


@dataclass(eq=False)
class Ask:
    held: float = 0.0
    priority: Priority = Priority.DEFAULT
    job: Job = field(default_factory=lambda: Job(100, 10.0))


def line(asks: Sequence[Ask], each_s: float = 1.0) -> list[Entry[Ask]]:
    return [(each_s * k, k, ask) for k, ask in enumerate(asks)]


def held(asks: Sequence[Ask]) -> FloatArray:
    """By two workers, of which the first has nothing."""
    return np.array([[0.0, ask.held] for ask in asks])


def firsts(entries: Sequence[Entry[Ask]], most: int, now: float = 0.0) -> list[Ask]:
    return [ask for _, _, ask in Warm[Ask, int]().first(0, entries, most, held, now)]


def test_whose_prompt_is_held_goes_first_and_no_further_than_it_may() -> None:
    cold = [Ask() for _ in range(20)]
    whole, half = Ask(100.0), Ask(50.0)
    entries = line([*cold, half, whole], WARM_S / 15)
    found = firsts(entries, 22)
    assert [found.index(one) for one in (whole, half)] == [21 - 14, 20 - 6]  # and one passes by
    assert [ask for ask in found if ask in cold] == cold


@given(
    st.lists(
        st.tuples(st.floats(0, 100), st.sampled_from(list(Priority)), st.floats(0, 60)), max_size=99
    ),
    st.integers(1, 99),
)
def test_places_keep_ranks_and_priorities(
    drawn: list[tuple[float, Priority, float]], most: int
) -> None:
    """So other tenants' turns are what they were; nobody is lost, or passed for longer."""
    drawn.sort(key=lambda one: one[2])
    asks = [Ask(tokens, priority) for tokens, priority, _ in drawn]
    entries = [
        (at_s, k, ask) for k, (ask, (_, _, at_s)) in enumerate(zip(asks, drawn, strict=True))
    ]
    found = Warm[Ask, int]().first(0, entries, len(entries), held, 0.0)
    assert [one[:2] for one in found] == [one[:2] for one in entries]
    assert [one[2].priority for one in found] == [one[2].priority for one in entries]
    assert {id(one[2]) for one in found} == {id(ask) for ask in asks}
    came_s = {ask: at_s for at_s, _, ask in entries}
    place = {one[2]: k for k, one in enumerate(found)}
    for k, early in enumerate(asks):
        for late in asks[k + 1 :]:
            if place[late] < place[early] and late.priority is early.priority:
                assert came_s[late] - came_s[early] <= WARM_S * late.held / 100
    assert Warm[Ask, int]().first(0, entries, most, held, 0.0) == found[:most]


def test_caches_are_asked_seldom_and_of_few() -> None:
    asks = [Ask() for _ in range(5000)]
    entries, asked, warm = line(asks), [0], Warm[Ask, int]()

    def count(some: Sequence[Ask]) -> FloatArray:
        asked[0] += len(some)
        return held(some)

    for k in range(100):
        warm.first(0, entries, 4, count, k * AGAIN_S / 200)
    assert asked[0] == LOOK
    asks[3].held = 100.0
    assert warm.first(0, entries, 4, count, 2 * AGAIN_S)[0][2] is asks[3]
    warm.forget(asks)
    assert not warm._sooner
