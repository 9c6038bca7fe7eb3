"""Workers of unequal speed get work in proportion, and finish together."""

from __future__ import annotations

from collections import defaultdict

import pytest

from router.lab.simulation.traces import dataset
from solver.cost.profiles import PROFILES
from tests.solver.sim.drive import Run, Way, simulate

SPEEDS = (24.0, 24.0, 8.0)


@pytest.fixture(scope="module")
def run() -> Run:
    """600 requests of known lengths, which come at once."""
    requests = dataset("gsm8k-llama65b")[0][:600]
    cost_ms = PROFILES["llama-65b-ascend"].cost.to_ms()
    return simulate(requests, Way(cost_ms, 8, workers=3, speeds=SPEEDS))


def test_no_worker_is_left_with_work_when_the_others_have_done_theirs(run: Run) -> None:
    """What is unsent is planned again and again, so the fleet ends together."""
    ends = [max(run.fleet.end_s[run.fleet.placed == j]) for j in range(len(SPEEDS))]
    assert min(ends) >= 0.9 * max(ends)


def test_work_is_in_proportion_to_speed(run: Run) -> None:
    tokens: dict[int, int] = defaultdict(int)
    for request, j in zip(run.fleet.requests, run.fleet.placed.tolist(), strict=True):
        tokens[j] += request.output_tokens
    total = sum(tokens.values())
    for j, speed in enumerate(SPEEDS):
        assert tokens[j] / total == pytest.approx(speed / sum(SPEEDS), rel=0.1)
