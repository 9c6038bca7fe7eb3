"""Late binding: what realised makespans come to when output lengths are known only roughly.

    python -m tests.bench.bench_rolling [--seeds N]

Workers serve one request at a time, and time is proportional to output tokens. Lengths are drawn
with GSM8K's mean and deviation (lognormal), all requests come at once, and each prediction is the
length times exp(0.5 z), z standard normal; what is then planned with is the posterior mean, given
that earlier traffic has told mean, deviation and how far predictions are off
(`solver.sim.forecast.PosteriorLengths`). Prints the time until all is done over the proven lower
bound with known lengths, and for comparison the best plan that knows them: unequal workers have
speeds 1/2, 1 and 2 dealt out, and backlogs are one request each, begun before.

The rivals that bind early place everything at the start by the same predictions; `rolling` is the
simulator's `Makespan`, the same object that the gateway drives.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean

import numpy as np

from solver.batching.policies import POLICIES
from solver.batching.priority import Priority
from solver.cost.model import CostModel
from solver.packing.pipeline import first_plan
from solver.packing.problem import Problem
from solver.routing.dispatchers.base import Arrival, Ended, Placement, Workers
from solver.routing.dispatchers.makespan import Makespan
from solver.sim.fleet import Fleet
from solver.sim.forecast import LengthForecaster, PosteriorLengths
from solver.sim.request import Request
from solver.sim.worker import Worker, WorkerSetting
from tests.bench.bench_dispatch import planned, round_robin

SIZES = ((64, 16), (200, 8), (500, 32), (1319, 200))
SPEEDS = {"equal": (1.0,), "unequal": (0.5, 1.0, 2.0)}
MEAN, DEVIATION = 345.0, 188.0  # GSM8K's outputs: solver/README.md section 6
SIGMA = 0.5
TOKEN_S = 0.03  # any; results are ratios
COST = CostModel(0.0, 0.0, TOKEN_S, 0.0)


@dataclass(frozen=True, slots=True)
class Draw:
    """One set of requests, and of workers. The first `backlog` requests are begun already."""

    lengths: Sequence[int]
    speeds: Sequence[float]
    backlog: int
    seed: int

    def problem(self, tokens: Sequence[float]) -> Problem:
        """Placing the new requests, were these the lengths."""
        seconds = TOKEN_S * np.asarray(tokens)[:, None] / np.asarray(self.speeds)
        initial = np.diagonal(seconds[: self.backlog]) if self.backlog else None
        return Problem.of(seconds[self.backlog :], initial)

    def expected(self) -> list[float]:
        """All lengths, as predicted."""
        told = self.knowledge()
        return [told.forecast(request).tokens for request in self.requests()]

    def knowledge(self) -> LengthForecaster:
        return PosteriorLengths(SIGMA, random.Random(f"{self.seed}/noise"), MEAN, DEVIATION)

    def requests(self) -> list[Request]:
        return [
            Request(str(k), 1, length, priority=Priority.BULK)
            for k, length in enumerate(self.lengths)
        ]


def draw(requests: int, workers: int, speeds: Sequence[float], seed: int, backlog: bool) -> Draw:
    rng = random.Random(seed)
    deviation = np.log1p((DEVIATION / MEAN) ** 2) ** 0.5
    middle = np.log(MEAN) - deviation**2 / 2
    begun = workers if backlog else 0
    lengths = [
        max(1, round(rng.lognormvariate(middle, deviation))) for _ in range(requests + begun)
    ]
    dealt = [speeds[j % len(speeds)] for j in range(workers)]
    return Draw(lengths, dealt, begun, seed)


Static = Callable[[Problem], Sequence[int]]


def least_queue(problem: Problem) -> list[int]:
    """In order of arrival, to where it ends soonest."""
    return _in_order(problem, range(problem.requests))


def longest_first(problem: Problem) -> list[int]:
    return _in_order(problem, np.argsort(-problem.cost_s.min(axis=1), kind="stable").tolist())


def _in_order(problem: Problem, order: Sequence[int]) -> list[int]:
    load, chosen = problem.initial_s.copy(), [0] * problem.requests
    for i in order:
        chosen[i] = j = int((load + problem.cost_s[i]).argmin())
        load[j] += problem.cost_s[i, j]
    return chosen


STATIC: dict[str, Static] = {
    "round robin": round_robin,
    "least expected queue": least_queue,
    "longest first, static": longest_first,
    "optimal, static": planned,
}


def finish_s(problem: Problem, assignment: Sequence[int]) -> float:
    load = problem.initial_s.copy()
    np.add.at(load, list(assignment), problem.cost_s[range(problem.requests), list(assignment)])
    return float(load.max())


class Begun:
    """Ours, on workers that have one request each already."""

    def __init__(self, count: int) -> None:
        self._count, self._begun, self._rest = count, list[Arrival](), Makespan()

    def arrive(self, arrival: Arrival, now: float) -> None:
        if arrival.number < self._count:
            self._begun.append(arrival)
        else:
            self._rest.arrive(arrival, now)

    def poll(self, now: float, workers: Workers) -> Iterator[Placement]:
        for arrival in self._begun:
            yield arrival, arrival.number
        self._begun.clear()
        yield from self._rest.poll(now, workers)

    def next_deadline(self) -> float | None:
        return self._rest.next_deadline()

    def ended(self, ended: Ended, now: float) -> None:
        self._rest.ended(ended, now)


def rolling(case: Draw, told: LengthForecaster) -> float:
    """Makespan of the simulator's own run."""
    workers = [
        Worker(f"w{j}", COST.scaled(1 / speed), WorkerSetting(1), POLICIES["adaptive"]())
        for j, speed in enumerate(case.speeds)
    ]
    fleet = Fleet(case.requests(), workers, Begun(case.backlog), told)
    fleet.run()
    return float(fleet.end_s.max())


def ratios(case: Draw) -> list[float]:
    """Of each rival, of ours, and of the best plan that knows the lengths."""
    true = case.problem(case.lengths)
    plan = first_plan(true)
    assert plan is not None
    guess = case.problem(case.expected())
    found = [finish_s(true, rule(guess)) for rule in STATIC.values()]
    found.append(rolling(case, case.knowledge()))
    return [value / plan.lower_bound_s for value in [*found, plan.makespan_s]]


def main() -> None:
    seeds = int(sys.argv[2]) if sys.argv[1:2] == ["--seeds"] else 10
    names = [*STATIC, "rolling", "best plan, known"]
    print(f"makespan over the lower bound with known lengths, mean of {seeds} seeds")
    print(f"{'requests x workers':<32}" + "".join(f"{name:>24}" for name in names))
    for (n, m), (kind, speeds), backlog in product(SIZES, SPEEDS.items(), (False, True)):
        rows = [ratios(draw(n, m, speeds, seed, backlog)) for seed in range(seeds)]
        label = f"{n} x {m} {kind}{', backlogs' if backlog else ''}"
        cells = "".join(f"{fmean(column):>24.3f}" for column in zip(*rows, strict=True))
        print(f"{label:<32}{cells}", flush=True)


if __name__ == "__main__":
    main()
