"""How many running requests are expected to end soon, after what is known and what was seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver.batching.progress import NEVER, Progress
from solver.batching.sequence import Sequence
from solver.lengths.survival import BINS, PRIOR, Survival

SLOTS = 8


def start(progress: Progress, slot: int, expected: float, limit: int = 2**40) -> Sequence:
    sequence = Sequence(str(slot), 10, expected, limit, 0.0, slot=slot)
    progress.join(sequence)
    return sequence


def learn(progress: Progress, expected: float, *lengths: int) -> None:
    """Requests of which so much was expected ended after so many tokens."""
    for length in lengths:
        sequence = start(progress, SLOTS - 1, expected)
        progress.rounds += length
        progress.leave(sequence, ended=True)


def ending(progress: Progress, *rounds: int) -> list[float]:
    return [float(value) for value in progress.ending_within(np.array(rounds, dtype=np.float64))]


def test_known_lengths_become_sharp() -> None:
    progress = Progress(SLOTS)
    learn(progress, 100.0, *[100] * 400)
    for slot, expected in enumerate((300.0, 200.0, 200.0)):
        start(progress, slot, expected)
    progress.rounds += 150
    assert ending(progress, 49, 50, 149, 150) == pytest.approx([0, 2, 2, 3], abs=0.1)
    assert progress.next_end() == 50
    progress.rounds += 49
    assert ending(progress, 1, 2) == pytest.approx([2, 2], abs=0.1)


def test_noise_is_learnt_as_it_is() -> None:
    """Half of them took 20 % longer than expected, half 20 % less."""
    progress = Progress(SLOTS)
    learn(progress, 100.0, *[80, 120] * 400)
    start(progress, 0, 200.0)
    assert ending(progress, 158, 161, 238, 241) == pytest.approx([0, 0.5, 0.5, 1], abs=0.05)
    progress.rounds += 165  # so it is one of the longer ones
    assert ending(progress, 10, 73, 76) == pytest.approx([0, 0, 1], abs=0.05)


def test_without_knowledge_it_follows_the_hazard_of_what_has_ended() -> None:
    """The same is expected of all; a third ends at 50, a third at 100, the others at 300."""
    progress = Progress(SLOTS)
    learn(progress, 150.0, *[50, 100, 300] * 300)
    start(progress, 0, 150.0)
    assert ending(progress, 49, 51, 101, 301) == pytest.approx([0, 1 / 3, 2 / 3, 1], abs=0.03)
    progress.rounds += 60
    assert ending(progress, 41, 241) == pytest.approx([1 / 2, 1], abs=0.03)


def test_those_still_running_count_as_not_yet_ended() -> None:
    """The short ones end first: without the running ones all would seem to be short."""
    survival = Survival()
    for _ in range(1000):
        survival.observe(100 / BINS)
    survival.refresh(np.full(3000, 200))
    assert survival.beyond[99] == pytest.approx(1.0, abs=0.01)
    assert survival.beyond[100] == pytest.approx(0.75, abs=0.01)
    assert survival.beyond[200] == pytest.approx(0.75, abs=0.01)


def test_before_anything_has_ended_a_constant_hazard_stands_in() -> None:
    """One end per expected length."""
    progress = Progress(SLOTS)
    for slot in range(4):
        start(progress, slot, 100.0)
    gone = 4 * (1 - np.exp([-0.1, -1.0, -3.0]))
    assert ending(progress, 10, 100, 300) == pytest.approx(gone, rel=0.02)
    assert PRIOR < 50  # a few ends outweigh it


def test_nobody_goes_on_beyond_a_limit() -> None:
    progress = Progress(SLOTS)
    start(progress, 0, 1000.0, limit=20)
    start(progress, 1, 1000.0)
    assert ending(progress, 19, 20)[1] > 1 > 0.1 > ending(progress, 19)[0]
    progress.rounds += 15
    soon = ending(progress, 4, 5)
    assert soon[1] == pytest.approx(1 + soon[0] / 2, abs=0.01)
    assert progress.remaining()[:3].tolist() == [5, 985, 0]


def test_memory_fades_so_that_new_traffic_is_learnt() -> None:
    progress = Progress(SLOTS)
    learn(progress, 100.0, *[10] * 8000)
    assert ending(progress, 1) == [0.0]  # nobody runs
    for _ in range(40):
        learn(progress, 100.0, *[200] * 400)
        ending(progress, 1)
    start(progress, 0, 100.0)
    assert ending(progress, 150)[0] < 0.05


events = st.lists(
    st.tuples(
        st.integers(0, SLOTS - 1), st.floats(0.5, 3000), st.integers(1, 4000), st.integers(0, 90)
    ),
    max_size=80,
)


@given(events, st.lists(st.integers(1, 5000), min_size=2, max_size=6, unique=True))
@settings(max_examples=200)
def test_expected_ends_grow_with_time_and_never_exceed_those_who_run(
    joins: list[tuple[int, float, int, int]], horizons: list[int]
) -> None:
    """Slots are taken by requests with limits, and fall free at any time."""
    progress, running = Progress(SLOTS), dict[int, Sequence]()
    for slot, expected, limit, rounds in joins:
        if slot in running:
            progress.leave(running.pop(slot), ended=expected < 1000)
        else:
            running[slot] = start(progress, slot, expected, limit)
        nearest = min((s.max_tokens - progress.made(s) for s in running.values()), default=NEVER)
        progress.rounds += min(rounds, max(0, nearest - 1))
        expected_ends = ending(progress, *sorted(horizons))
        assert expected_ends == pytest.approx(sorted(expected_ends))  # but for rounding
        assert expected_ends[0] >= -1e-9
        assert expected_ends[-1] <= len(running) + 1e-9
        left = progress.remaining()
        assert all((left[k] > 0) == (k in running) for k in range(SLOTS))
