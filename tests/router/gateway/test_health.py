"""What a worker's health makes of what happens to it, whatever that is and in whatever order."""

from __future__ import annotations

from itertools import pairwise
from math import inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.gateway.fleet.health import (
    FIRST_FULL_S,
    FIRST_HOLD_S,
    LONGEST_BUSY_S,
    LONGEST_HOLD_S,
    MISSES,
    Health,
    Standing,
)


def well() -> Health:
    health = Health()
    health.answered()
    return health


def fail(health: Health, times: int, now: float = 0.0) -> None:
    for _ in range(times):
        health.failed(now, "it answered 500")


EVENTS = st.sampled_from(
    ["answered", "missed", "silent", "lost", "sent", "spoke", "served", "failed", "overdue", "busy",
     "left", "wake"]
)  # fmt: skip


def happen(health: Health, event: str, now: float, *, trial: bool) -> None:
    match event:
        case "missed" | "silent" | "lost":
            getattr(health, event)("why")
        case "answered" | "sent" | "spoke":
            getattr(health, event)()
        case "wake":
            health.wake(now)
        case "served":
            health.served(now, trial=trial)
        case "left":
            health.left(now, trial=trial)
        case _:
            getattr(health, event)(now, "why", trial=trial)


@given(st.lists(st.tuples(EVENTS, st.booleans(), st.floats(0, 40))))
def test_whatever_happens(story: list[tuple[str, bool, float]]) -> None:
    """It says why it is not up; it is woken again; and it comes back once it serves."""
    health, now, trials = Health(), 0.0, 0
    for event, trial, later_s in story:
        now += later_s
        if event == "sent":
            trials += health.sent()
        else:
            happen(health, event, now, trial=trial and trials > 0)
        if health.standing is not Standing.UP:
            assert health.reason
        if health.standing is Standing.DOWN:
            assert (health.places, health.open) == (0, False)
        if health.until_s < inf:
            assert health.until_s - now <= max(LONGEST_HOLD_S, LONGEST_BUSY_S)
        if health.well:
            assert (health.standing, health.places, health.rank) == (Standing.UP, inf, 0)
    health.answered()
    now = now if health.until_s == inf else health.until_s
    health.wake(now)
    trial = health.sent()
    for _ in range(40):
        health.served(now, trial=trial or health.held)
    assert health.well
    assert health.untouched


@given(st.lists(st.sampled_from(["missed", "silent", "answered"])))
def test_slow_looks_alone_take_nobody_down(story: list[str]) -> None:
    health = well()
    for event in story:
        happen(health, event, 0.0, trial=False)
        assert health.standing in (Standing.UP, Standing.SUSPECT)
        assert health.open


def test_one_slow_look_is_nothing_and_bytes_clear_it() -> None:
    health = well()
    for _ in range(3):
        for _ in range(MISSES - 1):
            health.missed("slow")
        health.spoke()
    assert health.standing is Standing.UP
    for _ in range(MISSES):
        health.missed("slow")
    assert (health.standing, health.reason, health.rank) == (Standing.SUSPECT, "slow", 1)
    health.spoke()
    assert health.standing is Standing.UP


def test_five_failures_in_a_row_eject_and_every_second_one_does_not() -> None:
    health = well()
    for _ in range(100):
        health.failed(0.0, "500")
        health.served(0.0)
        assert health.standing is Standing.UP
    health = well()
    fail(health, 4)
    assert health.standing is Standing.UP
    assert not health.well
    fail(health, 1)
    assert (health.standing, health.reason) == (Standing.EJECTED, "it answered 500")


def test_who_breaks_off_what_it_has_begun_is_ejected_as_soon_as_who_begins_nothing() -> None:
    health = well()
    for k in range(5):
        assert health.standing is Standing.UP, k
        health.served(0.0)
        health.failed(0.0, "it broke off", begun=True)
    assert health.standing is Standing.EJECTED
    health.wake(health.until_s)
    trial = health.sent()
    health.served(9.0, trial=trial)
    health.failed(9.0, "it broke off", trial=trial, begun=True)
    assert health.standing is Standing.EJECTED, "its trial has broken off"


@given(st.lists(st.booleans(), min_size=60, max_size=60))
def test_who_fails_two_thirds_of_the_time_is_ejected(answers: list[bool]) -> None:
    health = well()
    bad = False
    for k, first in enumerate(answers):
        for good in (first and k % 2 == 0, False, False):
            health.served(0.0) if good else health.failed(0.0, "500")
            bad = bad or health.standing is Standing.EJECTED
    assert bad


def test_an_ejected_worker_gets_one_trial_after_a_time_that_grows() -> None:
    health, now = well(), 0.0
    fail(health, 5, now)
    holds = []
    for _ in range(8):
        assert health.places == inf, "the last resort, until then"
        holds.append(health.until_s - now)
        health.wake(health.until_s - 0.001)
        assert health.rank == 2
        now = health.until_s
        health.wake(now)
        assert (health.rank, health.places) == (0, 1)
        assert health.sent()
        assert not health.sent()
        assert health.places == 0
        health.failed(now, "500", trial=True)
    assert holds[0] == FIRST_HOLD_S
    assert all(b == min(LONGEST_HOLD_S, 2 * a) for a, b in pairwise(holds))
    health.wake(health.until_s)
    health.sent()
    health.served(now, trial=True)
    assert (health.standing, health.places) == (Standing.UP, inf)
    fail(health, 2, now)
    assert health.standing is Standing.EJECTED, "it is on probation"


@pytest.mark.parametrize("seed", range(5))
def test_who_fails_now_and_then_is_mostly_there_however_much_it_is_sent(seed: int) -> None:
    chance = Random(seed)
    health, held_s, seconds, a_second = well(), 0.0, 60, 100
    for k in range(seconds * a_second):
        now = k / a_second
        health.wake(now)
        trial = health.sent()
        if health.standing is Standing.EJECTED and not trial:
            held_s += 1 / a_second
        elif chance.random() < 0.1:
            health.failed(now, "it answered 500", trial=trial)
        else:
            health.served(now, trial=trial)
    assert held_s < 0.25 * seconds


def test_a_trial_whose_client_leaves_is_due_again() -> None:
    health = well()
    fail(health, 5)
    health.wake(health.until_s)
    health.sent()
    health.left(5.0, trial=True)
    assert (health.places, health.rank) == (1, 0)


def test_what_was_sent_before_does_not_bring_an_ejected_worker_back() -> None:
    health = well()
    fail(health, 5)
    health.served(0.0)
    assert health.standing is Standing.EJECTED


def test_a_hung_worker_is_suspect_at_once_ejected_if_it_goes_on_and_any_byte_clears_suspicion() -> (
    None
):
    health = well()
    health.overdue(0.0, "no byte")
    assert (health.standing, health.rank, health.places) == (Standing.SUSPECT, 1, inf)
    health.answered()
    assert health.rank == 1, "that it tells its models says nothing"
    health.spoke()
    assert (health.rank, health.places) == (0, inf)
    health.overdue(0.0, "no byte")
    health.wake(health.until_s)
    assert health.sent()
    health.overdue(9.0, "no byte", trial=True)
    assert health.standing is Standing.EJECTED


def test_a_full_worker_stays_up_and_gets_nothing_for_a_moment() -> None:
    health = well()
    health.busy(0.0, "full")
    assert (health.standing, health.open, health.places) == (Standing.UP, False, 0)
    assert health.until_s == FIRST_FULL_S
    health.busy(0.01, "full")
    assert health.until_s < 2 * FIRST_FULL_S, "those sent together count as one"
    health.wake(health.until_s)
    assert (health.open, health.places) == (True, 1)
    health.sent()
    health.busy(1.0, "full", trial=True)
    assert health.until_s == 1.0 + 2 * FIRST_FULL_S
    health.wake(health.until_s)
    health.sent()
    health.served(2.0, trial=True)
    assert health.places == inf
    health.busy(3.0, "limits", 7.0)
    assert health.until_s == 10.0
    health.busy(3.0, "limits", 1e9)
    assert health.until_s == 3.0 + LONGEST_BUSY_S


def test_who_comes_back_from_being_down_starts_afresh() -> None:
    health = well()
    fail(health, 5)
    health.lost("refused")
    assert (health.standing, health.reason, health.until_s) == (Standing.DOWN, "refused", inf)
    health.answered()
    assert health.well
