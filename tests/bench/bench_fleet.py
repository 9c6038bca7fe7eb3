"""Policies and dispatchers on public traces, A100 and H100: who is how far from the best.

    .venv/bin/python -m tests.bench.bench_fleet policies
    .venv/bin/python -m tests.bench.bench_fleet dispatchers [--full]
    .venv/bin/python -m tests.bench.bench_fleet unequal
    .venv/bin/python -m tests.bench.bench_fleet prefixes

Load is relative to what the fleet could do at most by the lower bound; at 60, 85 and 100 % requests
arrive at random (Poisson), as one batch all at once. All workers order their queues alike, and
output lengths are predicted from what has ended. Each row compares the one named with the best of
the others in that column: below 1 it is better. `--full` prints every run. `unequal` and `prefixes`
print seconds: ours beside those it must beat, on workers of unequal speed and on prefix caches.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from statistics import geometric_mean

from router.lab.simulation.loads import requests_per_s
from router.lab.simulation.pool import over
from router.lab.simulation.traces import dataset
from solver.batching.policies import POLICIES
from solver.cost.model import CostModel
from solver.cost.profiles import PROFILES
from solver.routing.dispatchers import DISPATCHERS, FOR_TENANTS, dispatcher
from solver.sim.fleet import Fleet
from solver.sim.forecast import length_forecaster
from solver.sim.report import Report, report
from solver.sim.request import Request
from solver.sim.worker import Worker, WorkerSetting
from solver.sim.workload import all_at_once, poisson

TRACES = ("azure-conv", "mooncake", "servegen-m-large")
HARDWARE = ("llama-2-70b-a100-tp4", "llama-2-70b-h100-tp8")
LOADS = (0.6, 0.85, 1.0, 0.0)  # 0: one batch
EQUAL, UNEQUAL = (1.0,), (1.5, 1.0, 1.0, 0.5)
# Enough to fill every slot several times over, and what a trace has at most.
REQUESTS_A_WORKER, LEAST, MOST = 320, 2000, 20_000
Measure = Callable[[Report], float]
MEASURES: dict[str, Measure] = {
    "makespan": lambda r: r.makespan_s,
    "utilization": lambda r: 1 / r.utilization,
    "TTFT p50": lambda r: r.ttft_s["p50"],
    "TTFT p99": lambda r: r.ttft_s["p99"],
    "TPOT p50": lambda r: r.tpot_s["p50"],
    "TPOT p99": lambda r: r.tpot_s["p99"],
    "E2E mean": lambda r: r.e2e_s["mean"],
    "E2E p99": lambda r: r.e2e_s["p99"],
}


@dataclass(frozen=True, slots=True)
class Case:
    """One simulation."""

    trace: str
    hardware: str
    workers: int
    speeds: tuple[float, ...]
    load: float
    policy: str
    dispatch: str
    whole: bool = False  # the whole trace, not only what fills the slots several times over

    @property
    def situation(self) -> tuple[str, str, int, tuple[float, ...], float]:
        """All but the choice that is compared."""
        return self.trace, self.hardware, self.workers, self.speeds, self.load

    @property
    def load_name(self) -> str:
        return f"{self.load:.0%}" if self.load else "batch"


def run(case: Case) -> Report:
    profile = PROFILES[case.hardware]
    speeds = [case.speeds[j % len(case.speeds)] for j in range(case.workers)]
    costs = [profile.cost.scaled(1 / speed) for speed in speeds]
    requests = traffic(case, costs, profile.slots)
    hashed = any(request.hash_ids for request in requests)
    setting = WorkerSetting(profile.slots, profile.kv_tokens, prefix_cache=hashed)
    workers = [
        Worker(f"w{j}", cost, setting, POLICIES[case.policy]()) for j, cost in enumerate(costs)
    ]
    chosen = dispatcher(case.dispatch, random.Random(0))
    fleet = Fleet(requests, workers, chosen, length_forecaster("predicted", 0))
    fleet.run()
    return report(fleet)


def traffic(case: Case, costs: Sequence[CostModel], slots: int) -> list[Request]:
    requests, _ = dataset(case.trace)
    # Caches fill up over a whole trace.
    if not case.whole and (case.workers == 1 or not requests[0].hash_ids):
        requests = requests[: max(LEAST, min(MOST, REQUESTS_A_WORKER * case.workers))]
    return at_load(requests, costs, slots, case.load) if case.load else all_at_once(requests)


def at_load(
    requests: Sequence[Request], costs: Sequence[CostModel], slots: int, load: float
) -> list[Request]:
    """Arriving at random, at this share of what such workers can do at most."""
    rate = load * requests_per_s(requests, costs, slots)
    return poisson(requests, rate, random.Random(0))


def compare(cases: Sequence[Case], ours: Callable[[Case], bool], *, full: bool) -> None:
    results = dict(zip(cases, over(run, cases, "runs"), strict=True))
    if full:
        for case, found in results.items():
            figures = " ".join(f"{measure(found):>9.3f}" for measure in MEASURES.values())
            speeds = "equal" if case.speeds == EQUAL else "unequal"
            print(
                f"{case.trace:<17}{case.hardware:<22}{case.workers:>3} {speeds:<8}"
                f"{case.load_name:<6} {case.policy:<14}{case.dispatch:<15}{figures}"
            )
    head = "".join(f"{name:>18}" for name in MEASURES)
    print(f"\n{'trace':<18}{'hardware':<22}{'load':<7}{head}")

    def group(situation: tuple[str, str, int, tuple[float, ...], float]) -> tuple[str, str, float]:
        return situation[0], situation[1], -situation[4] if situation[4] else -9.0

    situations = sorted({case.situation for case in cases}, key=group)
    for _, together in groupby(situations, key=group):
        rows = [_ratios(results, situation, ours) for situation in together]
        _print_row(rows)


@dataclass(frozen=True, slots=True)
class Ratios:
    """Ours over the best of the others, a measure each; and who that was."""

    case: Case
    values: dict[str, float]
    best: dict[str, str]


def _ratios(
    results: dict[Case, Report],
    situation: tuple[str, str, int, tuple[float, ...], float],
    ours: Callable[[Case], bool],
) -> Ratios:
    here = {case: found for case, found in results.items() if case.situation == situation}
    own = next(case for case in here if ours(case))
    others = [case for case in here if case != own]
    values, best = {}, {}
    for name, measure in MEASURES.items():
        rival = min(others, key=lambda case: measure(here[case]))
        values[name] = max(measure(here[own]), 1e-9) / max(measure(here[rival]), 1e-9)
        best[name] = rival.policy if rival.dispatch == own.dispatch else rival.dispatch
    return Ratios(own, values, best)


def _print_row(rows: Sequence[Ratios]) -> None:
    """Geometric mean over the situations, and the worst."""
    case = rows[0].case
    cells = []
    for name in MEASURES:
        values = [row.values[name] for row in rows]
        cell = f"{geometric_mean(values):.3f}"
        if len(values) > 1:
            cell += f" ({min(values):.2f}-{max(values):.2f})"
        cells.append(f"{cell:>18}")
    print(f"{case.trace:<18}{case.hardware:<22}{case.load_name:<7}{''.join(cells)}")


def policies() -> Iterable[Case]:
    for trace, hardware, load, policy in product(TRACES, HARDWARE, LOADS, POLICIES):
        yield Case(trace, hardware, 1, EQUAL, load, policy, "round-robin")


def dispatchers() -> Iterable[Case]:
    fleets = ((4, EQUAL), (16, EQUAL), (16, UNEQUAL), (64, EQUAL))
    for trace, hardware, (workers, speeds), load, dispatch in product(
        TRACES, HARDWARE, fleets, LOADS, sorted(DISPATCHERS.keys() - FOR_TENANTS)
    ):
        yield Case(trace, hardware, workers, speeds, load, "adaptive", dispatch)


def unequal() -> Iterable[Case]:
    speeds = (UNEQUAL, (2.0, 1.0, 1.0, 0.5), (0.5, 1.0, 2.0))
    names = ("makespan", "least-tokens", "power-of-two")
    traces = ("azure-conv", "servegen-m-large")
    for trace, hardware, kind, name in product(traces, HARDWARE, speeds, names):
        yield Case(trace, hardware, 4, kind, 0.85, "adaptive", name, whole=True)


def prefixes() -> Iterable[Case]:
    fleets = ((4, EQUAL), (16, EQUAL), (16, UNEQUAL))
    for hardware, (workers, kind), load in product(HARDWARE, fleets, LOADS[:3]):
        for name in ("makespan", "prefix-aware"):
            yield Case("mooncake", hardware, workers, kind, load, "adaptive", name)


def seconds(cases: Sequence[Case]) -> None:
    heads = ("makespan", "E2E mean", "E2E p99", "TTFT mean", "TTFT p99", "cached")
    print(f"{'':<72}" + "".join(f"{head:>10}" for head in heads))
    for case, r in zip(cases, over(run, cases, "runs"), strict=True):
        figures = (r.makespan_s, r.e2e_s["mean"], r.e2e_s["p99"], r.ttft_s["mean"], r.ttft_s["p99"])
        cells = "".join(f"{figure:>10.2f}" for figure in figures)
        speeds = " ".join(f"{speed:g}" for speed in case.speeds)
        print(
            f"{case.trace:<17}{case.hardware[12:]:<10}{case.workers:>3} x {speeds:<14}"
            f"{case.load_name:<7}{case.dispatch:<18}{cells}{r.cache_hit_ratio:>10.3f}"
        )


def main() -> None:
    what, *flags = sys.argv[1:] or ["policies"]
    real = [name for name in TRACES if dataset(name)[1]]
    print(f"real traces: {', '.join(real) or 'none, all are generated'}")
    if what in ("unequal", "prefixes"):
        seconds(list({"unequal": unequal, "prefixes": prefixes}[what]()))
    elif what == "policies":
        print("adaptive over the best other policy, one worker")
        compare(list(policies()), lambda c: c.policy == "adaptive", full="--full" in flags)
    else:
        print("makespan over the best other dispatcher; 4, 16, 16 unequal and 64 workers")
        compare(list(dispatchers()), lambda c: c.dispatch == "makespan", full="--full" in flags)


if __name__ == "__main__":
    main()
