"""Requests and tokens a minute: never more than they allow, and waits that are true."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.routing.quota import MINUTE_S, Bucket, Quota

asked = st.lists(st.tuples(st.floats(0.0, 30.0), st.floats(1.0, 5000.0)), min_size=1, max_size=60)


@given(asked, st.floats(1.0, 100.0), st.floats(100.0, 4000.0))
def test_no_stretch_of_time_has_more_than_its_minutes_allow(
    asks: list[tuple[float, float]], requests: float, tokens: float
) -> None:
    quota, now, taken = Quota(requests, tokens), 0.0, list[tuple[float, float]]()
    for pause_s, amount in asks:
        now += pause_s
        if quota.take(amount, now) == (0.0, 0.0):
            taken.append((now, amount))
    for first, (begin, _) in enumerate(taken):
        for last in range(first, len(taken)):
            minutes = (taken[last][0] - begin) / MINUTE_S
            assert last - first + 1 <= requests * (1 + minutes) + 1e-6
            # The last may be larger than what is left, if it was larger than all of a minute.
            before = sum(amount for _, amount in taken[first:last])
            assert (
                before + min(taken[last][1], tokens) <= tokens * (1 + minutes) * (1 + 1e-9) + 1e-6
            )


@given(asked, st.floats(1.0, 100.0), st.floats(100.0, 4000.0))
def test_who_comes_when_told_gets_in_and_not_a_moment_before(
    asks: list[tuple[float, float]], requests: float, tokens: float
) -> None:
    quota, now = Quota(requests, tokens), 0.0
    for pause_s, amount in asks:
        now += pause_s
        wait_s = max(quota.take(amount, now))
        if wait_s > 1e-6:
            assert max(quota.take(amount, now + wait_s * 0.999)) > 0
            now += wait_s * (1 + 1e-9) + 1e-9
            assert quota.take(amount, now) == (0.0, 0.0)


def test_what_was_not_used_comes_back_and_what_was_used_beyond_is_missing() -> None:
    quota = Quota(tokens=600.0)
    quota.take(500.0, 0.0)
    quota.settle(500.0, 100.0)
    assert quota.take(500.0, 0.0) == (0.0, 0.0)
    quota.settle(500.0, 1100.0)  # 600 beyond what there was
    assert max(quota.take(60.0, 0.0)) == pytest.approx(MINUTE_S * 1.1)


def test_without_limits_everything_goes_and_nothing_is_told() -> None:
    quota = Quota()
    assert all(quota.take(1e9, 0.0) == (0.0, 0.0) for _ in range(100))
    assert quota.requests.level(0.0) is None


@pytest.mark.parametrize("limits", [(10.0, 100.0), (100.0, 10.0), (inf, 50.0), (50.0, inf)])
def test_a_changed_limit_keeps_what_was_taken(limits: tuple[float, float]) -> None:
    before, after = limits
    bucket = Bucket(before)
    bucket.wait_s(8.0, 0.0)
    bucket.take(8.0)
    bucket.change(after)
    level = bucket.level(0.0)
    if level is not None:
        assert level.remaining == pytest.approx(after - (8.0 if before < inf else 0.0))
