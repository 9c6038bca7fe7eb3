"""The simulator against queues whose mean waiting time is known, and Little's law in every run."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import factorial

import numpy as np
import pytest
from hypothesis import given, settings

from solver.arrays import FloatArray
from solver.batching.policies import POLICIES
from solver.cost.model import CostModel
from solver.routing.dispatchers import dispatcher
from solver.sim.fleet import Fleet
from solver.sim.forecast import length_forecaster
from solver.sim.request import Request
from solver.sim.worker import Worker, WorkerSetting
from tests.solver.sim.drive import Run, Way, simulate
from tests.solver.sim.test_simulation import cases, fleets

ROUND_S = 0.001  # a decode round, whatever decodes in it: beta = gamma = 0
MEAN_TOKENS = 1000
BATCHES, BATCH, WARM_UP = 50, 200, 500  # requests
# Student's t with 48 degrees of freedom, both tails: 2e-5. Six intervals fail by chance with 1e-4.
T = 4.73


def geometric(rng: np.random.Generator, n: int) -> FloatArray:
    """As good as exponential: a grid of a thousandth of the mean."""
    return rng.geometric(1 / MEAN_TOKENS, n).astype(float)


def uniform(rng: np.random.Generator, n: int) -> FloatArray:
    return rng.integers(1, 2 * MEAN_TOKENS, n).astype(float)  # the end is left out


def constant(_: np.random.Generator, n: int) -> FloatArray:
    return np.full(n, float(MEAN_TOKENS))


def mostly_short(rng: np.random.Generator, n: int) -> FloatArray:
    """One of ten is 16 times as long as the others."""
    return np.where(rng.random(n) < 0.1, 6400.0, 400.0)


@dataclass(frozen=True)
class Queue:
    """Poisson arrivals, one queue before each of `workers`, in the order of arrival.

    A worker with one slot serves a request for exactly ``prefill_s + tokens * ROUND_S`` seconds and
    begins the next at once: an M/G/1 queue. A worker with c slots and free prefills serves
    each of up to c requests for ``tokens * ROUND_S`` seconds, as all decode in one round of a fixed
    length: an M/M/c queue if tokens are geometric, but that a request which finds a free slot
    beside others waits for the end of their round. A dispatcher that throws dice thins the arrivals
    into independent Poisson streams.

    Attributes:
        variance: of the output tokens.
        busy: how much of the slots' time is needed.
    """

    draw: Callable[[np.random.Generator, int], FloatArray]
    variance: float
    busy: float
    prefill_s: float = 0.0
    slots: int = 1
    workers: int = 1

    @property
    def service_s(self) -> float:
        """Mean seconds in a slot."""
        return self.prefill_s + MEAN_TOKENS * ROUND_S

    @property
    def rate(self) -> float:
        """Arrivals a second at each worker."""
        return self.busy * self.slots / self.service_s

    def wait_s(self, speed: float = 1.0) -> float:
        """Pollaczek and Khinchine's mean wait for one slot that is so many times as fast."""
        square = (self.service_s**2 + self.variance * ROUND_S**2) / speed**2
        return self.rate * square / 2 / (1 - self.rate * self.service_s / speed)

    def erlang_wait_s(self) -> float:
        """Erlang's mean wait for one of several slots (his formula C), of exponential services."""
        offered, c = self.rate * self.service_s, self.slots
        all_busy = offered**c / factorial(c) / (1 - self.busy)
        some_free = sum(offered**k / factorial(k) for k in range(c))
        return all_busy / (some_free + all_busy) / (c / self.service_s - self.rate)

    def measured(self, seed: int) -> tuple[float, float]:
        """The interval for the simulator's mean wait, in seconds.

        By batch means. Most of a batch's deviation is its traffic's, so what one faster slot makes
        of the same traffic, which is known in the mean, is taken out by regression.
        """
        rng, n = np.random.default_rng(seed), WARM_UP + BATCHES * BATCH
        tokens = self.draw(rng, n)
        arrival_s = np.cumsum(rng.exponential(1 / (self.rate * self.workers), n))
        fleet = self._simulated(tokens, arrival_s, seed)
        service_s = self.prefill_s + tokens * ROUND_S
        waits_s, faster_s = fleet.end_s - arrival_s - service_s, np.empty(n)
        speed = 1.1 if self.slots == 1 else self.slots
        for j in range(self.workers):
            mine = fleet.placed == j
            faster_s[mine] = one_slot(arrival_s[mine], service_s[mine] / speed)
        return interval(waits_s, faster_s - self.wait_s(speed))

    def _simulated(self, tokens: FloatArray, arrival_s: FloatArray, seed: int) -> Fleet:
        requests = [
            Request(str(k), 1, int(length), float(at))
            for k, (length, at) in enumerate(zip(tokens, arrival_s, strict=True))
        ]
        cost = CostModel(self.prefill_s, 0.0, ROUND_S, 0.0)
        setting = WorkerSetting(self.slots, order="fcfs")
        policy = POLICIES["prefill-first"]
        workers = [Worker(f"w{j}", cost, setting, policy()) for j in range(self.workers)]
        dice = dispatcher("random", random.Random(seed))
        fleet = Fleet(requests, workers, dice, length_forecaster("known", 0))
        fleet.run()
        return fleet


def one_slot(arrival_s: FloatArray, service_s: FloatArray) -> list[float]:
    """How long each waits for one slot, in the order of arrival (Lindley)."""
    waits, free_s = [], 0.0
    for at, takes in zip(arrival_s.tolist(), service_s.tolist(), strict=True):
        begins = max(at, free_s)
        waits.append(begins - at)
        free_s = begins + takes
    return waits


def interval(values: FloatArray, control: FloatArray) -> tuple[float, float]:
    """For the mean of `values`, by batches and their regression on a control of mean zero."""
    means, beside = (row[WARM_UP:].reshape(BATCHES, BATCH).mean(1) for row in (values, control))
    design = np.stack([np.ones(BATCHES), beside], axis=1)
    found = np.linalg.lstsq(design, means, rcond=None)[0]
    variance = ((means - design @ found) ** 2).sum() / (BATCHES - 2)
    half = T * float(np.sqrt(variance * np.linalg.inv(design.T @ design)[0, 0]))
    return found[0] - half, found[0] + half


EXPONENTIAL = (1 - 1 / MEAN_TOKENS) * MEAN_TOKENS**2
UNIFORM = ((2 * MEAN_TOKENS - 1) ** 2 - 1) / 12
MOSTLY_SHORT = 0.1 * 0.9 * 6000**2
QUEUES: dict[str, tuple[Queue, Callable[[Queue], float]]] = {
    "M/D/1": (Queue(constant, 0.0, busy=0.6), Queue.wait_s),
    "M/U/1": (Queue(uniform, UNIFORM, busy=0.6, prefill_s=0.5), Queue.wait_s),
    "M/M/1": (Queue(geometric, EXPONENTIAL, busy=0.5), Queue.wait_s),
    "M/G/1": (Queue(mostly_short, MOSTLY_SHORT, busy=0.5), Queue.wait_s),
    "two M/M/1": (Queue(geometric, EXPONENTIAL, busy=0.5, workers=2), Queue.wait_s),
    "M/M/3": (Queue(geometric, EXPONENTIAL, busy=0.8, slots=3), Queue.erlang_wait_s),
}


@pytest.mark.parametrize("name", QUEUES)
def test_the_mean_wait_is_the_closed_forms(name: str) -> None:
    """Within an interval so narrow that a simulator which is off by a tenth would be found."""
    queue, formula = QUEUES[name]
    expected, (low, high) = formula(queue), queue.measured(seed=1)
    grid = ROUND_S if queue.slots > 1 else 0.0  # the end of a round is waited for
    assert low - grid <= expected <= high
    assert 0.9 * high < expected < 1.1 * (low - grid), "too wide to find an error"


@given(cases(), fleets)
@settings(max_examples=60)
def test_littles_law(
    case: tuple[list[Request], Way], fleet: tuple[int, tuple[float, ...], str]
) -> None:
    """Requests in the system over time, as the schedule has them, are all their times there.

    And so it is for the slots: what the ledgers book as held is the time from everybody's first
    prefill to the last token.
    """
    requests, way = case
    workers, speeds, dispatch = fleet
    run = simulate(requests, replace(way, workers=workers, speeds=speeds, dispatch=dispatch))
    begins_s, ends_s = spans(run)
    in_system = area([request.arrival_s for request in requests], ends_s)
    report = run.report
    rate, time_s = len(requests) / report.makespan_s, report.e2e_s["mean"]
    assert in_system / report.makespan_s == pytest.approx(rate * time_s)
    booked = report.slot_seconds
    held = booked["prefill"] + booked["decode"] + booked["stalled"]
    assert area(begins_s, ends_s) == pytest.approx(held)


def spans(run: Run) -> tuple[list[float], list[float]]:
    """When each request was first prefilled, and when its last token was made."""
    wanted = {request.id: request.output_tokens for request in run.requests}
    made, begins_s, ends_s = Counter[str](), dict[str, float](), dict[str, float]()
    for line in sorted(run.schedule, key=lambda line: line.end_s):
        for key in line.prefill:
            begins_s[key] = min(line.start_s, begins_s.get(key, line.start_s))
        for key in line.decode:
            made[key] += line.rounds
            if made[key] == wanted[key]:
                ends_s[key] = line.end_s
    return list(begins_s.values()), list(ends_s.values())


def area(enter_s: Sequence[float], leave_s: Sequence[float]) -> float:
    """How many are inside, integrated over time."""
    assert len(enter_s) == len(leave_s)
    steps = sorted([(at, 1) for at in enter_s] + [(at, -1) for at in leave_s])
    inside, last_s, total = 0, 0.0, 0.0
    for at, step in steps:
        total += inside * (at - last_s)
        inside, last_s = inside + step, at
    assert inside == 0
    return total
