"""How long the online decision takes: 256 slots, 10,000 waiting requests, one core.

Each decision is timed in a Batcher that is kept full: `decide` alone, and all of `next_stage`. The
paper claims under 5 ms (arXiv:2502.15763, abstract).

    .venv/bin/python -m tests.bench.bench_decision
"""

from __future__ import annotations

import random
import time

import numpy as np

from solver.batching.batcher import Batcher
from solver.batching.policies import POLICIES
from solver.batching.policy import Decision, EngineView, IterationPolicy
from solver.batching.sequence import Sequence
from solver.cost.model import CostModel
from solver.cost.profiles import PROFILES

SLOTS, WAITING, DECISIONS = 256, 10_000, 3000


class Timed:
    """A policy that measures the one inside."""

    def __init__(self, inner: IterationPolicy) -> None:
        self.inner = inner
        self.seconds: list[float] = []

    def decide(self, view: EngineView, cost: CostModel) -> Decision:
        start = time.perf_counter()
        decision = self.inner.decide(view, cost)
        self.seconds.append(time.perf_counter() - start)
        return decision


def measure(name: str) -> tuple[list[float], list[float]]:
    """Seconds of each decision, and of each call of `next_stage`."""
    rng = random.Random(0)
    cost = PROFILES["llama-65b-ascend"].cost
    policy = Timed(POLICIES[name]())
    batcher = Batcher(SLOTS, 10**7, cost, policy, 0.0)
    made = 0

    def come(now: float) -> None:
        nonlocal made
        made += 1
        prompt, expected = rng.randint(20, 200), float(rng.randint(20, 500))
        batcher.add(Sequence(str(made), prompt, expected, 1024, now), now)

    for _ in range(SLOTS + WAITING):
        come(0.0)
    now, stages = 0.0, []
    for _ in range(DECISIONS):
        start = time.perf_counter()
        stage = batcher.next_stage(now)
        stages.append(time.perf_counter() - start)
        assert stage is not None
        now += stage.duration_s(cost)
        ended = [s.id for s in stage.decode if rng.random() < 1 / 300]
        batcher.finish_stage(stage, ended, now)
        for _ in ended:
            come(now)
    return policy.seconds, stages


def main() -> None:
    print(f"{SLOTS} slots, {WAITING:,} waiting, {DECISIONS:,} decisions; microseconds")
    print(f"{'policy':<15}{'decide p50':>12}{'p99':>8}{'next_stage p50':>17}{'p99':>8}")
    for name in POLICIES:
        decide, stage = (np.percentile(s, (50, 99)) * 1e6 for s in measure(name))
        print(f"{name:<15}{decide[0]:>12.1f}{decide[1]:>8.1f}{stage[0]:>17.1f}{stage[1]:>8.1f}")


if __name__ == "__main__":
    main()
