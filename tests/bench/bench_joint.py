"""What joint plans of windows save: over the bound, and beside plans made one after the other.

    .venv/bin/python -m tests.bench.bench_joint [--seeds N]

Windows are drawn from the generators, with somebody waiting for each request (targets) or in bulk,
for workers of Llama-2-70B on A100 of speeds 1.5, 1, 1 and 1/2 that are 30 to 105 % busy. Prints
request-seconds over the best bound that was proven, for the first plan and for the joint one, after
`DEADLINE_S` of CPU time and when nothing helped any more; how much of its distance to its own
bound the first plan lost by that (`solver.routing.joint.SAVED_SHARE`); and CPU milliseconds.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean

import numpy as np

from solver.batching.priority import Priority
from solver.batching.targets import DEFAULT_TARGETS, NO_TARGETS, Targets
from solver.cost.profiles import PROFILES
from solver.routing.assign import assign
from solver.routing.check import check
from solver.routing.columns import Load, Requests, table, water_level_s
from solver.routing.joint import Question, improvements, warm_up
from solver.routing.problem import Job, WorkerView
from solver.sim import workload
from solver.sim.workload import Workload

SIZES = tuple(product((8, 16, 64), (4, 16)))
KINDS: dict[str, Workload] = {
    "azure-conv": workload.azure_conv,
    "gsm8k": workload.gsm8k,
    "sharegpt": workload.sharegpt,
}
PEOPLE = DEFAULT_TARGETS[Priority.INTERACTIVE]
SPEEDS = (1.5, 1.0, 1.0, 0.5)
PROFILE = PROFILES["llama-2-70b-a100-tp4"]
DEADLINE_S = 0.05
SEEDS = 10


@dataclass(frozen=True, slots=True)
class Row:
    """Of one window: totals over the best bound, the share saved, and CPU seconds."""

    first: float
    in_time: float
    joint: float
    saved: float
    first_s: float
    joint_s: float


def window(kind: str, requests: int, workers: int, targets: Targets, seed: int) -> Question:
    """Requests of one kind, and workers that have something to do already."""
    rng = random.Random(f"{kind}/{requests}/{workers}/{seed}")
    drawn = KINDS[kind](requests, rng)
    mean = fmean(request.output_tokens for request in drawn)
    jobs = [
        Job(
            request.prompt_tokens,
            (expected := (request.output_tokens * mean) ** 0.5),  # halfway to knowing nothing
            overrun_tokens=expected * rng.uniform(0.5, 2.0),
            targets=targets,
        )
        for request in drawn
    ]
    busy = rng.uniform(0.3, 1.05)
    views = [worker(SPEEDS[j % len(SPEEDS)], busy, jobs, rng) for j in range(workers)]
    prompt, output = sum(j.prompt_tokens for j in jobs), sum(j.expected_tokens for j in jobs)
    return Question(
        Requests.of(jobs, [rng.uniform(0.0, 0.1) for _ in jobs], workers),
        Load.of(
            views,
            np.array([(rng.uniform(0.0, 8.0), rng.uniform(0.0, 0.4)) for _ in views]).T,
            water_level_s(len(jobs), prompt, output, table(views)),
        ),
    )


def worker(speed: float, busy: float, jobs: Sequence[Job], rng: random.Random) -> WorkerView:
    """One that runs such jobs, half done."""
    left = fmean(job.expected_tokens for job in jobs) / 2
    context = fmean(job.prompt_tokens for job in jobs) + left
    most = min(PROFILE.slots, int(PROFILE.kv_tokens / context))
    in_flight = round(most * busy * rng.uniform(0.85, 1.15))
    running = min(in_flight, most)
    cost = PROFILE.cost.scaled(1 / speed)
    full = in_flight >= most
    return WorkerView(
        cost=cost,
        slots=PROFILE.slots,
        in_flight=in_flight,
        backlog_s=in_flight * left * cost.decode_s(max(1, running)) / max(1, running),
        prefill_s=rng.choice([0.0, 0.2]),
        kv_free=None,
        running=running,
        left_tokens=left * rng.uniform(0.7, 1.3),
        kv_tokens=running * context,
        kv_now=PROFILE.kv_tokens - running * context,
        room=0 if full and most < PROFILE.slots else max(0, PROFILE.slots * 9 // 8 - in_flight),
    )


def measure(asked: Question) -> Row | None:
    """None where nobody could be planned."""
    start = time.process_time()
    plan = assign(asked.requests, asked.load)
    first_s = time.process_time() - start
    if plan.planned < 2:
        return None
    start, in_time, joint = time.process_time(), plan, plan
    for joint in improvements(asked, plan):
        if time.process_time() - start <= DEADLINE_S:
            in_time = joint
    joint_s = time.process_time() - start
    check(asked, joint)
    bound_s = joint.bound_s
    saved = (plan.total_s - in_time.total_s) / max(plan.gap_s, 1e-9)
    alone, timely, last = (found.total_s / bound_s - 1 for found in (plan, in_time, joint))
    return Row(alone, timely, last, saved, first_s, joint_s)


def main() -> None:
    """Print a row for each kind and size."""
    seeds = int(sys.argv[sys.argv.index("--seeds") + 1]) if "--seeds" in sys.argv else SEEDS
    warm_up()
    heads = ("first", "joint 50 ms", "joint", "saved", "first ms", "joint ms")
    print(f"{'requests x workers':<34}" + "".join(f"{head:>13}" for head in heads))
    for (name, targets), kind in product((("people", PEOPLE), ("bulk", NO_TARGETS)), KINDS):
        for n, m in SIZES:
            windows = (window(kind, n, m, targets, seed) for seed in range(seeds))
            rows = [row for asked in windows if (row := measure(asked)) is not None]
            if rows:
                print(f"{f'{name}, {kind}, {n} x {m}':<34}" + _cells(rows), flush=True)


def _cells(rows: Sequence[Row]) -> str:
    def mean(name: str) -> float:
        return fmean(getattr(row, name) for row in rows)

    ratios = "".join(f"{mean(name):>13.1%}" for name in ("first", "in_time", "joint", "saved"))
    return ratios + "".join(f"{mean(name) * 1e3:>13.1f}" for name in ("first_s", "joint_s"))


if __name__ == "__main__":
    main()
