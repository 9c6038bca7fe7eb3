"""Shares of tenants: ours beside VTC and D2LPM, two heavy and eight light tenants on three traces.

Each tenant has the same weight; the heavy two send five sixths of the requests, at 130 % of what
the fleet can do in all. Then as many tenants of traffic that is drawn, on fleets of several sizes,
and first tokens of a tenant that asks now and then, while two others have lines. In virtual
time, so that it prints the same everywhere::

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
from solver.routing.dispatchers import FOR_TENANTS
from solver.sim.fleet import Fleet
from solver.sim.report import Report, report, time_to_first_token
from solver.sim.request import Request
from solver.sim.worker import WorkerSetting
from solver.sim.workload import poisson

HEAVY, LIGHT = ("heavy-1", "heavy-2"), tuple(f"light-{k}" for k in range(1, 9))
HEAVY_SHARE, LOAD, WORKERS, SLOTS = 5 / 6, 1.3, 4, 64
DISPATCHERS = ("makespan", "vtc", "dlpm", "least-requests")
TRACES = ("azure-conv", "mooncake", "servegen-m-large")
# Slots of a worker, and seconds that its answers take on average.
# Of drawn traffic: workers, slots of each, and how they prefill; and what it is as long as.
DRAWN = tuple((m, n, by) for by in ("adaptive", "mixed") for m, n in ((2, 16), (2, 32), (4, 16)))
SEEDS = 4
LENGTHS = ((50, 900), (20, 300), (100, 1500))
CROWDED = ((64, 5.0), (64, 10.0), (64, 20.0), (128, 10.0), (128, 20.0))


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


def drawn(seed: int, workers: int, slots: int) -> list[Request]:
    """Tenants of which two send most, at 160 % of what the fleet can do, with lengths by lot."""
    rng, cost, now = random.Random(seed), PROFILES["llama-65b-ascend"].cost, 0.0
    prompt, output, heavy = rng.choice(LENGTHS), rng.choice(LENGTHS), rng.uniform(0.6, 0.85)
    takes_s = sum(output) / 2 * cost.decode_s(slots) + slots * cost.prefill_s(sum(prompt) / 2)
    made = list[Request]()
    for k in range(10 * workers * slots):
        now += rng.expovariate(1.6 * workers * slots / takes_s)
        tenant = rng.choice(HEAVY if rng.random() < heavy else LIGHT)
        sizes = rng.randint(*prompt), rng.randint(*output)
        made.append(Request(str(k), *sizes, now, tenant=tenant))
    return made


def drawn_row(workers: int, slots: int, policy: str) -> str:
    """Ours over the best rival's, of each seed."""
    cost, differences, rates = PROFILES["llama-65b-ascend"].cost, list[float](), list[float]()
    for seed in range(SEEDS):
        requests, found = drawn(seed, workers, slots), list[Report]()
        for name in ("makespan", *sorted(FOR_TENANTS)):
            choice = Choice(policy, name, workers)
            fleet = assembled(requests, [cost] * workers, WorkerSetting(slots), choice)
            fleet.run()
            found.append(report(fleet))
        ours, *rivals = found
        least = min(one.largest_difference_slot_s for one in rivals)
        differences.append(ours.largest_difference_slot_s / least)
        most = max(one.generation_tokens_per_s for one in rivals)
        rates.append(ours.generation_tokens_per_s / most)
    mean = float(np.exp(np.log(differences).mean()))
    return (
        f"{workers:>7}{slots:>6}  {policy:<10}{mean:>11.2f}{max(differences):>8.2f}"
        f"{np.mean(rates):>10.3f}{min(rates):>8.3f}"
    )


def crowded(
    slots: int, answer_s: float, heavy: str = "ab", idle: str = "idle", workers: int = 1
) -> Fleet:
    """Lines that fill all slots, and who asks now and then once the first answers have ended."""
    cost = PROFILES["llama-65b-ascend"].cost
    rng, tokens = random.Random(2), answer_s / cost.decode_s(slots)
    asks_s = [2.0 * answer_s + 3.0 * k + rng.uniform(0.0, 2.0) for k in range(10)]
    count = int(workers * slots * (asks_s[-1] / answer_s + 2.0))
    lengths = [int(tokens * rng.uniform(0.5, 1.5)) for _ in range(count)]
    made = [Request(str(k), 60, n, tenant=heavy[k % len(heavy)]) for k, n in enumerate(lengths)]
    made += [Request(f"idle {k}", 100, 50, at_s, tenant=idle) for k, at_s in enumerate(asks_s)]
    choice = Choice("adaptive", "makespan", workers)
    fleet = assembled(made, [cost] * workers, WorkerSetting(slots), choice)
    fleet.run()
    return fleet


def waits(fleet: Fleet) -> list[tuple[float, float]]:
    """Of whoever asks now and then: until somebody's end, and from then to the first token.

    The slot of an end is one request's: who asks again before it has come finds the next.
    """
    found, next_s = [], 0.0
    for i, request in enumerate(fleet.requests):
        if request.id.startswith("idle"):
            since_s = max(request.arrival_s, next_s)
            next_s = float(fleet.end_s[fleet.end_s > since_s].min())
            found.append((next_s - request.arrival_s, float(fleet.first_s[i]) - next_s))
    return found


def crowded_row(slots: int, answer_s: float) -> str:
    fleet = crowded(slots, answer_s)
    first_s = np.array(waits(fleet)).sum(axis=1)
    return (
        f"{slots:>5}{answer_s:>9.0f} s{slots / answer_s:>13.1f}{np.median(first_s):>10.2f}"
        f"{first_s.max():>9.2f}{report(fleet).generation_tokens_per_s:>10.0f}"
    )


def main() -> None:
    """Print a table a trace; how many requests each has may be said, and the seed of their lots."""
    count, seed = (*map(int, sys.argv[1:3]), *(1500, 0)[len(sys.argv) - 1 :])
    for trace in TRACES:
        requests = traffic(trace, count, seed)
        print(f"{trace}, {len(requests)} requests, {WORKERS} workers of {SLOTS} slots")
        print(
            f"{'':<16}{'difference':>11}{'Jain':>8}{'tokens/s':>10}{'cached':>8}{'makespan':>10}"
            f"{'light p50':>9}{'p99':>9}{'e2e':>10}"
        )
        for name in DISPATCHERS:
            print(row(name, requests), flush=True)
    print(f"workers slots  {'':<10}{'difference':>11}{'worst':>8}{'tokens/s':>10}{'worst':>8}")
    for workers, slots, policy in DRAWN:
        print(drawn_row(workers, slots, policy), flush=True)
    print(f"slots{'answers':>11}{'ends/s':>13}{'first p50':>10}{'most':>9}{'tokens/s':>10}")
    for slots, answer_s in CROWDED:
        print(crowded_row(slots, answer_s), flush=True)


if __name__ == "__main__":
    main()
