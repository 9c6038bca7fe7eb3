"""Tiny engines whose optimum is known exactly: no policy beats it, and ours comes close."""

from __future__ import annotations

import random
from statistics import mean

import pytest

from solver.batching.exact import search
from solver.batching.policies import POLICIES
from solver.routing.dispatchers import dispatcher
from solver.sim.fleet import Fleet
from solver.sim.forecast import length_forecaster
from solver.sim.report import report
from solver.sim.request import Request
from solver.sim.worker import Worker, WorkerSetting
from tests.solver.batching.engine_cases import LLAMA_65B, Requests, engine_cases

SLOTS = 3
CASES = engine_cases(seed=1, count=50)


@pytest.fixture(scope="module")
def optima() -> list[float]:
    return [search.solve(case, SLOTS, LLAMA_65B).makespan_s for case in CASES]


def run(case: Requests, policy: str, order: str, lengths: str) -> tuple[float, float]:
    """(makespan, bound) in seconds."""
    requests = [Request(str(k), prompt, output) for k, (prompt, output) in enumerate(case)]
    worker = Worker("w0", LLAMA_65B, WorkerSetting(SLOTS, order=order), POLICIES[policy]())
    told = length_forecaster(lengths, 0)
    fleet = Fleet(requests, [worker], dispatcher("round-robin", random.Random(0)), told)
    fleet.run()
    found = report(fleet)
    return found.makespan_s, found.lower_bound_s


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize(("order", "lengths"), [("longest", "known"), ("fcfs", "unknown")])
def test_bound_optimum_policy(policy: str, order: str, lengths: str, optima: list[float]) -> None:
    for case, optimum in zip(CASES, optima, strict=True):
        makespan, bound = run(case, policy, order, lengths)
        assert bound <= optimum * (1 + 1e-9)
        assert optimum <= makespan * (1 + 1e-9)


def test_adaptive_is_within_three_percent_of_the_optimum(optima: list[float]) -> None:
    made = [run(case, "adaptive", "longest", "known")[0] for case in CASES]
    assert mean(m / optimum for m, optimum in zip(made, optima, strict=True)) <= 1.03
