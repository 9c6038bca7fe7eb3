"""Shares of tenants: ours beside VTC and D2LPM, two heavy and eight light tenants on two traces.

Each tenant has the same weight; the heavy two send five sixths of the requests, at 130 % of what
the fleet can do in all. In virtual time, so that it prints the same everywhere::

    python -m tests.bench.bench_tenants
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from router.lab.simulation.loads import requests_per_s
from router.lab.simulation.run import Choice, assembled
from router.lab.simulation.traces import dataset
from solver.cost.profiles import PROFILES
from solver.sim.report import report, time_to_first_token
from solver.sim.request import Request
from solver.sim.worker import WorkerSetting
from solver.sim.workload import poisson

HEAVY, LIGHT = ("heavy-1", "heavy-2"), tuple(f"light-{k}" for k in range(1, 9))
HEAVY_SHARE, LOAD, WORKERS, SLOTS = 5 / 6, 1.3, 4, 64
DISPATCHERS = ("makespan", "vtc", "dlpm", "least-requests")
TRACES = ("azure-conv", "mooncake")


def traffic(name: str, count: int, seed: int) -> list[Request]:
    """The first of a trace, dealt out to tenants by lot, coming faster than they can be served."""
    rng = random.Random(seed)
    requests, _ = dataset(name, most=count)
    tenants = [rng.choice(HEAVY if rng.random() < HEAVY_SHARE else LIGHT) for _ in requests]
    dealt = [replace(one, tenant=own) for one, own in zip(requests, tenants, strict=True)]
    costs = [PROFILES["llama-2-70b-a100-tp4"].cost] * WORKERS
    return poisson(dealt, LOAD * requests_per_s(dealt, costs, SLOTS), rng)


def row(name: str, requests: Sequence[Request]) -> str:
    known = PROFILES["llama-2-70b-a100-tp4"]
    alike = WorkerSetting(SLOTS, known.kv_tokens, prefill_budget=2048, prefix_cache=True)
    fleet = assembled(requests, [known.cost] * WORKERS, alike, Choice("mixed", name, WORKERS))
    fleet.run()
    found = report(fleet)
    first_s = time_to_first_token(fleet)
    light = np.array([request.tenant in LIGHT for request in fleet.requests])
    return (
        f"{name:<16}{found.largest_difference_slot_s:>11.0f}{found.jain_index:>8.3f}"
        f"{found.generation_tokens_per_s:>10.0f}{found.cache_hit_ratio:>8.1%}"
        f"{found.makespan_s:>10.1f}{np.percentile(first_s[light], 50):>9.2f}"
        f"{np.percentile(first_s[light], 99):>9.2f}{found.e2e_s['mean']:>10.1f}"
    )


def main() -> None:
    """Print a table a trace; how many requests each has may be said."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1500
    for trace in TRACES:
        requests = traffic(trace, count, seed=0)
        print(f"{trace}, {len(requests)} requests, {WORKERS} workers of {SLOTS} slots")
        print(
            f"{'':<16}{'difference':>11}{'Jain':>8}{'tokens/s':>10}{'cached':>8}{'makespan':>10}"
            f"{'light p50':>9}{'p99':>9}{'e2e':>10}"
        )
        for name in DISPATCHERS:
            print(row(name, requests), flush=True)


if __name__ == "__main__":
    main()
