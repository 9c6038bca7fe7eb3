"""A million requests on 64 workers in virtual time: how long, and how much memory.

    .venv/bin/python -m tests.bench.bench_million [REQUESTS]

ServeGen's requests over and over, at random times and 85 % of what the fleet can do; our dispatcher
and policy, output lengths unknown.
"""

from __future__ import annotations

import random
import resource
import sys
import time

from router.lab.simulate import progress
from router.lab.simulation.traces import dataset
from solver.batching.policies import POLICIES
from solver.cost.profiles import PROFILES
from solver.routing.dispatchers import dispatcher
from solver.sim.fleet import Fleet
from solver.sim.forecast import length_forecaster
from solver.sim.report import report
from solver.sim.request import Request
from solver.sim.worker import Worker, WorkerSetting
from solver.sim.workload import poisson

WORKERS, RATE = 64, 630.0


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    trace, real = dataset("servegen-m-large")
    again = (trace[k % len(trace)] for k in range(count))
    same = [Request(str(k), r.prompt_tokens, r.output_tokens) for k, r in enumerate(again)]
    requests = poisson(same, RATE, random.Random(0))
    profile = PROFILES["llama-2-70b-h100-tp8"]
    setting = WorkerSetting(profile.slots, profile.kv_tokens)
    workers = [
        Worker(f"w{j}", profile.cost, setting, POLICIES["adaptive"]()) for j in range(WORKERS)
    ]
    chosen = dispatcher("makespan", random.Random(0))
    fleet = Fleet(requests, workers, chosen, length_forecaster("unknown", 0))
    start = time.perf_counter()
    with progress(count, "requests") as advanced:
        fleet.run(advanced)
    took = time.perf_counter() - start
    found = report(fleet)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    iterations = found.prefill_stages + found.decode_rounds + found.mixed_iterations
    print(f"{count:,} requests ({'real' if real else 'generated'} lengths) on {WORKERS} workers")
    print(f"{took:.0f} s, {peak:.2f} GiB; {iterations:,} iterations of {found.makespan_s:,.0f} s")
    print(f"makespan {found.gap_ratio:.2%} over the bound, utilization {found.utilization:.1%}, ")
    print(f"time to first token p50 {found.ttft_s['p50']:.3f} s, p99 {found.ttft_s['p99']:.3f} s")


if __name__ == "__main__":
    main()
