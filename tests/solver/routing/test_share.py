"""Several senders before one worker: all of it is used, and each who wants has its share."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.routing.load import WorkerLoad
from solver.routing.problem import Job
from solver.routing.share import Share
from solver.routing.sums import NOTHING, LoadSums


@dataclass
class Sender:
    """One that wants so much in all, and sees the others whenever it looks."""

    wants: int
    has: int = 0
    share: Share = field(default_factory=Share)

    @property
    def waiting(self) -> int:
        return self.wants - self.has

    def look(
        self, capacity: int, others: list[Sender], portion: tuple[float, bool] | None = None
    ) -> None:
        held = sum(one.has for one in others)
        content = sum(one.has for one in others if not one.waiting)
        wanting = sum(one.waiting > 0 for one in others)
        self.share.look(capacity, self.has, content, wanting, held, portion)
        free = max(0, capacity - self.has - held)
        sends = int(min(self.waiting, free, self.share.room(self.has)))
        self.has += sends
        self.share.sent(sends)

    def end(self) -> None:
        """One of its requests ends, and another comes."""
        if self.has:
            self.has -= 1
            self.share.left(1)


def turn(capacity: int, senders: list[Sender], rng: Random) -> None:
    for sender in rng.sample(senders, len(senders)):
        sender.look(capacity, [one for one in senders if one is not sender])


@given(st.integers(1, 40), st.lists(st.integers(0, 60), min_size=1, max_size=5), st.integers())
def test_nothing_stays_empty_that_somebody_wants(
    capacity: int, wants: list[int], seed: int
) -> None:
    senders, rng = [Sender(want) for want in wants], Random(seed)
    for _ in range(3):
        turn(capacity, senders, rng)
        assert sum(one.has for one in senders) <= capacity
    assert sum(one.has for one in senders) == min(capacity, sum(wants))


@given(st.integers(2, 5), st.integers(1, 8), st.integers())
def test_who_comes_late_gets_its_share_as_others_requests_end(
    count: int, each: int, seed: int
) -> None:
    capacity, rng = count * each, Random(seed)
    first, *late = [Sender(0) for _ in range(count)]
    first.wants = 10 * capacity
    turn(capacity, [first], rng)
    assert first.has == capacity
    senders = [first, *late]
    for one in late:
        one.wants = 10 * capacity
    for _ in range(20 * capacity):
        ending = rng.choices(senders, [one.has for one in senders])[0]
        ending.end()
        ending.look(capacity, [one for one in senders if one is not ending])  # it knows first
        turn(capacity, senders, rng)
    assert all(abs(one.has - each) <= 1 for one in senders), [one.has for one in senders]


@given(st.integers(4, 40), st.floats(0.1, 0.9), st.integers())
def test_of_two_that_want_all_each_has_what_is_due_there(
    capacity: int, part: float, seed: int
) -> None:
    """In the mean also what makes no whole place, as whoever has had less has the better of it."""
    rng, senders = Random(seed), [Sender(9 * capacity), Sender(9 * capacity)]
    parts, had, last = (part, 1 - part), [0.0, 0.0], 0
    for step in range(80 * capacity):
        for k in (last, *rng.sample((0, 1), 2)):  # whose request ended knows first
            better = had[k] / parts[k] <= had[1 - k] / parts[1 - k]
            senders[k].look(capacity, [senders[1 - k]], (parts[k], better))
        if step > 20 * capacity:
            had = [before + one.has for before, one in zip(had, senders, strict=True)]
        last = rng.choices((0, 1), [one.has for one in senders])[0]
        senders[last].end()
    least = 1 / capacity  # nobody goes without
    due = min(1 - least, max(least, part))
    assert had[0] / sum(had) == pytest.approx(due, abs=0.08)


@given(
    st.lists(st.tuples(st.integers(1, 500), st.integers(1, 500)), max_size=8),
    st.builds(LoadSums, st.integers(0, 50), st.integers(0, 50), st.integers(0, 9999)),
    st.booleans(),
)
def test_a_load_is_ones_own_and_that_of_others(
    jobs: list[tuple[int, int]], others: LoadSums, told_first: bool
) -> None:
    alone, shared = WorkerLoad(), WorkerLoad()
    if told_first:
        shared.tell_others(others)
    for k, (prompt, expected) in enumerate(jobs):
        for load in (alone, shared):
            load.add(k, Job(prompt, float(expected)), 0.0, streamed=True)
            load.progress(k, k % 3)
    shared.tell_others(others)
    assert shared.own == alone.own
    assert shared.sequences == alone.sequences + others.sequences
    assert shared.kv_tokens == alone.kv_tokens + others.prompt_tokens
    for k in range(len(jobs)):
        shared.remove(k)
    assert shared.own == NOTHING
    shared.tell_others(NOTHING)
    assert (shared.sequences, shared.kv_tokens, len(shared)) == (0, 0.0, 0)
