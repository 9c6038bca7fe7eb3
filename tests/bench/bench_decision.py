"""How long decisions take: what an engine does next, and which request goes to which worker.

Engines: 256 slots, 10,000 waiting requests, one core. Each decision is timed in a Batcher that is
kept full: `decide` alone, and all of `next_stage`. The paper claims under 5 ms (arXiv:2502.15763,
abstract).

Workers: the plan of what waits, and all of the decision: a look at the workers, as a gateway knows
them, what to plan, the plan, and who is sent. Workers are idle, or nearly full: from two free slots
to three requests that queue. The same is decided a few times, and the last time counts, as one
decision follows another. It is CPU time, which other work on the machine lengthens, too.

    .venv/bin/python -m tests.bench.bench_decision
"""

from __future__ import annotations

import random
import sys
import time
from statistics import median

import numpy as np

from router.gateway.fleet.worker import Worker
from solver.batching.batcher import Batcher
from solver.batching.policies import POLICIES
from solver.batching.policy import Decision, EngineView, IterationPolicy
from solver.batching.sequence import Sequence
from solver.batching.targets import Targets
from solver.cost.model import CostModel
from solver.cost.profiles import PROFILES
from solver.routing.assign import Assignment, plan_in_turn
from solver.routing.dispatchers.base import Arrival
from solver.routing.problem import Job
from solver.routing.rolling import RollingHorizon, Selection
from solver.routing.slots import PlainSlots
from tests.router.gateway.fleet import COST, state

SLOTS, WAITING, DECISIONS = 256, 10_000, 3000
# Requests that wait, and workers.
SIZES = ((1, 1), (1, 16), (1, 64), (1, 256), (64, 4), (64, 16), (64, 64), (64, 256), (10_000, 256))
SPEEDS, PLACES, REPEATS = (0.5, 1.0, 1.0, 2.0), 32, 11
TURNS = 4  # in which the same is decided; the last one counts


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


def fleet(count: int, busy: bool, rng: random.Random) -> list[Worker]:
    """A gateway's workers with agents, of speeds 1/2, 1, 1 and 2."""
    workers = []
    for j in range(count):
        worker = Worker(f"http://w{j}:1", PlainSlots(PLACES), COST)
        worker.update_state(state(f"w{j}", speed=SPEEDS[j % len(SPEEDS)], slots=PLACES))
        worker.health.answered()
        there = rng.randint(PLACES - 2, PLACES + 3) if busy else 0
        for k in range(there):
            worker.load.add(k, Job(rng.randint(20, 1500), 300.0), 0.0, streamed=True)
            if k < min(PLACES, there - 3):
                worker.load.progress(k, rng.randint(1, 200))
        workers.append(worker)
    return workers


def decide(
    rolling: RollingHorizon[Arrival, Worker], workers: list[Worker], now: float
) -> tuple[Selection[Arrival, Worker], Assignment, float]:
    """What is planned, the plan, and its CPU seconds."""
    selection = rolling.select(now, workers)
    assert selection is not None
    start = time.process_time()
    plan = plan_in_turn(selection.asked)
    return selection, plan, time.process_time() - start


def placement(waiting: int, count: int, busy: bool, seed: int) -> tuple[float, float]:
    """CPU seconds of one plan, and of its whole decision."""
    rng = random.Random(seed)
    workers, targets, now = fleet(count, busy, rng), Targets(2.0, 0.1), 0.0
    rolling: RollingHorizon[Arrival, Worker] = RollingHorizon(hold_back=True)
    for k in range(waiting):
        prompt, expected = rng.randint(20, 1500), rng.uniform(20.0, 500.0)
        rolling.add(Arrival(k, now, prompt, expected, targets=targets), now)
    rolling.select(now, workers)  # they have come; the next ones decide
    for turn in range(1, TURNS):
        decide(rolling, workers, now + turn / 100)
    start = time.process_time()
    selection, plan, planned_s = decide(rolling, workers, now + TURNS / 100)
    for _ in rolling.bind(selection, plan, now):
        pass
    return planned_s, time.process_time() - start


def engines() -> None:
    """What they do next."""
    print(f"{SLOTS} slots, {WAITING:,} waiting, {DECISIONS:,} decisions; microseconds")
    print(f"{'policy':<15}{'decide p50':>12}{'p99':>8}{'next_stage p50':>17}{'p99':>8}")
    for name in POLICIES:
        decide, stage = (np.percentile(s, (50, 99)) * 1e6 for s in measure(name))
        print(f"{name:<15}{decide[0]:>12.1f}{decide[1]:>8.1f}{stage[0]:>17.1f}{stage[1]:>8.1f}")


def workers() -> None:
    """Who goes where."""
    print(f"\nwaiting x workers, {PLACES} slots each, {REPEATS} decisions; CPU microseconds")
    print(f"{'':<15}{'plan, idle':>12}{'nearly full':>13}{'all, idle':>13}{'nearly full':>13}")
    for waiting, count in SIZES:
        cells = ""
        for column in range(2):
            for busy in (False, True):
                found = [placement(waiting, count, busy, seed)[column] for seed in range(REPEATS)]
                cells += f"{median(found) * 1e6:>13.0f}"
        print(f"{f'{waiting:,} x {count}':<15}{cells[1:]}")


def main() -> None:
    """Print both tables, or the one that is named."""
    for table in (engines, workers):
        if not sys.argv[1:] or table.__name__ in sys.argv[1:]:
            table()


if __name__ == "__main__":
    main()
