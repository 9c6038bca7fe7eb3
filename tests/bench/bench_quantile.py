"""Which figure of a predicted length to plan with: the mean, or a quantile.

    python -m tests.bench.bench_quantile

Streams at 85 % load on four workers of speeds 1.5, 1, 1, 1/2, lengths predicted from what has
ended; then batches on workers of one slot, as in bench_rolling. Each figure is relative to planning
with the mean: below 1 is better. What is left of running requests is predicted again in all cases.
"""

from __future__ import annotations

import random
from itertools import product
from statistics import geometric_mean

from router.lab.simulation.traces import dataset
from solver.batching.policies import POLICIES
from solver.cost.profiles import PROFILES
from solver.routing.dispatchers.makespan import Makespan
from solver.sim.fleet import Fleet
from solver.sim.forecast import PosteriorLengths, PredictedLengths
from solver.sim.report import Report, report
from solver.sim.worker import Worker, WorkerSetting
from tests.bench.bench_fleet import HARDWARE, UNEQUAL, at_load
from tests.bench.bench_rolling import (
    DEVIATION,
    MEAN,
    SIGMA,
    SPEEDS,
    draw,
    rolling,
)

QUANTILES = (None, 0.5, 0.6, 0.75, 0.9)
REQUESTS = 3000
TRACES = ("azure-conv", "servegen-m-large")
SEEDS = 5


def stream(trace: str, hardware: str, quantile: float | None) -> Report:
    profile = PROFILES[hardware]
    costs = [profile.cost.scaled(1 / speed) for speed in UNEQUAL]
    requests = at_load(dataset(trace)[0][:REQUESTS], costs, profile.slots, 0.85)
    setting = WorkerSetting(profile.slots, profile.kv_tokens)
    workers = [
        Worker(f"w{j}", cost, setting, POLICIES["adaptive"]()) for j, cost in enumerate(costs)
    ]
    fleet = Fleet(requests, workers, Makespan(), PredictedLengths(quantile))
    fleet.run()
    return report(fleet)


def batch(requests: int, workers: int, kind: str, quantile: float | None, seed: int) -> float:
    case = draw(requests, workers, SPEEDS[kind], seed, backlog=True)
    told = PosteriorLengths(SIGMA, random.Random(f"{seed}/noise"), MEAN, DEVIATION, quantile)
    return rolling(case, told)


def streams() -> None:
    heads = ("plan with", "makespan", "E2E mean", "E2E p99", "TTFT mean")
    print(f"{'stream':<34}" + "".join(f"{head:>10}" for head in heads))
    for trace, hardware in product(TRACES, HARDWARE):
        base: list[float] = []
        for quantile in QUANTILES:
            r = stream(trace, hardware, quantile)
            found = [r.makespan_s, r.e2e_s["mean"], r.e2e_s["p99"], r.ttft_s["mean"]]
            base = base or found
            cells = "".join(f"{x / y:>10.3f}" for x, y in zip(found, base, strict=True))
            print(f"{trace + ' ' + hardware[12:]:<34}{quantile or 'mean':>10}{cells}", flush=True)


def batches() -> None:
    print(f"\n{'batch':<34}{'plan with':>10}{'makespan':>10}")
    for (n, m), kind in product(((200, 8), (500, 32)), SPEEDS):
        base: list[float] = []
        for quantile in QUANTILES:
            found = [batch(n, m, kind, quantile, seed) for seed in range(SEEDS)]
            base = base or found
            ratio = geometric_mean(x / y for x, y in zip(found, base, strict=True))
            print(f"{f'{n} x {m} {kind}':<34}{quantile or 'mean':>10}{ratio:>10.3f}", flush=True)


if __name__ == "__main__":
    streams()
    batches()
