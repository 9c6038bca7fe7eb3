"""What a price on stalls gains between tokens, and what it costs: all policies, one engine each.

    .venv/bin/python -m tests.bench.bench_iterations [ENGINE ...]

Each engine serves six traces at 50, 70, 85 and 100 % of what it could do at most, arriving at
random, output lengths predicted. Without targets all requests are bulk work, which nobody waits
for; with them, everybody wants a token each 0.1 s on average. A row has geometric means over the
situations of its figures over those of chunked prefill (`mixed`, 2,048 tokens), its makespan over
the best policy's too; then the worst 99th percentile of any situation, in seconds, of the longest
gap between two tokens of a request, and preemptions in all.

Data: the public files, or what stands in for them; ``code`` is drawn here, with the lengths of
Azure's code completions of 2023 (AzureLLMInferenceTrace_code: prompts 2,048 +- 1,973 of at most
7,437 tokens, answers 28 +- 60).
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import inf, log
from statistics import geometric_mean

from router.lab.simulation.pool import over
from router.lab.simulation.traces import DATASETS, dataset
from solver.batching.policies import POLICIES
from solver.batching.targets import NO_TARGETS, Targets
from solver.cost.profiles import PROFILES, Profile
from solver.routing.dispatchers import dispatcher
from solver.sim.fleet import Fleet
from solver.sim.forecast import length_forecaster
from solver.sim.report import Report, report
from solver.sim.request import Request
from solver.sim.worker import Worker, WorkerSetting
from tests.bench.bench_fleet import at_load

TRACES = (*DATASETS, "code")
LOADS = (0.5, 0.7, 0.85, 1.0)
REQUESTS = 1000
TARGETS = Targets(tpot_s=0.1)
A100 = PROFILES["llama-2-70b-a100-tp4"]
UNMIXED = replace(A100.cost, alpha_m_s=None, beta_mp_s=None, beta_md_s=None)
ENGINES: dict[str, Profile] = {
    "a100": A100,
    "h100": PROFILES["llama-2-70b-h100-tp8"],
    "opt-66b": PROFILES["opt-66b-a100-tp4"],
    "ascend": PROFILES["llama-65b-ascend"],  # exclusive, as the next one
    "a100-exclusive": replace(A100, cost=UNMIXED),
}
CHUNKED = "mixed"
PACED = "adaptive, targets"
NAMES = (*POLICIES, PACED)
Measure = Callable[[Report], float]
MEASURES: dict[str, Measure] = {
    "makespan": lambda r: r.makespan_s,
    "TTFT p50": lambda r: r.ttft_s["p50"],
    "TTFT p99": lambda r: r.ttft_s["p99"],
    "TPOT p99": lambda r: r.tpot_s["p99"],
    "stall p50": lambda r: r.stall_s["p50"],
    "stall p99": lambda r: r.stall_s["p99"],
}


@dataclass(frozen=True, slots=True)
class Case:
    """One simulation, by the names of all that it has."""

    engine: str
    trace: str
    load: float
    name: str


def run(case: Case) -> tuple[Report, float]:
    """What came of it, and CPU seconds."""
    profile = ENGINES[case.engine]
    targets = TARGETS if case.name == PACED else NO_TARGETS
    policy = POLICIES[case.name.partition(",")[0]]()
    requests = at_load(fitting(case.trace, profile), [profile.cost], profile.slots, case.load)
    requests = [replace(request, wanted=targets) for request in requests]
    hashed = any(request.hash_ids for request in requests)
    setting = WorkerSetting(profile.slots, profile.kv_tokens, prefix_cache=hashed)
    worker = Worker("w0", profile.cost, setting, policy)
    chosen = dispatcher("round-robin", random.Random(0))
    fleet = Fleet(requests, [worker], chosen, length_forecaster("predicted", 0))
    began = time.process_time()
    fleet.run()
    return report(fleet), time.process_time() - began


def fitting(trace: str, profile: Profile) -> list[Request]:
    """The first of a trace, without those who would leave no memory to others."""
    requests = code_like(REQUESTS) if trace == "code" else dataset(trace)[0][:REQUESTS]
    most = 0.75 * profile.kv_tokens
    return [one for one in requests if one.prompt_tokens + one.output_tokens <= most]


def code_like(count: int) -> list[Request]:
    rng = random.Random(3)

    def drawn(mean: float, deviation: float, most: float = inf) -> int:
        variance = 1 + (deviation / mean) ** 2
        middle = mean / variance**0.5
        return max(1, round(min(most, rng.lognormvariate(log(middle), log(variance) ** 0.5))))

    return [Request(str(k), drawn(2048, 1973, 7437), drawn(28, 60)) for k in range(count)]


def table(engine: str, results: dict[Case, tuple[Report, float]]) -> None:
    """One engine's rows."""
    situations = list(product(TRACES, LOADS))

    def of(name: str) -> list[Report]:
        return [results[Case(engine, trace, load, name)][0] for trace, load in situations]

    chunked = of(CHUNKED)
    makespans = ([r.makespan_s for r in of(name)] for name in POLICIES)
    best = [min(found) for found in zip(*makespans, strict=True)]
    heads = "".join(f"{name:>10}" for name in (*MEASURES, "over best", "stall, s", "preempted"))
    print(f"\n{engine:<20}{heads}{'CPU, s':>10}")
    for name in NAMES:
        ours = of(name)
        cells = [_ratio(ours, chunked, measure) for measure in MEASURES.values()]
        cells.append(geometric_mean(r.makespan_s / b for r, b in zip(ours, best, strict=True)))
        cells.append(max(r.stall_s["p99"] for r in ours))
        cpu_s = sum(results[Case(engine, trace, load, name)][1] for trace, load in situations)
        row = "".join(f"{cell:>10.3f}" for cell in cells)
        print(f"{name:<20}{row}{sum(r.preemptions for r in ours):>10}{cpu_s:>10.1f}", flush=True)


def _ratio(ours: Sequence[Report], others: Sequence[Report], measure: Measure) -> float:
    pairs = zip(ours, others, strict=True)
    return geometric_mean(max(1e-9, measure(a)) / max(1e-9, measure(b)) for a, b in pairs)


def main() -> None:
    """Print a table an engine."""
    for engine in sys.argv[1:] or ENGINES:
        cases = [Case(engine, *one) for one in product(TRACES, LOADS, NAMES)]
        table(engine, dict(zip(cases, over(run, cases, "runs"), strict=True)))


if __name__ == "__main__":
    main()
