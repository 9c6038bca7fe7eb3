"""What workers were sent lately, whatever pauses there were."""

from __future__ import annotations

import pytest

from solver.routing.formulas import QUEUED_S
from solver.routing.lately import LATELY_S, Lately


def steadily(
    found: Lately, *, since: float, until: float, idle: bool = False, step: float = 0.05
) -> None:
    """Ten requests a second of 20 ms each from then on, or nothing."""
    now, sends = since, 0
    while now < until:
        now += step
        found.seen(now, busy=not idle)
        sends += 1
        if not idle and sends % 2 == 0:
            found.sent(0, 0.02, now)


@pytest.fixture
def found() -> Lately:
    made = Lately()
    made.regroup([None, None])
    return made


def share(found: Lately, now: float) -> float:
    (_, nothing), (seconds, no_prefill) = found.a_second(now)
    assert nothing == no_prefill == 0.0
    return seconds


@pytest.mark.parametrize("seconds", [1.5, 3.0, 30.0])
def test_what_is_sent_steadily_is_known_from_the_first_seconds_on(
    found: Lately, seconds: float
) -> None:
    steadily(found, since=0.0, until=seconds)
    assert share(found, seconds) == pytest.approx(0.2, rel=0.1)


def test_a_pause_of_all_counts_for_nothing(found: Lately) -> None:
    now = 0.0
    for _ in range(3):
        steadily(found, since=now, until=now + 2.0)
        assert share(found, now + 2.0) == pytest.approx(0.2, rel=0.1)
        now += 5.0
        steadily(found, since=now - 3.0, until=now, idle=True)


def test_a_pause_of_one_worker_counts(found: Lately) -> None:
    steadily(found, since=0.0, until=9.0)
    for k in range(60):
        found.seen(9.0 + k / 10, busy=True)
    assert share(found, 15.0) < 0.2 * 0.2


def test_the_first_of_all_is_as_if_it_had_come_within_what_may_be_queued(found: Lately) -> None:
    found.seen(0.0, busy=False)
    found.sent(0, 0.5, 0.0)
    requests, prefill_s = found.a_second(0.0)
    assert (requests[0], prefill_s[0]) == pytest.approx((1.0 / QUEUED_S, 0.5 / QUEUED_S))


def test_who_begins_beside_a_busy_fleet_has_not_been_there_before() -> None:
    begins = Lately()
    begins.regroup([None, None])
    steadily(begins, since=5000.0, until=5001.5)
    assert share(begins, 5001.5) == pytest.approx(0.2, rel=0.1)


def test_what_was_long_ago_is_forgotten(found: Lately) -> None:
    steadily(found, since=0.0, until=3.0)
    assert share(found, 3.0 + 10 * LATELY_S) < 1e-4


def test_who_stays_keeps_what_it_was_sent(found: Lately) -> None:
    steadily(found, since=0.0, until=3.0)
    before = share(found, 3.0)
    found.regroup([None, 0])
    requests, prefill_s = found.a_second(3.0)
    assert requests[0] == prefill_s[0] == 0.0
    assert prefill_s[1] == pytest.approx(before)


@pytest.mark.parametrize("began", [0.0, 1e6])
def test_however_long_it_lasts(began: float) -> None:
    once = Lately()
    once.regroup([None, None])
    for hour in range(4):
        steadily(once, since=began + 3600 * hour, until=began + 3600 * hour + 9.0)
        assert share(once, began + 3600 * hour + 9.0) == pytest.approx(0.2, rel=0.1)
