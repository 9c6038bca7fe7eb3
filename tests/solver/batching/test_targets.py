"""Targets: both limits count, and limits must be limits."""

from __future__ import annotations

from math import inf, nan

import pytest

from solver.batching.priority import Priority
from solver.batching.targets import DEFAULT_TARGETS, NO_TARGETS, Targets
from solver.errors import ProblemError


@pytest.mark.parametrize(
    ("ttft_s", "tpot_s", "met"),
    [(2.0, 0.1, True), (2.1, 0.1, False), (2.0, 0.11, False), (inf, 0.0, False), (0.0, 0.0, True)],
)
def test_both_limits_count(ttft_s: float, tpot_s: float, met: bool) -> None:
    assert Targets(2.0, 0.1).met(ttft_s, tpot_s) is met


def test_without_targets_everything_is_met() -> None:
    assert NO_TARGETS.met(inf, inf)


@pytest.mark.parametrize("limit", [0.0, -1.0, nan])
def test_a_limit_is_above_zero(limit: float) -> None:
    with pytest.raises(ProblemError, match="ttft_s"):
        Targets(ttft_s=limit)


def test_every_priority_has_a_default() -> None:
    assert DEFAULT_TARGETS.keys() == set(Priority)
