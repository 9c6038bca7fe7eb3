"""Metrics that count when somebody looks: the same as if they had counted at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram

from router.observe import metrics
from router.observe.metrics import SHORT, Observed

# Among them the bounds themselves, below all and above all.
AMOUNTS = st.lists(st.sampled_from((0.0, *SHORT, 9.9)) | st.floats(-1.0, 10.0), max_size=60)


def buckets(made: Histogram) -> dict[tuple[str, str], float]:
    return {
        (one.name, one.labels.get("le", "")): one.value
        for family in made.collect()
        for one in family.samples
    }


@given(st.lists(AMOUNTS, max_size=4), st.booleans())
def test_a_histogram_comes_to_what_it_would_have_counted_one_by_one(
    looks: Sequence[Sequence[float]], together: bool
) -> None:
    late = Observed("a", "A.", buckets=SHORT, registry=CollectorRegistry())
    at_once = Histogram("a", "A.", buckets=SHORT, registry=CollectorRegistry())
    for amounts in looks:
        if together:
            late.observe_all(amounts)
        for amount in amounts:
            if not together:
                late.observe(amount)
            at_once.observe(amount)
        assert buckets(late) == pytest.approx(buckets(at_once))


@pytest.mark.parametrize(
    "look",
    [
        lambda made: made.outcomes()["completed"],
        lambda made: int(made.render().split(b'_total{model="m",outcome="completed"} ')[1][:1]),
    ],
)
def test_who_looks_finds_what_has_not_been_told_yet(
    look: Callable[[metrics.GatewayMetrics], int],
) -> None:
    made, told = metrics.GatewayMetrics(), [1, 2]

    def settle() -> None:
        while told:
            made.requests.labels("m", "completed").inc(told.pop())

    made.settle = settle
    assert look(made) == 3
    told.append(4)
    assert look(made) == 7
