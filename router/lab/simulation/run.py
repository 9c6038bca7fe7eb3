"""From settings to a simulation: requests, workers, dispatcher, and the report of what happened."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from math import inf

from router.lab.simulation.traces import read
from router.settings.hardware import hardware
from router.settings.offline import Traffic
from solver.batching.policies import POLICIES
from solver.routing.dispatchers import dispatcher
from solver.sim.fleet import Fleet
from solver.sim.forecast import length_forecaster
from solver.sim.request import Request
from solver.sim.schedule import ScheduleLine
from solver.sim.worker import Worker, WorkerSetting
from solver.sim.workload import all_at_once, poisson

Record = Callable[[ScheduleLine], None]


@dataclass(frozen=True, slots=True)
class Choice:
    """What a run is about."""

    policy: str
    dispatch: str
    workers: int


def load(traffic: Traffic) -> list[Request]:
    """The requests, arriving as the settings say."""
    requests = read(traffic.requests, traffic.limits)[: traffic.limit]
    kind, _, rate = traffic.arrivals.partition(":")
    if kind == "all-at-once":
        return all_at_once(requests)
    if kind == "poisson":
        return poisson(requests, float(rate), random.Random(f"{traffic.seed}/arrivals"))
    return requests


def setting(traffic: Traffic, requests: Sequence[Request]) -> WorkerSetting:
    """What the workers are like."""
    known = hardware(traffic.cost)
    hashed = any(request.hash_ids for request in requests)
    return WorkerSetting(
        slots=traffic.slots or known.slots,
        kv_tokens=traffic.kv_tokens or known.kv_tokens,
        prefill_budget=traffic.prefill_budget or inf,
        order=traffic.order,
        prefix_cache=traffic.prefix_cache and hashed,
    )


def fleet(
    traffic: Traffic, requests: Sequence[Request], choice: Choice, record: Record | None = None
) -> Fleet:
    """Ready to run."""
    cost, alike = hardware(traffic.cost).cost, setting(traffic, requests)
    speeds = islice(cycle(traffic.speed), choice.workers)
    workers = [
        Worker(f"w{j}", cost.scaled(1 / speed), alike, POLICIES[choice.policy](), record)
        for j, speed in enumerate(speeds)
    ]
    rng = random.Random(f"{traffic.seed}/dispatch")
    lengths = length_forecaster(traffic.lengths, traffic.seed)
    return Fleet(requests, workers, dispatcher(choice.dispatch, rng, traffic.order), lengths)
