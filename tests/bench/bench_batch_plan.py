"""How close to its bound a batch ends: planned as a whole, and sent by a client in other ways.

1,319 prompts of GSM8K, and 5,000 of which each begins like some fifty others, on two and eight
workers, equal and of unequal speed; lengths are unknown at first, and predicted as lines end. A
client has 64, 256 or 1,024 connections open, through our dispatcher or least requests. In virtual
time, so that it prints the same everywhere::

    python -m tests.bench.bench_batch_plan [gsm8k | prefixes | told]

The bound is on the answers as they turn out: no schedule of any kind is done before. Workers are
Llama-2-70B on A100, 32 slots each. Rows `known` say what knowing every length would give: what is
between them and the bound is the bound's, and packing's. ``told`` says how much of the rest nobody
could better: GSM8K on eight workers, its lines in ten orders, with lengths predicted, with their
true distribution told beforehand, and with each one known.
"""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from router.lab.simulation.traces import dataset
from solver.batching.policies import POLICIES
from solver.batching.priority import Priority
from solver.cost.profiles import PROFILES
from solver.lengths.distribution import BINS, LengthDistribution, bin_of
from solver.routing.dispatchers import dispatcher
from solver.routing.dispatchers.base import Arrival, Dispatcher, Ended, Placement, Workers
from solver.sim.bulk import WithBacklog
from solver.sim.fleet import Fleet
from solver.sim.forecast import (
    Forecast,
    LengthForecaster,
    PredictedLengths,
    length_forecaster,
)
from solver.sim.report import report
from solver.sim.request import Request
from solver.sim.worker import Worker, WorkerSetting

HARDWARE, SLOTS = "llama-2-70b-a100-tp4", 32
FLEETS = {
    "2 equal": (1.0, 1.0),
    "2 unequal": (1.5, 0.5),
    "8 equal": (1.0,) * 8,
    "8 unequal": (2.0, 1.0, 1.0, 0.5) * 2,
}
CONNECTIONS = (64, 256, 1024)
BLOCK = 512  # tokens a hash stands for


class Connections:
    """A client that has so many requests open, and sends the next as one is answered."""

    def __init__(self, inner: Dispatcher, most: int) -> None:
        self._inner, self._most, self._open = inner, most, 0
        self._todo: deque[Arrival] = deque()

    def arrive(self, arrival: Arrival, now: float) -> None:
        self._todo.append(arrival)
        self._send(now)

    def poll(self, now: float, workers: Workers) -> Iterator[Placement]:
        self._send(now)
        return self._inner.poll(now, workers)

    def next_deadline(self) -> float | None:
        return self._inner.next_deadline()

    def ended(self, ended: Ended, now: float) -> None:
        self._open -= 1
        self._inner.ended(ended, now)

    def _send(self, now: float) -> None:
        while self._todo and self._open < self._most:
            self._open += 1
            self._inner.arrive(self._todo.popleft(), now)


@dataclass(frozen=True, slots=True)
class Case:
    """One simulation."""

    load: str
    fleet: str
    way: str
    connections: int = 0
    lengths: str = "predicted"


def gsm8k() -> list[Request]:
    found, _ = dataset("gsm8k-llama65b")
    return [replace(one, arrival_s=0.0) for one in found]


def prefixed(count: int = 5000, begins: int = 100) -> list[Request]:
    """Prompts of a system's instructions, a block of tokens, and a question."""
    rng, found = random.Random(3), gsm8k()
    requests = []
    for k in range(count):
        like = found[rng.randrange(len(found))]
        blocks = (rng.randrange(begins), begins + k)
        requests.append(
            Request(str(k), BLOCK + like.prompt_tokens, like.output_tokens, hash_ids=blocks)
        )
    return requests


LOADS = {"gsm8k, 1,319": gsm8k, "prefixes, 5,000": prefixed}


class ToldDistribution:
    """How long answers are, all together, is known from the beginning, and of each nothing else."""

    learned = 0

    def __init__(self, requests: Sequence[Request]) -> None:
        bins = np.bincount([bin_of(one.output_tokens) for one in requests], minlength=BINS)
        most = max(one.output_tokens for one in requests)
        self._all = Forecast.of(LengthDistribution.of(np.maximum(bins, 1e-9), most), None)

    def forecast(self, _: Request) -> Forecast:
        return self._all

    def observe(self, _: Request) -> None:
        pass


def run(case: Case) -> tuple[float, float, float]:
    """Finish, bound, and the share of prompts found in caches."""
    return run_with(case, LOADS[case.load](), length_forecaster(case.lengths, 0))


def run_with(
    case: Case, requests: Sequence[Request], lengths: LengthForecaster
) -> tuple[float, float, float]:
    """The same, of these requests, with what is known of their lengths."""
    known = PROFILES[HARDWARE]
    requests = [replace(one, priority=Priority.BULK) for one in requests]
    inner = dispatcher("makespan" if case.way != "least requests" else "least-requests",
                       random.Random(0))  # fmt: skip
    chosen: Dispatcher = Connections(inner, case.connections) if case.connections else inner
    if case.way == "planned":
        chosen = WithBacklog(inner)
    cached = bool(requests[0].hash_ids)
    setting = WorkerSetting(SLOTS, known.kv_tokens, prefix_cache=cached)
    workers = [
        Worker(f"w{j}", known.cost.scaled(1 / speed), setting, POLICIES["adaptive"]())
        for j, speed in enumerate(FLEETS[case.fleet])
    ]
    fleet = Fleet(requests, workers, chosen, lengths)
    fleet.run()
    found = report(fleet)
    return found.makespan_s, found.lower_bound_s, found.cache_hit_ratio


def ways(load: str, fleet: str) -> list[Case]:
    sent = [
        Case(load, fleet, way, n) for way in ("makespan", "least requests") for n in CONNECTIONS
    ]
    planned = [Case(load, fleet, "planned", lengths=kind) for kind in ("predicted", "known")]
    return [*planned, *sent]


def print_told(orders: int = 10) -> None:
    """Finish over bound on eight workers by what is known of lengths, mean and most of orders."""
    for fleet in ("8 equal", "8 unequal"):
        found: dict[str, list[float]] = {"predicted": [], "distribution told": [], "known": []}
        for seed in range(orders):
            requests = gsm8k()
            random.Random(seed).shuffle(requests)
            ways: list[LengthForecaster] = [
                PredictedLengths(), ToldDistribution(requests), length_forecaster("known", 0)
            ]  # fmt: skip
            for name, lengths in zip(found, ways, strict=True):
                case = Case("gsm8k, 1,319", fleet, "planned")
                finish_s, bound_s, _ = run_with(case, requests, lengths)
                found[name].append(finish_s / bound_s)
        cells = (f"{name} {fmean(own):.3f} (most {max(own):.3f})" for name, own in found.items())
        print(f"{fleet:<11}{', '.join(cells)}", flush=True)


def main() -> None:
    """Print the table row by row, of the loads named: finish over bound, and cache hits."""
    if sys.argv[1:] == ["told"]:
        print_told()
        return
    wanted = [load for load in LOADS if not sys.argv[1:] or sys.argv[1] in load]
    sent = [f"{way[:8]} {n}" for way in ("makespan", "least requests") for n in CONNECTIONS]
    names = ["planned", "known", *sent]
    print(f"{'':<17}{'fleet':<11}{'bound, s':>9}" + "".join(f"{name:>14}" for name in names))
    for load in wanted:
        for fleet in FLEETS:
            found = [run(case) for case in ways(load, fleet)]
            cells = "".join(
                f"{finish / bound:>7.3f}" + (f" {hits:>5.0%} " if hits else " " * 7)
                for finish, bound, hits in found
            )
            print(f"{load:<17}{fleet:<11}{found[0][1]:>9.1f}{cells}", flush=True)


if __name__ == "__main__":
    main()
