"""What is charged while requests run: as was expected at first, and never less than was made."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.cost.model import CostModel
from solver.routing.charges import AGAIN, Charges, Size

COST = CostModel(0.05, 0.001, 0.02, 0.0005)
REQUESTS = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.floats(1.0, 500.0),  # tokens, as expected
        st.floats(0.1, 5.0),  # times that, as it is
        st.floats(0.3, 3.0),  # how fast its worker is
        st.booleans(),  # whether its tokens are seen
    ),
    max_size=20,
)


def size(tokens: float, answers: int = 1) -> Size:
    return Size(COST, 16, 50.0, tokens, answers)


@given(REQUESTS, st.lists(st.floats(0.0, 60.0), max_size=20))
def test_nobody_runs_for_nothing_and_what_is_to_come_is_part_of_what_is_charged(
    requests: list[tuple[str, float, float, float, bool]], steps_s: list[float]
) -> None:
    charges, charged, now = Charges(), {"a": 0.0, "b": 0.0}, 1e6
    began = now
    made = dict.fromkeys(range(len(requests)), 0.0)
    for k, (tenant, expected, _, _, seen) in enumerate(requests):
        one = size(expected)
        told = (lambda k=k: made[k]) if seen else (lambda: None)
        charges.add(k, tenant, one, now, one.lasts_s, told)
        charged[tenant] += one.slot_s
    for step_s in steps_s:
        now += step_s
        for k, (_, expected, times, speed, _) in enumerate(requests):
            done = (now - began) / size(expected).lasts_s * expected
            made[k] = min(done * speed, expected * times)
        for tenant, more in charges.outlived(now):
            assert more > 0
            charged[tenant] += more
        assert all(-1e-6 <= charges.to_come(own, now) <= charged[own] + 1e-6 for own in "ab")
    now += 1e4
    for k, (_, expected, times, _, _) in enumerate(requests):
        made[k] = expected * times
    for _ in range(30):  # each is looked at again in some time, however slow it was
        now *= 1.5
        for tenant, more in charges.outlived(now):
            charged[tenant] += more
    for k, (tenant, expected, times, _, seen) in enumerate(requests):
        found = charges.pop(k)
        assert found is not None
        assert found[0] == tenant
        most = max(expected, AGAIN * expected * times if seen else 0.0)
        least = max(expected, expected * times if seen else 0.0)
        assert least * (1 - 1e-9) <= found[1].output <= most * (1 + 1e-9)
        charged[tenant] -= found[1].slot_s
        assert charges.pop(k) is None
    assert charged == pytest.approx({"a": 0.0, "b": 0.0}, abs=1e-6)
    assert charges.to_come("a", now) == charges.to_come("b", now) == 0.0


def test_what_is_to_come_passes_with_the_time_that_answers_take() -> None:
    charges, one = Charges(), size(400.0, answers=4)
    charges.add("x", "a", one, 10.0, one.lasts_s, lambda: None)
    whole = one.slot_s - one.become(50.0, 0.0).slot_s
    for part in (0.0, 0.25, 0.5, 1.0):
        at_s = 10.0 + part * one.lasts_s
        assert charges.to_come("a", at_s) == pytest.approx((1 - part) * whole)
    assert charges.to_come("a", 1e9) == 0.0
    assert charges.to_come("b", 10.0) == 0.0
    assert list(charges.outlived(1e9)) == []


def test_those_that_have_left_are_not_kept_however_long_they_were_to_last() -> None:
    charges = Charges()
    for k in range(10_000):
        charges.add(k, "a", size(1e9), 0.0, 1e9, lambda: None)
        charges.pop(k)
    assert len(charges._ends) < 1000
